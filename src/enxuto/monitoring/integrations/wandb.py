"""Weights & Biases, by the run that the script has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...records import Step
from .metrics import logger


def wandb_logger(run: Any, *, seconds: float = 1.0) -> Callable[[Step], None]:
    """`with ex.watch(on_step=[wandb_logger(run)]):` for the `run` of `wandb.init`.

    The numbers join the script's next own `run.log`, so that they do not move W&B's step, and have the axis
    `memory/step`.

    Args:
        run: what `wandb.init` returned.
        seconds: the least time between two logs.
    """
    run.define_metric("memory/*", step_metric="memory/step")
    return logger(
        lambda metrics, step: run.log({**metrics, "memory/step": step}, commit=False), seconds=seconds
    )
