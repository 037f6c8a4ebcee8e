"""Starting and stopping the server: in a process of its own, or here until ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import MissingDependency, UsageError
from ..records.log import is_log

ADDRESS = "127.0.0.1"  # loopback: nobody but this machine
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0


def serve(log_folder: str | os.PathLike[str], *, port: int = 0) -> Server:
    """Serve the log of a run in a process of its own, no child of this one, which ends with it at the latest.

    Args:
        log_folder: of `enxuto run --log` or `watch(log=...)`; the run may still go on.
        port: 0 for any that is free.

    Returns:
        The server; its `url` holds a secret and is all that a browser needs. `close()` it.

    Raises:
        MissingDependency: starlette or uvicorn is not installed.
        UsageError: the folder is no log, or the server cannot start, for instance because the port is in use.
    """
    check_installed()
    _check(log_folder)
    # -P: a file of the user's named like a module of ours must not be imported in its place
    command = [sys.executable, "-P", "-m", __package__, os.path.abspath(log_folder), str(port)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # ctrl-C is for the script
        text=True,
    )
    url, _, process = _first_line(child).partition(" ")
    if not process:
        child.kill()
    child.wait()  # it has made the server its own and is gone
    if not process:
        raise UsageError(
            f"the server did not start (port {port or 'any'}); `enxuto serve {os.fspath(log_folder)}` says why"
        )
    return Server(url, int(process), child)


class Server:
    """A running server; made by `serve`."""

    def __init__(self, url: str, process: int, pipes: subprocess.Popen[str]) -> None:
        self.url = url
        self._process, self._owner = process, os.getpid()
        self._input, self._output = pipes.stdin, pipes.stdout

    def close(self) -> None:
        """Stop it. A process forked from this one leaves it alone."""
        if os.getpid() != self._owner or self._input is None or self._output is None:
            return
        with contextlib.suppress(OSError):
            self._input.close()
        ended, _, _ = select.select([self._output], [], [], _STOP_SECONDS)
        if not ended:  # a child of this process may hold the pipe open, too
            with contextlib.suppress(OSError):
                os.kill(self._process, signal.SIGKILL)
        self._output.close()
        self._input = self._output = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve_here(log_folder: str | os.PathLike[str], *, port: int = 0) -> Listening:
    """The server of a log in this process: show its `url`, then `run()` it until ctrl-C.

    Raises:
        MissingDependency: starlette or uvicorn is not installed.
        UsageError: the folder is no log, or the port is in use.
    """
    check_installed()
    _check(log_folder)
    return Listening(log_folder, port=port)


class Listening:
    """A socket that listens on loopback, and what answers there."""

    def __init__(self, log_folder: str | os.PathLike[str], *, port: int) -> None:
        import uvicorn

        from .application import application

        token = secrets.token_urlsafe(24)
        try:
            self._socket = socket.create_server((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen on port {port}: {getattr(error, 'strerror', None) or error}"
            ) from None
        self.url = f"http://{ADDRESS}:{self._socket.getsockname()[1]}/{token}/"
        config = uvicorn.Config(
            application(Path(log_folder), token),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Answer until `stop` or ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Make `run` return, from any thread."""
        self._server.should_exit = True


def check_installed() -> None:
    """Raise MissingDependency where what serves the page is not installed."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"the live page needs {' and '.join(missing)}: pip install 'enxuto[serve]'")


def _check(log_folder: str | os.PathLike[str]) -> None:
    if not is_log(log_folder):
        raise UsageError(
            f"{os.fspath(log_folder)} is no log of a run: make one with `enxuto run --log DIR SCRIPT`"
        )


def _first_line(child: subprocess.Popen[str]) -> str:
    """What the child says first; nothing where it ends, or takes a minute."""
    assert child.stdout is not None
    watchdog = threading.Timer(_START_SECONDS, child.kill)
    watchdog.start()
    try:
        return child.stdout.readline().strip()
    finally:
        watchdog.cancel()
