"""Each law of `check_timeline`, broken once: the check names the law and the place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto import Category, Phase, Timeline
from enxuto.records import CATEGORY_CODE, PHASE_CODE, Holder, PhaseSpan, Ragged
from enxuto.testing import check_timeline, random_timeline

SIZES = st.integers(0, 120)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), SIZES, SIZES, SIZES, SIZES)
def test_every_size_of_random_timeline_is_valid(
    seed: int, blocks: int, saves: int, calls: int, ops: int
) -> None:
    timeline = random_timeline(seed, blocks=blocks, saves=saves, calls=calls, ops=ops)
    check_timeline(timeline)
    assert [len(g) for g in (timeline.blocks, timeline.calls, timeline.ops)] == [blocks, calls, ops]
    assert len(timeline.saves) in (0, saves)
    assert Timeline.from_json(timeline.to_json()) == timeline


def with_row(timeline: Timeline, group: str, column: str, row: int, value: Any) -> Timeline:
    """The timeline with one number changed."""
    rows = getattr(timeline, group)
    changed = np.array(getattr(rows, column))
    changed[row] = value
    return replace(timeline, **{group: replace(rows, **{column: changed})})


def with_ragged(timeline: Timeline, group: str, column: str, row: int, value: int) -> Timeline:
    """The timeline with the first value of one list changed."""
    rows = getattr(timeline, group)
    ragged = getattr(rows, column)
    values = ragged.values.copy()
    values[ragged.offsets[row]] = value
    return replace(
        timeline, **{group: replace(rows, **{column: Ragged(offsets=ragged.offsets, values=values)})}
    )


T = random_timeline(5, blocks=100, saves=60, calls=20, ops=80)
USED = int(np.flatnonzero(np.diff(T.saves.unpacks.offsets))[0])  # a save with an unpack
READS = int(np.flatnonzero(np.diff(T.ops.reads.offsets))[0])
TAKES = int(np.flatnonzero(np.diff(T.calls.arguments.offsets))[0])
CHILD = int(np.flatnonzero(T.calls.parent >= 0)[0])
MADE = int(np.flatnonzero(T.blocks.op >= 0)[0])
SCRATCH = int(np.flatnonzero(T.blocks.category == CATEGORY_CODE[Category.SCRATCH])[0])
SCRATCHED = int(T.blocks.op[SCRATCH])
LATE = int(np.argmax(T.blocks.born))
FORWARD_OP = int(np.flatnonzero((T.ops.node < 0) & (T.ops.call >= 0))[0])

BROKEN: dict[str, tuple[Callable[[], Timeline], str]] = {
    "natural below born": (
        lambda: with_row(T, "blocks", "natural", MADE, T.blocks.born[MADE] - 1),
        f"block {MADE}: born .* after its natural death",
    ),
    "natural beyond the clock": (
        lambda: with_row(T, "blocks", "natural", MADE, T.ticks + 1),
        f"block {MADE}: natural death .* the clock ends at {T.ticks}",
    ),
    "negative bytes": (lambda: with_row(T, "blocks", "nbytes", 3, -1), "block 3: -1 bytes"),
    "born early": (
        lambda: with_row(T, "blocks", "born", MADE, T.blocks.born[MADE] - 1),
        f"block {MADE}: made by op .* not at its tick",
    ),
    "before, and born later": (
        lambda: with_row(T, "blocks", "phase", LATE, PHASE_CODE[Phase.BEFORE]),
        f"block {LATE}: stood before the step",
    ),
    "another site than its op": (
        lambda: with_row(T, "blocks", "site", MADE, (T.blocks.site[MADE] + 2) % 4),
        f"block {MADE}: made by op .* not at its site",
    ),
    "pack and release swapped": (
        lambda: replace(T, saves=replace(T.saves, pack=T.saves.release + 1, release=T.saves.pack)),
        "save 0: packed at .* after its release",
    ),
    "unpack before pack": (
        lambda: with_ragged(T, "saves", "unpacks", USED, int(T.saves.pack[USED]) - 1),
        f"save {USED}: unpacked at .* before its pack",
    ),
    "unpack after release": (
        lambda: with_ragged(T, "saves", "unpacks", USED, int(T.saves.release[USED]) + 1),
        f"save {USED}: unpacked at .* after its release",
    ),
    "local end before unpack": (
        lambda: with_ragged(T, "saves", "local_ends", USED, int(T.saves.pack[USED]) - 1),
        f"save {USED}: unpacked at .* after its local end",
    ),
    "saved before birth": (
        lambda: with_row(T, "saves", "block", int(np.argmin(T.saves.pack)), LATE),
        f"before block {LATE} is born",
    ),
    "a temporary is saved": (
        lambda: with_row(
            T, "blocks", "category", T.saves.block[0], CATEGORY_CODE[Category.TEMPORARY_FORWARD]
        ),
        "is saved, and called temporary",
    ),
    "a call that ends first": (
        lambda: with_row(T, "calls", "exit", CHILD, T.calls.enter[CHILD]),
        f"call {CHILD}: enters at",
    ),
    "a call that outlives its parent": (
        lambda: with_row(T, "calls", "exit", CHILD, T.calls.exit[T.calls.parent[CHILD]] + 1),
        f"call {CHILD}: exits at .* after its parent",
    ),
    "a wrong parent": (
        lambda: with_row(T, "calls", "parent", CHILD, -1),
        f"call {CHILD}: parent -1, and call",
    ),
    "an argument that is dead or unborn": (
        lambda: with_ragged(T, "calls", "arguments", TAKES, LATE),
        f"call {TAKES}: block {LATE} is argument at tick",
    ),
    "two ops at one tick": (
        lambda: with_row(T, "ops", "tick", 9, T.ops.tick[8]),
        "op 9: tick .* is not after",
    ),
    "an op in a phase that does not run": (
        lambda: with_row(T, "ops", "phase", 0, PHASE_CODE[Phase.OPTIMIZER]),
        "op 0: phase optimizer does not run",
    ),
    "an op reads what is not born": (
        lambda: with_ragged(T, "ops", "reads", READS, LATE),
        f"op {READS}: block {LATE} is read at tick",
    ),
    "an op of a call that is over": (
        lambda: with_row(T, "calls", "exit", T.ops.call[FORWARD_OP], T.ops.tick[FORWARD_OP]),
        "is not open|exits at",
    ),
    "scratch that lives on": (
        lambda: with_row(T, "blocks", "natural", SCRATCH, T.blocks.born[SCRATCH] + 2),
        f"block {SCRATCH}: scratch lives from",
    ),
    "scratch of another size": (
        lambda: with_row(T, "ops", "scratch", SCRATCHED, 1),
        f"op {SCRATCHED}: scratch 1, and its blocks hold",
    ),
    "phases with a gap": (
        lambda: replace(T, phases=(T.phases[0], *T.phases[2:])),
        r"phase 1 \(forward\): starts at .* not",
    ),
    "phases that overlap": (
        lambda: replace(
            T, phases=(PhaseSpan(phase=Phase.BEFORE, start=0, stop=T.phases[0].stop + 1), *T.phases[1:])
        ),
        r"phase 1 \(backward\): starts at",
    ),
    "phases too short": (lambda: replace(T, ticks=T.ticks + 1), "phases end at"),
    "an index beyond its table": (
        lambda: with_row(T, "blocks", "name", 0, len(T.names)),
        f"blocks.name: row 0 is {len(T.names)}, outside",
    ),
    "an op that is none": (lambda: with_row(T, "blocks", "op", 0, -2), "blocks.op: row 0 is -2"),
    "a name twice": (
        lambda: replace(T, names=(*T.names[:-1], T.names[0])),
        "names: a text has two indices",
    ),
    "a column too short": (
        lambda: replace(T, blocks=replace(T.blocks, site=T.blocks.site[:-1])),
        "Blocks.site: 99 rows, and 100 in its first column",
    ),
    "a type that does not travel": (
        lambda: replace(T, blocks=replace(T.blocks, born=T.blocks.born.astype(np.int16))),
        "Blocks.born: int16 does not travel as JSON",
    ),
    "a peak that is another": (
        lambda: replace(T, facts=replace(T.facts, step_peaks=(T.peak + 1,))),
        "facts.step_peaks ends with",
    ),
    "an unknown word": (
        lambda: replace(T, facts=replace(T.facts, scratch="guessed")),
        "facts.scratch is 'guessed'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_law_is_named_with_its_place(name: str) -> None:
    broken, message = BROKEN[name]
    check_timeline(T)
    with pytest.raises(AssertionError) as caught:
        check_timeline(broken())
    assert re.search(message, str(caught.value)), str(caught.value)


def test_an_accumulation_of_a_dead_gradient_is_caught() -> None:
    timeline = next(t for t in map(random_timeline, range(50)) if t.accumulations)
    (row, *rest) = timeline.accumulations
    late = replace(row, tick=int(timeline.ends[row.gradient]))
    with pytest.raises(AssertionError, match=r"accumulation 0: gradient \d+ is not alive|tick"):
        check_timeline(replace(timeline, accumulations=(late, *rest)))


class Tampered(Timeline):
    """A Timeline whose curve is off by one byte at one tick, as a wrong sum would be."""

    @property
    def curve(self) -> Any:
        curve = Timeline.curve.fget(self).copy()  # type: ignore[attr-defined]
        curve[7] += 1
        return curve


def test_a_curve_that_is_wrong_at_one_tick_is_caught() -> None:
    wrong = Tampered(**{field.name: getattr(T, field.name) for field in fields(T)})
    with pytest.raises(AssertionError, match="tick 7: curve"):
        check_timeline(wrong)


def test_a_block_resized_after_the_curve_is_caught() -> None:
    curve = T.curve
    larger = with_row(T, "blocks", "nbytes", 0, T.blocks.nbytes[0] + 1)

    class Remembers(Timeline):
        @property
        def curve(self) -> Any:
            return curve

    with pytest.raises(AssertionError, match=r"tick \d+: curve"):
        check_timeline(Remembers(**{field.name: getattr(larger, field.name) for field in fields(larger)}))


def test_a_holder_holds_a_living_block_once_and_says_what_it_is() -> None:
    block, tick = MADE, int(T.blocks.born[MADE])
    holder = Holder(block=block, tick=tick, text="local variable `h` of forward() at net.py:7")
    check_timeline(replace(T, holders=(holder,)))
    for holders, message in (
        ((replace(holder, block=len(T.blocks)),), f"holder 0: {len(T.blocks)} is no block"),
        ((replace(holder, tick=tick - 1),), f"holder 0: block {block} is held by saves alone, or dead"),
        (
            (replace(holder, tick=int(T.blocks.natural[block])),),
            f"holder 0: block {block} is held by saves alone, or dead",
        ),
        ((holder, holder), f"holder 1: block {block} has another at {tick}"),
        ((replace(holder, text=""),), "holder 0: no text"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_timeline(replace(T, holders=holders))
