"""The log of a run as a page that follows it in a browser on this machine.

The server is a process of its own that only reads the log, so that it costs the run nothing and can be started from
anywhere. It needs no PyTorch.
"""

from .server import Server, check_installed, serve, serve_here

__all__ = ["Server", "check_installed", "serve", "serve_here"]
