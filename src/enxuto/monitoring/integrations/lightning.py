"""Lightning's `Trainer`. Source: lightning/pytorch/callbacks/callback.py."""

from __future__ import annotations

import os
from typing import Any

from ...errors import MissingDependency
from ...records import Recording
from .metrics import log_metrics
from .session import Session, required


def lightning_callback(*, budget: str | int | None = None, log: str | os.PathLike[str] | None = None) -> Any:
    """A `Callback` that watches `fit`: `Trainer(callbacks=[lightning_callback()])`.

    Its `recording` is the run; every `log_every_n_steps` its `memory/...` numbers go to the trainer's loggers, as
    they are (`pl_module.log` would round them to float32).

    Args:
        budget: "8 GiB" or bytes; tensors beyond it raise `OutOfBudget` at that line.
        log: folder of the crash-safe log.

    Raises:
        MissingDependency: neither lightning nor pytorch-lightning is installed.
    """
    return type("MemoryCallback", (_Events, _base()), {})(Session(budget=budget, log=log))


def _base() -> type:
    try:
        found: type = required("lightning.pytorch", install="lightning").Callback
    except MissingDependency:
        found = required("pytorch_lightning", install="lightning").Callback
    return found


class _Events:
    """What is done at the trainer's events."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def recording(self) -> Recording | None:
        """The run so far, None before it began."""
        return self._session.recording

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._session.begin(name=type(pl_module).__name__)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._session.run is None or trainer.global_step % max(trainer.log_every_n_steps, 1):
            return
        metrics = log_metrics(self._session.run)
        for each in trainer.loggers if metrics else ():
            each.log_metrics(metrics, step=trainer.global_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._session.end(exception)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._session.end()
