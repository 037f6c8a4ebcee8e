"""The receipt: everything sums to the peak, and each row says what the records say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from enxuto.explaining import receipt
from enxuto.explaining.sampling import LIMIT
from enxuto.records import (
    Category,
    Explanation,
    Instant,
    ModuleShare,
    Owner,
    Phase,
    PhaseCost,
    Ragged,
    Share,
    Site,
    SiteShare,
    Timeline,
)
from enxuto.tracing import trace
from tests.explaining.timelines import Script
from tests.explaining.works import WORKS


def step() -> Timeline:
    """Six blocks; the peak, 371 bytes, is at tick 5: the second op."""
    script = Script(ticks=10, spans=((Phase.FORWARD, 0, 7), (Phase.BACKWARD, 7, 10)))
    call = script.call("net.fc", 1, 4)
    inputs = script.block(1, Category.INPUT, 0, 10, name="batch", phase=Phase.BEFORE)
    weight = script.block(100, Category.PARAMETER, 0, 10, name="net.fc.weight", phase=Phase.BEFORE)
    script.block(200, Category.OPTIMIZER_STATE, 0, 10, name="net.fc.weight.exp_avg", phase=Phase.BEFORE)
    script.op("aten.addmm", 2, reads=[inputs, weight], call=call, line=7, flops=60)
    hidden = script.block(40, Category.SAVED_ACTIVATION, 2, 3, op=0, call=call, line=7)
    script.save(hidden, 3, 8, node="ReluBackward0", uses=[(7, 8)])
    script.op("aten.relu", 5, reads=[hidden], line=9)
    script.block(20, Category.TEMPORARY_FORWARD, 5, 6, op=1, line=9)
    script.block(10, Category.SCRATCH, 5, 6, op=1, line=9)
    script.op(
        "aten.threshold_backward", 7, reads=[hidden], node="ReluBackward0", phase=Phase.BACKWARD, flops=3
    )
    return script.timeline()


def check_sums(explanation: Explanation) -> None:
    """Every breakdown adds up to the peak."""
    peak = explanation.peak
    assert sum(share.nbytes for share in explanation.shares) + explanation.unexplained == peak
    assert explanation.unexplained == 0
    assert sum(row.nbytes for row in explanation.modules) == peak
    assert sum(owner.nbytes for owner in explanation.owners) == peak
    assert sum(owner.blocks for owner in explanation.owners) == sum(s.blocks for s in explanation.shares)
    assert sum(row.nbytes for row in explanation.sites) <= peak
    assert max(cost.peak for cost in explanation.phases) == peak


def test_shares_instant_and_modules_of_a_small_step() -> None:
    explanation = receipt(step())
    assert explanation.peak == 371
    assert explanation.instant == Instant(
        tick=5,
        phase=Phase.FORWARD,
        op="aten.relu",
        module="",
        node="",
        site=Site(file="m.py", line=9, function="forward"),
    )
    assert explanation.shares == (
        Share(category=Category.PARAMETER, nbytes=100, blocks=1),
        Share(category=Category.OPTIMIZER_STATE, nbytes=200, blocks=1),
        Share(category=Category.SAVED_ACTIVATION, nbytes=40, blocks=1),
        Share(category=Category.TEMPORARY_FORWARD, nbytes=20, blocks=1),
        Share(category=Category.SCRATCH, nbytes=10, blocks=1),
        Share(category=Category.INPUT, nbytes=1, blocks=1),
    )
    assert explanation.modules == (
        ModuleShare(module="net.fc", category=Category.OPTIMIZER_STATE, nbytes=200),
        ModuleShare(module="net.fc", category=Category.PARAMETER, nbytes=100),
        ModuleShare(module="net.fc", category=Category.SAVED_ACTIVATION, nbytes=40),
        ModuleShare(module="", category=Category.TEMPORARY_FORWARD, nbytes=20),
        ModuleShare(module="", category=Category.SCRATCH, nbytes=10),
        ModuleShare(module="", category=Category.INPUT, nbytes=1),
    )


def test_sites_owners_phases_and_curve_of_a_small_step() -> None:
    explanation = receipt(step())
    line_7, line_9 = (Site(file="m.py", line=line, function="forward") for line in (7, 9))
    assert explanation.sites == (
        SiteShare(site=line_7, nbytes=40, blocks=1),
        SiteShare(site=line_9, nbytes=30, blocks=2),
    )
    assert explanation.owners[2] == Owner(
        module="net.fc",
        category=Category.SAVED_ACTIVATION,
        op="aten.addmm",
        site=line_7,
        nbytes=40,
        blocks=1,
        why="saved by ReluBackward0 for its backward, still to come",
    )
    assert explanation.phases == (
        PhaseCost(phase=Phase.FORWARD, ops=2, flops=60, peak=371),
        PhaseCost(phase=Phase.BACKWARD, ops=1, flops=3, peak=341),
    )
    assert explanation.curve.ticks == tuple(range(10))
    assert explanation.curve.labels[1] == ""
    assert explanation.curve.labels[2] == explanation.curve.labels[4] == "aten.addmm  net.fc  m.py:7"
    assert explanation.curve.labels[6] == "aten.relu  m.py:9"
    check_sums(explanation)
    assert Explanation.from_json(explanation.to_json()) == explanation


def test_a_phase_that_comes_twice_is_one_row() -> None:
    script = Script(ticks=9, spans=((Phase.FORWARD, 0, 3), (Phase.OPTIMIZER, 3, 6), (Phase.FORWARD, 6, 9)))
    script.block(5, Category.OTHER, 1, 2)
    script.block(2, Category.OTHER, 3, 8)
    assert receipt(script.timeline()).phases == (
        PhaseCost(phase=Phase.FORWARD, ops=0, flops=0, peak=5),
        PhaseCost(phase=Phase.OPTIMIZER, ops=0, flops=0, peak=2),
    )


def test_a_timeline_without_ticks_or_blocks() -> None:
    for ticks in (0, 3):
        explanation = receipt(Script(ticks=ticks).timeline())
        assert (explanation.peak, explanation.shares, explanation.owners) == (0, (), ())
        assert explanation.instant.op == ""


def test_a_state_without_a_known_parameter_has_no_module() -> None:
    script = Script(ticks=2)
    script.block(8, Category.PARAMETER, 0, 2, name="a.b.weight")
    script.block(4, Category.OPTIMIZER_STATE, 0, 2, name="a.b.weight.inner.step")
    script.block(2, Category.OPTIMIZER_STATE, 0, 2, name="a.b.other")
    script.block(1, Category.BUFFER, 0, 2, name="a.b.mean")
    assert receipt(script.timeline()).modules == (
        ModuleShare(module="a.b", category=Category.PARAMETER, nbytes=8),
        ModuleShare(module="a.b", category=Category.OPTIMIZER_STATE, nbytes=4),
        ModuleShare(module="", category=Category.OPTIMIZER_STATE, nbytes=2),
        ModuleShare(module="a.b", category=Category.BUFFER, nbytes=1),
    )


def test_smaller_groups_are_folded_into_one_row() -> None:
    script = Script(ticks=2)
    for size in range(1, 51):
        script.block(size, Category.PARAMETER, 0, 2, name=f"layer{size}.weight")
    owners = receipt(script.timeline()).owners
    assert len(owners) == 41
    assert (owners[0].nbytes, owners[39].nbytes) == (50, 11)
    assert (owners[40].why, owners[40].nbytes, owners[40].blocks) == ("10 smaller groups", 55, 10)


@pytest.fixture(scope="module", params=WORKS.values(), ids=WORKS.keys())
def traced(request: pytest.FixtureRequest) -> Iterator[list[Timeline]]:
    """A training step and an inference of one net."""
    work = request.param
    yield [trace(each, steps=2, calibrate=False) for each in (work, work.inference())]


def test_every_breakdown_of_real_nets_sums_to_the_peak(traced: list[Timeline]) -> None:
    for timeline in traced:
        explanation = receipt(timeline)
        assert explanation.peak == timeline.peak > 0
        check_sums(explanation)


def test_phases_of_real_nets_count_every_op(traced: list[Timeline]) -> None:
    for timeline in traced:
        costs = receipt(timeline).phases
        assert sum(cost.ops for cost in costs) == len(timeline.ops)
        assert sum(cost.flops for cost in costs) == int(timeline.ops.flops.sum())


def test_parameters_of_real_nets_are_in_their_own_modules(traced: list[Timeline]) -> None:
    explanation = receipt(traced[0])
    static = {Category.PARAMETER: 1, Category.OPTIMIZER_STATE: 2}  # AdamW: two states of the parameter's size
    rows = {
        category: {row.module: row.nbytes for row in explanation.modules if row.category is category}
        for category in static
    }
    assert "" not in rows[Category.PARAMETER]
    for module, nbytes in rows[Category.PARAMETER].items():
        assert (
            0 <= rows[Category.OPTIMIZER_STATE][module] - 2 * nbytes <= 4 * 16
        )  # and a step count of 4 B each


def long(ticks: int) -> Timeline:
    """A sawtooth with one high tooth: block i lives from tick i for ten ticks."""
    script = Script(ticks=ticks, spans=((Phase.FORWARD, 0, 777), (Phase.BACKWARD, 777, ticks)))
    for tick in range(0, ticks - 10, 7):
        script.block(1 + tick % 13, Category.TEMPORARY_FORWARD, tick, tick + 10)
    script.block(1000, Category.PARAMETER, ticks // 3, ticks // 3 + 1)
    script.block(500, Category.BUFFER, 0, ticks // 2)  # and not for one tick in the middle
    script.block(500, Category.BUFFER, ticks // 2 + 1, ticks)
    return script.timeline()


def test_the_curve_sample_is_short_and_keeps_what_matters() -> None:
    timeline = long(20_000)
    curve, sample = timeline.curve, receipt(timeline).curve
    totals = np.sum([line.nbytes for line in sample.categories], axis=0)
    assert len(sample.ticks) <= LIMIT
    assert list(sample.ticks) == sorted(set(sample.ticks))
    assert {0, 777, 10_000, 19_999, timeline.peak_tick} <= set(sample.ticks)
    assert totals.tolist() == curve[list(sample.ticks)].tolist()
    width = 40  # wider than a bucket twice: in any such stretch a sample has its extremes or nearly so
    assert totals.max() == curve.max()
    assert totals.min() == curve.min()
    assert max(np.diff(sample.ticks)) <= 2 * width


def test_a_step_with_many_phases_still_has_a_short_sample() -> None:
    spans = [(Phase.OPTIMIZER if tick % 4 else Phase.BACKWARD, tick, tick + 2) for tick in range(0, 9000, 2)]
    timeline = replace(long(9000), phases=Script(ticks=9000, spans=spans).timeline().phases)
    assert len(receipt(timeline).curve.ticks) <= LIMIT


def test_two_hundred_thousand_blocks_are_explained_in_seconds() -> None:
    timeline = large(200_000)
    start = time.perf_counter()
    explanation = receipt(timeline)
    assert time.perf_counter() - start < 10
    assert explanation.peak == 4 * 100_000
    check_sums(explanation)


def large(count: int) -> Timeline:
    """One op per block; each block is read by a later op, and half of them are alive at the peak."""
    script = Script(ticks=2 * count)
    script.op("aten.mul", 0, line=3)
    script.block(4, Category.TEMPORARY_FORWARD, 0, 1, op=0, line=3)
    one = script.timeline()
    ids = np.arange(count)
    filled = {name: np.zeros(count, np.int64) for name in one.blocks.__slots__}
    blocks = replace(
        one.blocks,
        **filled
        | {
            "nbytes": np.full(count, 4),
            "category": np.full(count, one.blocks.category[0]),
            "born": ids,
            "natural": ids + count // 2,
            "op": ids,
            "call": np.full(count, -1),
            "name": np.full(count, -1),
        },
    )
    empty = Ragged.of([()] * count)
    reads = Ragged(offsets=np.arange(count + 1), values=np.maximum(ids - count // 4, 0))
    ops = replace(
        one.ops,
        **filled_ops(one, count)
        | {
            "tick": ids,
            "call": np.full(count, -1),
            "reads": reads,
            "writes": empty,
            "node": np.full(count, -1),
        },
    )
    return replace(one, blocks=blocks, ops=ops)


def filled_ops(one: Timeline, count: int) -> dict[str, np.ndarray]:
    plain = [name for name in one.ops.__slots__ if name not in ("reads", "writes")]
    return {name: np.repeat(getattr(one.ops, name), count) for name in plain}
