"""Answers computed in a copy of this process, so that each begins from the same memory and leaves none behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

Answer = dict[str, Any]
"""What JSON can carry; `{"failed": why}` where there is no answer."""


class Fork:
    """A copy of this process; `inside` tells the copy from the original. Intra-op threads do not survive it."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._reader, self._writer = os.pipe()
        self._pid = os.fork()
        os.close(self._reader if self.inside else self._writer)

    @property
    def inside(self) -> bool:
        return self._pid == 0

    def finish(self, answer: Answer) -> NoReturn:
        """In the copy: hand the answer over and end."""
        try:
            with os.fdopen(self._writer, "w") as stream:
                json.dump(answer, stream)
        finally:
            os._exit(0)  # also when the original is gone: the copy must not go on as if it were it

    def answer(self) -> Answer:
        """In the original: wait for the copy's answer."""
        with os.fdopen(self._reader) as stream:
            text = stream.read()
        _, status = os.waitpid(self._pid, 0)
        result: Answer = json.loads(text) if text else {"failed": f"the process ended with status {status}"}
        return result


def in_a_fork(compute: Callable[[], Answer]) -> Answer:
    """The answer of a copy of this process, or in one line why it gave none."""
    fork = Fork()
    if fork.inside:
        fork.finish(attempt(compute))
    return fork.answer()


def attempt(compute: Callable[[], Answer]) -> Answer:
    """An answer, or in one line the exception that there was instead."""
    try:
        return compute()
    except Exception as error:
        text = " ".join(str(error).split())  # a compiler's first line says only that another raised
        return {"failed": f"{type(error).__name__}: {text}"[:200]}
