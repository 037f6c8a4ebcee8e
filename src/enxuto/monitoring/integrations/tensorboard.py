"""TensorBoard, by the writer that the script has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...records import Step
from .metrics import logger


def tensorboard_logger(writer: Any, *, seconds: float = 1.0) -> Callable[[Step], None]:
    """`with ex.watch(on_step=[tensorboard_logger(writer)]):` TensorBoard keeps float32: six digits of the bytes.

    Args:
        writer: a `SummaryWriter`; it stays the script's to close.
        seconds: the least time between two logs.
    """

    def log(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, global_step=step)

    return logger(log, seconds=seconds)
