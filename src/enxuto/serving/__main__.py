"""The process that `serve` starts: it prints its address and ends when its standard input does.

It is no child of who started it: a script that waits for all of its own children would wait for the server too.
"""

import os
import sys
import threading

from .server import Listening

if hasattr(os, "fork") and os.fork():
    os._exit(0)
listening = Listening(sys.argv[1], port=int(sys.argv[2]))
print(listening.url, os.getpid(), flush=True)


def stop_with_the_parent() -> None:
    sys.stdin.buffer.read()
    listening.stop()


threading.Thread(target=stop_with_the_parent, daemon=True).start()
listening.run()
