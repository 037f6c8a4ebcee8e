"""A step as the numbers that a trainer's logger takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ...records import UNKNOWN, Step
from ..watch import Watch

_FIELDS = {
    "memory/peak_bytes": "peak",
    "memory/current_bytes": "current",
    "memory/reserved_bytes": "reserved",
    "memory/retries": "retries",
    "memory/host_bytes": "host",
    "memory/host_peak_bytes": "host_peak",
    "memory/workers_bytes": "workers",
}


def log_metrics(run: Watch) -> dict[str, float]:
    """The last step of a watched run as `memory/...` numbers; empty before the first.

    What nothing tells is left out, never 0. `memory/budget_ratio` is the peak over the budget, where there is one.

    Example:
        >>> import enxuto as ex, torch
        >>> model = torch.nn.Linear(2, 2)
        >>> with ex.watch(model) as run:
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     for _ in range(2):
        ...         model(torch.zeros(4, 2)).sum().backward()
        ...         optimizer.step()
        >>> "memory/host_bytes" in log_metrics(run)
        True
    """
    step = run.latest()
    return {} if step is None else metrics_of(step, budget=run.budget)


def metrics_of(step: Step, *, budget: int = 0) -> dict[str, float]:
    """A step's known figures; `budget` in bytes, 0 for none."""
    known = {name: getattr(step, field) for name, field in _FIELDS.items()}
    metrics = {name: float(value) for name, value in known.items() if value != UNKNOWN}
    if budget and step.peak != UNKNOWN:
        metrics["memory/budget_ratio"] = step.peak / budget
    return metrics


def logger(
    log: Callable[[dict[str, float], int], object], *, budget: int = 0, seconds: float = 0.0
) -> Callable[[Step], None]:
    """What `watch(on_step=[...])` takes to hand a step's numbers to any logger.

    Args:
        log: takes the numbers and the step that they are of.
        budget: bytes, for `memory/budget_ratio`; 0 for none.
        seconds: the least time between two calls, for loggers that are slow; the highest peak in between is the
            one that is handed over.
    """
    return _Paced(log, budget, seconds)


class _Paced:
    """Hands over the numbers of a step, at most every so many seconds."""

    def __init__(self, log: Callable[[dict[str, float], int], object], budget: int, seconds: float) -> None:
        self._log, self._budget, self._seconds = log, budget, seconds
        self._next = 0.0
        self._highest: dict[str, float] = {}

    def __call__(self, step: Step) -> None:
        metrics = metrics_of(step, budget=self._budget)
        self._highest = {name: max(self._highest.get(name, 0.0), metrics[name]) for name in _peaks(metrics)}
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._log({**metrics, **self._highest}, step.step)
            self._highest = {}


def _peaks(metrics: Mapping[str, float]) -> list[str]:
    return [name for name in metrics if "peak" in name or name == "memory/budget_ratio"]
