"""A line on standard error that says what goes on, only in a terminal and only when it takes a while."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

SECONDS = 2.0


@contextlib.contextmanager
def progress(*, after: float = SECONDS) -> Iterator[Callable[[str], None] | None]:
    """Gives the function that takes lines of progress, None where nobody reads them.

    What the user's own code prints meanwhile goes to standard error: standard output is for the answer alone.
    """
    # where an op refuses its inputs, the user's traceback says so; torch's log would say it first, at length
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(lambda record: False)
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "6"
    )  # torch's profiler says on standard error that it starts and stops
    with contextlib.redirect_stdout(sys.stderr):
        if not sys.stderr.isatty():
            yield None
            return
        with _spinner(after) as say:
            yield say


@contextlib.contextmanager
def _spinner(after: float) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.text import Text

    status = Console(stderr=True).status("loading PyTorch and the model")
    late = threading.Timer(after, status.start)
    late.daemon = True
    late.start()
    try:
        yield lambda line: status.update(Text(line))
    finally:
        late.cancel()
        late.join()  # if it has just begun to start, it must be done before it can be stopped
        status.stop()
