"""Hugging Face's `Trainer`, and those of TRL, which are its children.

Source: transformers/trainer_callback.py; the trainer hands every callback the `logs` that its loggers get.
"""

from __future__ import annotations

import os
from typing import Any

from ...records import Recording
from .metrics import log_metrics
from .session import Session, required


def huggingface_callback(
    *, budget: str | int | None = None, log: str | os.PathLike[str] | None = None
) -> Any:
    """A `TrainerCallback` that watches the training: `Trainer(..., callbacks=[huggingface_callback()])`.

    Its `recording` is the run. Its `memory/...` numbers are in `trainer.state.log_history` and in what is printed;
    `add_to_trainer` also brings them to TensorBoard, W&B and the other loggers of the trainer.

    Args:
        budget: "8 GiB" or bytes; tensors beyond it raise `OutOfBudget` at that line.
        log: folder of the crash-safe log.

    Raises:
        MissingDependency: transformers is not installed.

    A training that raises tells its callbacks nothing. Put it into `with ex.watch(): trainer.train()` to have the
    failure in the record; the callback then joins that watch.
    """
    base = required("transformers", install="transformers").TrainerCallback
    return type("MemoryCallback", (_Events, base), {})(Session(budget=budget, log=log))


def add_to_trainer(
    trainer: Any, *, budget: str | int | None = None, log: str | os.PathLike[str] | None = None
) -> Any:
    """Put a `huggingface_callback` in front of the trainer's others, so that its loggers get the numbers too.

    Returns:
        The callback.

    Raises:
        MissingDependency: transformers is not installed.
    """
    callback = huggingface_callback(budget=budget, log=log)
    trainer.callback_handler.callbacks.insert(0, callback)  # add_callback appends, behind the loggers
    return callback


class _Events:
    """What is done at the trainer's events; whoever handles the same ones later sees the numbers in `logs`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def recording(self) -> Recording | None:
        """The run so far, None before it began."""
        return self._session.recording

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.begin(name=str(getattr(args, "run_name", None) or "Trainer"))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._session.run is None or logs is None:
            return
        metrics = log_metrics(self._session.run)
        logs.update(metrics)
        if state.log_history:
            state.log_history[-1].update(metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.end()
