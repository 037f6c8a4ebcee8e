"""Accelerate: the numbers go through `accelerator.log` to whatever trackers the script has set up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...records import Step
from .metrics import logger


def accelerate_logger(accelerator: Any, *, seconds: float = 1.0) -> Callable[[Step], None]:
    """`with ex.watch(on_step=[accelerate_logger(accelerator)]):` after `accelerator.init_trackers(...)`.

    Args:
        accelerator: the script's `Accelerator`.
        seconds: the least time between two logs.
    """
    return logger(lambda metrics, step: accelerator.log(metrics, step=step), seconds=seconds)
