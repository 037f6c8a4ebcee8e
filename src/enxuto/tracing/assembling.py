"""From a recorder's raw rows to a Timeline: cut one step out, renumber what is left, close open ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..records import (
    CATEGORY_CODE,
    PHASE_CODE,
    PHASES,
    Accumulation,
    Blocks,
    Calls,
    Category,
    Facts,
    Ops,
    Phase,
    PhaseSpan,
    Ragged,
    Saves,
    Timeline,
    World,
)
from .recorder import Recorder

_TEMPORARY = {
    PHASE_CODE[Phase.BEFORE]: CATEGORY_CODE[Category.OTHER],
    PHASE_CODE[Phase.FORWARD]: CATEGORY_CODE[Category.TEMPORARY_FORWARD],
    PHASE_CODE[Phase.BACKWARD]: CATEGORY_CODE[Category.TEMPORARY_BACKWARD],
    PHASE_CODE[Phase.OPTIMIZER]: CATEGORY_CODE[Category.TEMPORARY_OPTIMIZER],
}
_SAVED = CATEGORY_CODE[Category.SAVED_ACTIVATION]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the recorder's clock, start <= t < stop: one step."""

    start: int
    stop: int

    @property
    def ticks(self) -> int:
        return self.stop - self.start


def assemble(recorder: Recorder, window: Window, *, world: World, facts: Facts) -> Timeline:
    """The Timeline of what the recorder saw in the window.

    What lived when the window began is there from tick 0 (phase BEFORE); what still lives at its end has its
    end at `ticks`.
    """
    blocks, block_ids = _blocks(recorder, window)
    calls, call_ids = _calls(recorder, window, block_ids)
    ops, op_ids = _ops(recorder, window, block_ids, call_ids)
    return Timeline(
        world=world,
        ticks=window.ticks,
        blocks=Blocks(
            nbytes=blocks["nbytes"],
            category=blocks["category"].astype(np.int8),
            phase=blocks["phase"].astype(np.int8),
            born=blocks["born"],
            natural=blocks["natural"],
            name=blocks["name"].astype(np.int32),
            op=_renumbered(blocks["op"], op_ids),
            call=_renumbered(blocks["call"], call_ids),
            site=blocks["site"].astype(np.int32),
        ),
        saves=_saves(recorder, window, block_ids, call_ids),
        calls=calls,
        ops=ops,
        phases=_phases(recorder, window),
        accumulations=_accumulations(recorder, window, block_ids),
        names=tuple(recorder.names),
        sites=tuple(recorder.sites.rows),
        signatures=tuple(recorder.signatures),
        facts=facts,
    )


def rows_of(recorder: Recorder, window: Window) -> np.ndarray:
    """The recorder's block behind each block of the window's Timeline."""
    return np.flatnonzero(_lives(recorder, window)[2])


