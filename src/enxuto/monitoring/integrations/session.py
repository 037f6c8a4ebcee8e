"""The watch that a trainer's events begin and end; the one that is there already, where the user has one."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import MissingDependency
from ...records import Recording
from ..watch import Watch, active, watch


class Session:
    """Watches from `begin` to `end`. Inside a `with ex.watch(...)` or under `enxuto run` it joins that watch.

    Args:
        budget: as `watch` takes it; counts only where no watch is there already.
        log: as `watch` takes it.
    """

    def __init__(self, *, budget: str | int | None, log: str | os.PathLike[str] | None) -> None:
        self._budget, self._log = budget, None if log is None else of_rank(Path(log))
        self._own = False
        self.run: Watch | None = None

    def begin(self, name: str) -> None:
        """Start to watch, or join."""
        if self._own:
            self.end()
        self.run = active()
        if self.run is None:
            self.run = watch(budget=self._budget, log=self._log, name=name).__enter__()
            self._own = True

    def end(self, error: BaseException | None = None) -> None:
        """Stop a watch that `begin` started; what it saw stays."""
        if self._own and self.run is not None:
            self._own = False
            trace: TracebackType | None = error.__traceback__ if error else None
            self.run.__exit__(type(error) if error else None, error, trace)

    @property
    def recording(self) -> Recording | None:
        """The run so far with what is wrong with it; None before it began."""
        return None if self.run is None else self.run.diagnosed()


def of_rank(log: Path) -> Path:
    """Among several ranks each writes its own: `log` becomes `log-rank1`."""
    rank, ranks = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
    return log if rank is None or ranks < 2 else log.with_name(f"{log.name}-rank{rank}")


def required(module: str, *, install: str) -> Any:
    """Import a module that is not enxuto's own dependency.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"this needs {module} ({error}): pip install {install}") from None
