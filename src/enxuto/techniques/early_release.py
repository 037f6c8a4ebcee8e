"""Gradients released early: set to None right after the update, instead of at the next step's `zero_grad`.

A loop that calls `zero_grad()` between its forward and its backward keeps the last step's gradients through
the whole forward. Bitwise equal, unless something reads gradients between the update and that call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch.optim import Optimizer

from ..records import CATEGORY_CODE, Category, Phase, Timeline
from .regions import Refused

_GRADIENT = CATEGORY_CODE[Category.GRADIENT]


def simulate(timeline: Timeline) -> Timeline:
    """The Timeline with every gradient gone when the update is over.

    Raises:
        Refused: gradients are gone early already, are kept and added to, or are read after the update.
    """
    t, b = timeline, timeline.blocks
    gradients = np.flatnonzero(b.category == _GRADIENT)
    old = gradients[b.born[gradients] == 0]
    first = int(t.ops.tick[0]) if len(t.ops) else 0
    if not len(old) or int(b.natural[old].max()) <= first:
        raise Refused("gradients are gone before the forward already")
    if int(b.natural[old].max()) >= t.ticks:
        raise Refused("gradients are kept from step to step and added to, or zeroed in place")
    updates = [span.stop for span in t.phases if span.phase is Phase.OPTIMIZER]
    if not updates:
        raise Refused("no optimizer runs in this step")
    over = updates[-1]
    readers = t.ops.reads.owners()
    late = np.isin(t.ops.reads.values, gradients) & (t.ops.tick[readers] >= over)
    early = np.isin(t.ops.reads.values, old) & (t.ops.tick[readers] < over)
    if late.any() or early.any():
        raise Refused("something reads gradients after the update")
    natural = b.natural.copy()
    natural[old] = 0
    new = np.setdiff1d(gradients, old)
    natural[new] = np.minimum(natural[new], over)
    result = replace(t, blocks=replace(b, natural=natural))
    return replace(result, facts=replace(t.facts, step_peaks=(result.peak,)))


@contextlib.contextmanager
def apply(optimizer: Optimizer) -> Iterator[None]:
    """Release every gradient right after each `step()`, while the context lasts."""

    def release(stepped: Optimizer, *_: Any) -> None:
        for group in stepped.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    handle = optimizer.register_step_post_hook(release)
    try:
        yield
    finally:
        handle.remove()
