"""The optimizer inside the backward: each parameter is updated once its gradient is complete, and lets go of it.

Bitwise equal to the usual step wherever every parameter's update depends on its own gradient alone: not with
clipping, accumulation over several backwards, or a gradient scaler, which need all gradients at once.

Source: `Tensor.register_post_accumulate_grad_hook` (torch's tutorial "How to save memory by fusing an
optimizer step into the backward pass").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from .. import _torch_private as private
from ..errors import UsageError
from ..records import (
    CATEGORY_CODE,
    PHASE_CODE,
    PHASES,
    Accumulation,
    Category,
    Phase,
    PhaseSpan,
    Ragged,
    Timeline,
)
from .edits import Array
from .regions import Refused

_OPTIMIZER = PHASE_CODE[Phase.OPTIMIZER]
_GRADIENT = CATEGORY_CODE[Category.GRADIENT]
_PARAMETER = CATEGORY_CODE[Category.PARAMETER]
_STATE = CATEGORY_CODE[Category.OPTIMIZER_STATE]


def simulate(timeline: Timeline) -> Timeline:
    """The Timeline with each parameter's update moved to where its gradient is complete.

    Raises:
        Refused: gradients are needed together (clipping, accumulation), or updates cannot be told apart
            (a foreach or fused step).
    """
    complete = _completions(timeline)
    updates = _updates(timeline, set(complete))
    moved = {complete[parameter]: span for parameter, span in updates.items()}
    order = _order(timeline, moved)
    place = np.empty(timeline.ticks + 1, np.int64)
    place[order] = np.arange(timeline.ticks)
    place[timeline.ticks] = timeline.ticks
    return _reordered(timeline, order, place, complete, updates)


def _completions(timeline: Timeline) -> dict[int, Accumulation]:
    """The accumulation of each parameter, by its block; one backward only."""
    found: dict[int, Accumulation] = {}
    for row in timeline.accumulations:
        if row.parameter in found:
            raise Refused("gradients are accumulated over more than one backward")
        found[row.parameter] = row
    if not found:
        raise Refused("no gradient is accumulated in this step")
    gradient_of = {row.gradient: row for row in found.values()}
    if len(gradient_of) < len(found):
        raise Refused("two parameters share the memory of their gradients")
    ops = timeline.ops
    for lists in (ops.reads, ops.writes):
        owners = lists.owners()
        for op, block in zip(owners.tolist(), lists.values.tolist(), strict=True):
            complete = gradient_of.get(block)
            if complete is not None and ops.tick[op] > complete.tick and ops.phase[op] != _OPTIMIZER:
                name = timeline.text(int(ops.name[op]))
                raise Refused(
                    f"gradients are used together before the update ({name}): clipping, or a scaler"
                )
    return found


def _updates(timeline: Timeline, parameters: set[int]) -> dict[int, tuple[int, int]]:
    """The ticks start <= t < stop that update each parameter, from a for-loop step."""
    t, ops = timeline, timeline.ops
    spans = [span for span in t.phases if span.phase is Phase.OPTIMIZER]
    if len(spans) != 1:
        raise Refused("the step runs its optimizer more than once, or not at all")
    within = np.flatnonzero((ops.tick >= spans[0].start) & (ops.tick < spans[0].stop))
    names = {t.text(int(t.blocks.name[p])): p for p in parameters}
    owner_of: dict[int, int] = {p: p for p in parameters}
    owner_of |= {row.gradient: row.parameter for row in t.accumulations}
    for block in np.flatnonzero(t.blocks.category == _STATE).tolist():
        owner = names.get(t.text(int(t.blocks.name[block])).rpartition(".")[0])
        if owner is not None:
            owner_of[block] = owner
    starts: list[tuple[int, int]] = []  # (parameter, first tick)
    for op in within.tolist():
        touched = {owner_of[b] for b in (*ops.reads[op], *ops.writes[op]) if b in owner_of}
        if len(touched) > 1:
            raise Refused("the optimizer updates several parameters at once (foreach or fused)")
        if touched and (not starts or starts[-1][0] not in touched):
            starts.append((touched.pop(), int(ops.tick[op])))
    found: dict[int, tuple[int, int]] = {}
    for (parameter, start), (_, stop) in zip(starts, [*starts[1:], (-1, spans[0].stop)], strict=True):
        if parameter in found:
            raise Refused("the optimizer comes back to a parameter after another one's update")
        found[parameter] = (start, stop)
    if set(found) != parameters:
        raise Refused("some gradients are not used by the optimizer")
    return found


def _order(timeline: Timeline, moved: dict[Accumulation, tuple[int, int]]) -> Array:
    """All ticks in their new order."""
    after = {row.tick: span for row, span in moved.items()}
    gone = np.zeros(timeline.ticks, bool)
    for start, stop in after.values():
        gone[start:stop] = True
    pieces, last = [], 0
    for tick in sorted(after):
        kept = np.arange(last, tick + 1)
        pieces += [kept[~gone[kept]], np.arange(*after[tick])]
        last = tick + 1
    kept = np.arange(last, timeline.ticks)
    return np.concatenate([*pieces, kept[~gone[kept]]])


def _reordered(
    timeline: Timeline,
    order: Array,
    place: Array,
    complete: dict[int, Accumulation],
    updates: dict[int, tuple[int, int]],
) -> Timeline:
    t, b = timeline, timeline.blocks
    born, natural = place[b.born].copy(), place[b.natural].copy()
    for parameter, (start, stop) in updates.items():
        over = int(place[stop - 1]) + 1  # the hook has returned: its temporaries and the gradient are gone
        temporary = (b.born >= start) & (b.born < stop) & (b.category != _STATE)
        natural[temporary] = np.where(b.natural[temporary] < stop, natural[temporary], over)
        natural[complete[parameter].gradient] = over
    before = (b.category == _GRADIENT) & (b.born == 0)  # the last step's: they are released by now
    natural[before] = 0
    ops, op_order = t.ops, np.argsort(place[t.ops.tick], kind="stable")
    op_ids = np.empty(len(ops), np.int64)
    op_ids[op_order] = np.arange(len(ops))
    columns: dict[str, Any] = {}
    for field in fields(ops):
        column = getattr(ops, field.name)
        ragged = isinstance(column, Ragged)
        rows = [column[row] for row in op_order.tolist()] if ragged else []
        columns[field.name] = Ragged.of(rows) if ragged else column[op_order]
    columns["tick"] = place[ops.tick[op_order]]
    s, c = t.saves, t.calls
    result = replace(
        t,
        blocks=replace(b, born=born, natural=natural, op=np.where(b.op >= 0, op_ids[b.op], -1)),
        saves=replace(
            s,
            pack=place[s.pack],
            unpacks=Ragged(offsets=s.unpacks.offsets, values=place[s.unpacks.values]),
            local_ends=Ragged(offsets=s.local_ends.offsets, values=place[s.local_ends.values]),
            release=place[s.release],
        ),
        calls=replace(c, enter=place[c.enter], exit=place[c.exit]),
        ops=type(ops)(**columns),
        holders=(),
        phases=_phases(t, order),
        accumulations=tuple(replace(a, tick=int(place[a.tick])) for a in t.accumulations),
    )
    return replace(result, facts=replace(t.facts, step_peaks=(result.peak,)))


def _phases(timeline: Timeline, order: Array) -> tuple[PhaseSpan, ...]:
    codes = np.zeros(timeline.ticks, np.int64)
    for span in timeline.phases:
        codes[span.start : span.stop] = PHASE_CODE[span.phase]
    codes = codes[order]
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), timeline.ticks]
    return tuple(
        PhaseSpan(phase=PHASES[codes[start]], start=start, stop=stop)
        for start, stop in pairwise(edges)
        if start < stop
    )


@contextlib.contextmanager
def apply(optimizer: Optimizer) -> Iterator[None]:
    """Update every parameter of the optimizer as soon as its gradient is complete, while the context lasts.

    The optimizer stays one object, so that its state, schedulers and checkpoints are as ever; its own `step()`
    finds no gradients and does nothing.

    Raises:
        UsageError: while active, where gradients are needed together: a second backward before the next
            `step()`, or clipping by norm or value.
    """
    hooks = _Updates(optimizer)
    handles = [
        parameter.register_post_accumulate_grad_hook(hooks.update)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    ]
    handles.append(optimizer.register_step_post_hook(hooks.finished))
    try:
        with private.refused_clipping(_CLIPPED):
            yield
    finally:
        for handle in handles:
            handle.remove()


_CLIPPED = (
    "gradients are clipped, and this plan updates each parameter inside the backward, when the others' gradients "
    "are not there yet; plan without optimizer-in-backward: fixed=('optimizer-in-backward',)"
)


class _Updates:
    """The hooks: one parameter's update at a time, by the user's own optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._updated: set[int] = set()
        self._inside = False

    def update(self, parameter: Tensor) -> None:
        if id(parameter) in self._updated:
            raise UsageError(
                "a second backward came before optimizer.step(), and this plan updates parameters inside the "
                "backward: it cannot accumulate gradients. Call optimizer.step() after every backward, or plan "
                "without optimizer-in-backward"
            )
        self._updated.add(id(parameter))
        optimizer, groups = self._optimizer, self._optimizer.param_groups
        (own,) = [g for g in groups if any(p is parameter for p in g["params"])]
        single: dict[str, Any] = {**own, "params": [parameter]}
        self._inside = True
        optimizer.param_groups = [single]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
            self._inside = False
        parameter.grad = None

    def finished(self, *_: Any) -> None:
        """The user's own `step()`: the next backward may begin."""
        if not self._inside:
            self._updated.clear()
