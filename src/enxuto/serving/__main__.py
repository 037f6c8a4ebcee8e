"""The process that `serve` starts: it prints its address and ends when its standard input does."""

import sys
import threading

from .server import Listening

listening = Listening(sys.argv[1], port=int(sys.argv[2]))
print(listening.url, flush=True)


def stop_with_the_parent() -> None:
    sys.stdin.buffer.read()
    listening.stop()


threading.Thread(target=stop_with_the_parent, daemon=True).start()
listening.run()