def _lives(recorder: Recorder, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Birth and natural death of every block, and which of them live in the window."""
    born = np.array(recorder.b_born, np.int64)
    natural = _closed(recorder.b_natural, window.stop)
    ends = natural.copy()
    save_block = np.array(recorder.s_block, np.int64)
    known = save_block >= 0
    np.maximum.at(ends, save_block[known], _closed(recorder.s_release, window.stop)[known])
    last_use = np.array(
        [max((_end(t, window.stop) for t in row), default=0) for row in recorder.s_local_ends], np.int64
    )
    np.maximum.at(ends, save_block[known], last_use[known])

    return born, natural, (born < window.stop) & (ends > window.start)


def _blocks(recorder: Recorder, window: Window) -> tuple[dict[str, np.ndarray], np.ndarray]:
    born, natural, kept = _lives(recorder, window)
    nbytes = np.array(recorder.b_nbytes, np.int64)
    before = born[kept] < window.start
    category = np.array(recorder.b_category, np.int64)
    phase = np.array(recorder.b_phase, np.int64)
    saved = np.zeros(len(nbytes), bool)
    saved[[block for block in recorder.s_block if block >= 0]] = True
    unnamed = category < 0
    category[unnamed & saved] = _SAVED
    unnamed &= ~saved
    category[unnamed] = np.array([_TEMPORARY[code] for code in range(len(PHASES))])[phase[unnamed]]
    columns = {
        "nbytes": nbytes[kept],
        "category": category[kept],
        "phase": np.where(before, PHASE_CODE[Phase.BEFORE], phase[kept]),
        "born": np.maximum(born[kept] - window.start, 0),
        "natural": np.clip(natural[kept] - window.start, 0, window.ticks),
        "name": np.array(recorder.b_name, np.int64)[kept],
        "op": np.array(recorder.b_op, np.int64)[kept],
        "call": np.array(recorder.b_call, np.int64)[kept],
        "site": np.array(recorder.b_site, np.int64)[kept],
    }
    return columns, _numbering(kept)


def _saves(recorder: Recorder, window: Window, block_ids: np.ndarray, call_ids: np.ndarray) -> Saves:
    pack = np.array(recorder.s_pack, np.int64)
    release = _closed(recorder.s_release, window.stop)
    block = _renumbered(np.array(recorder.s_block, np.int64), block_ids)
    kept = np.flatnonzero((pack < window.stop) & (release > window.start) & (block >= 0))
    uses = [
        [
            (unpack, end)
            for unpack, end in zip(recorder.s_unpacks[i], recorder.s_local_ends[i], strict=True)
            if unpack >= window.start
        ]
        for i in kept
    ]
    stop = window.stop
    return Saves(
        block=block[kept],
        pack=np.maximum(pack[kept] - window.start, 0),
        unpacks=Ragged.of([[u - window.start for u, _ in row if u < stop] for row in uses]),
        local_ends=Ragged.of([[_end(e, stop) - window.start for u, e in row if u < stop] for row in uses]),
        release=release[kept] - window.start,
        call=_renumbered(np.array(recorder.s_call, np.int64)[kept], call_ids),
        node=np.array([recorder.node_names.get(recorder.s_sequence[i], -1) for i in kept], np.int32),
    )


def _calls(recorder: Recorder, window: Window, block_ids: np.ndarray) -> tuple[Calls, np.ndarray]:
    enter = np.array(recorder.c_enter, np.int64)
    kept = (enter >= window.start) & (enter < window.stop)
    ids = _numbering(kept)
    rows = np.flatnonzero(kept)
    calls = Calls(
        module=np.array(recorder.c_module, np.int32)[rows],
        parent=_renumbered(np.array(recorder.c_parent, np.int64)[rows], ids),
        phase=np.array(recorder.c_phase, np.int8)[rows],
        enter=enter[rows] - window.start,
        exit=_closed(recorder.c_exit, window.stop)[rows] - window.start,
        arguments=Ragged.of([_mapped(recorder.c_arguments[i], block_ids) for i in rows]),
        hooked=np.array(recorder.c_hooked, bool)[rows],
        extras=np.array(recorder.c_extras, np.int32)[rows],
        returns=_renumbered(np.array(recorder.c_returns, np.int64)[rows], block_ids),
    )
    return calls, ids


def _ops(
    recorder: Recorder, window: Window, block_ids: np.ndarray, call_ids: np.ndarray
) -> tuple[Ops, np.ndarray]:
    tick = np.array(recorder.o_tick, np.int64)
    kept = (tick >= window.start) & (tick < window.stop)
    rows = np.flatnonzero(kept)
    return Ops(
        name=np.array(recorder.o_name, np.int32)[rows],
        tick=tick[rows] - window.start,
        phase=np.array(recorder.o_phase, np.int8)[rows],
        call=_renumbered(np.array(recorder.o_call, np.int64)[rows], call_ids),
        site=np.array(recorder.o_site, np.int32)[rows],
        node=np.array(recorder.o_node, np.int32)[rows],
        signature=np.array(recorder.o_signature, np.int32)[rows],
        flops=np.array(recorder.o_flops, np.int64)[rows],
        scratch=np.array(recorder.o_scratch, np.int64)[rows],
        reads=Ragged.of([_mapped(recorder.o_reads[i], block_ids) for i in rows]),
        writes=Ragged.of([_mapped(recorder.o_writes[i], block_ids) for i in rows]),
    ), _numbering(kept)


def _phases(recorder: Recorder, window: Window) -> tuple[PhaseSpan, ...]:
    spans: list[PhaseSpan] = []
    marks = [*recorder.phase_marks, (recorder.clock, PHASE_CODE[Phase.BEFORE])]
    for (tick, code), (following, _) in pairwise(marks):
        start, stop = max(tick, window.start) - window.start, min(following, window.stop) - window.start
        if start >= stop:
            continue
        phase = PHASES[code]
        if spans and spans[-1].phase is phase:
            spans[-1] = PhaseSpan(phase=phase, start=spans[-1].start, stop=stop)
        else:
            spans.append(PhaseSpan(phase=phase, start=start, stop=stop))
    return tuple(spans)


def _accumulations(recorder: Recorder, window: Window, block_ids: np.ndarray) -> tuple[Accumulation, ...]:
    return tuple(
        Accumulation(
            tick=tick - window.start, parameter=int(block_ids[parameter]), gradient=int(block_ids[gradient])
        )
        for tick, parameter, gradient in recorder.accumulations
        if window.start <= tick < window.stop
    )


def _closed(ticks: Sequence[int], stop: int) -> np.ndarray:
    """Ends as ticks no later than `stop`; what never ended ends there."""
    array = np.array(ticks, np.int64)
    return np.where((array < 0) | (array > stop), stop, array)


def _end(tick: int, stop: int) -> int:
    return stop if tick < 0 or tick > stop else tick


def _numbering(kept: np.ndarray) -> np.ndarray:
    """New index of every kept row, -1 for the others."""
    return np.where(kept, np.cumsum(kept) - 1, -1)


def _renumbered(indices: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if not len(ids):
        return np.full(len(indices), -1, np.int64)
    return np.where(indices >= 0, ids[np.maximum(indices, 0)], -1)


def _mapped(blocks: list[int], ids: np.ndarray) -> list[int]:
    return [int(ids[block]) for block in blocks if ids[block] >= 0]
