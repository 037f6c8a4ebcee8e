"""Two traces give the Timeline at any batch size, to the byte; where they do not, it is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from enxuto.devices import ScratchTable
from enxuto.errors import UndecidableError, UsageError
from enxuto.predicting import Scaling, mismatch
from enxuto.records import CATEGORY_CODE, Category, Ragged, Timeline, from_json
from enxuto.testing import check_timeline, random_timeline
from enxuto.tracing import trace
from enxuto.workload import Workload
from tests.predicting import works


def traced(work: Workload, size: int, steps: int = 1) -> Timeline:
    """A dry trace whose kernel scratch is 0, whatever this machine's table holds: on a line at every size."""
    return trace(work.at_batch(size), steps=steps, scratch=ScratchTable({}), calibrate=False)


def scaling(work: Workload) -> Scaling:
    return Scaling(traced(work, 4), traced(work, 6))


def calls(timeline: Timeline) -> list[str]:
    """What each op was called with."""
    return [timeline.signatures[i] if i >= 0 else "" for i in timeline.ops.signature.tolist()]


@pytest.mark.parametrize(("net", "steps"), [*((net, 1) for net in works.NETS), ("gpt", 3)])
def test_the_line_through_two_sizes_is_a_trace_at_a_third(net: str, steps: int) -> None:
    small, large, fresh = (traced(works.NETS[net], size, steps) for size in (4, 6, 9))
    line, size = Scaling(small, large), 9
    predicted = line.at(size)
    check_timeline(predicted)
    births = fresh.blocks.born
    assert (predicted.curve[births] == fresh.curve[births]).all()
    assert predicted.curve.tolist() == fresh.curve.tolist()
    assert predicted.blocks.nbytes.tolist() == fresh.blocks.nbytes.tolist()
    assert predicted.ops.flops.tolist() == fresh.ops.flops.tolist()
    assert calls(predicted) == calls(fresh)
    assert mismatch(predicted, fresh) == ""
    assert (line.superlinear, line.caveats) == ((), ())
    assert line.peak_at(size) == fresh.peak == predicted.peak


def sized(seed: int, size: int) -> Timeline:
    """A random Timeline whose bytes, flops and scratch are a + c·size, a and c by chance and alike at every size."""
    base, rng = random_timeline(seed), np.random.default_rng(seed)
    blocks, ops = base.blocks, base.ops
    is_scratch = blocks.category == CATEGORY_CODE[Category.SCRATCH]
    fixed, per_item = rng.integers(0, 2**20, (2, len(blocks)))
    nbytes = fixed + size * per_item
    scratch = np.zeros(len(ops), np.int64)
    scratch[blocks.op[is_scratch]] = nbytes[is_scratch]
    none = Ragged.of([()] * len(ops))  # random ops read scratch, which real ones never do
    flops = rng.integers(0, 2**20, len(ops)) + size * rng.integers(0, 2**20, len(ops))
    return replace(
        base,
        blocks=replace(blocks, nbytes=nbytes),
        ops=replace(ops, scratch=scratch, flops=flops, reads=none, writes=none),
        calls=replace(base.calls, arguments=Ragged.of([()] * len(base.calls))),
        facts=replace(base.facts, batch_size=size),
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_lines_are_found_again(seed: int) -> None:
    small, large, size = np.random.default_rng(seed).choice(np.arange(2, 99), 3, replace=False).tolist()
    small, large = sorted((small, large))
    line, truth = Scaling(sized(seed, small), sized(seed, large)), sized(seed, size)
    predicted = line.at(size)
    check_timeline(predicted)
    assert predicted.curve.tolist() == truth.curve.tolist()
    assert predicted.ops.flops.tolist() == truth.ops.flops.tolist()
    assert predicted.ops.scratch.tolist() == truth.ops.scratch.tolist()
    assert predicted.facts.batch_size == size
    assert predicted.facts.notes[0] == f"scaled from traces at batch sizes {small} and {large}"
    assert line.superlinear == ()
    assert from_json(predicted.to_json()).curve.tolist() == truth.curve.tolist()
    assert line.largest(truth.peak) == size
    assert line.largest(truth.peak - 1) == size - 1
    for traced_size, timeline in ((small, line.low), (large, line.high)):
        assert line.at(traced_size).curve.tolist() == timeline.curve.tolist()


def test_blocks_of_n_by_n_are_named() -> None:
    line = scaling(works.training(works.Towers, loss=works.contrast))
    matrices = [block for block in line.superlinear if (block.low, block.high) == (4 * 4 * 4, 4 * 6 * 6)]
    assert matrices == list(line.superlinear)  # nothing else bends
    assert "aten.mm.default" in {block.op for block in matrices}
    assert all(block.site and block.site.file.endswith("predicting/works.py") for block in matrices[:1])
    assert line.caveats[0].startswith(
        f"{len(matrices)} blocks on no line, the first made by aten.mm.default at "
    )
    assert line.caveats[1] == "flops of 3 op calls on no line"  # the product, and its backward to either side
    assert set(line.caveats) <= set(line.at(9).facts.notes)


def test_bytes_in_steps_are_named() -> None:
    low, high = sized(3, 4), sized(3, 6)
    nbytes = high.blocks.nbytes.copy()
    nbytes[0] += 1  # no whole number of bytes for each sample
    line = Scaling(low, replace(high, blocks=replace(high.blocks, nbytes=nbytes)))
    assert [block.block for block in line.superlinear] == [0]


def test_scratch_that_follows_no_line_is_said() -> None:
    low, high = sized(3, 4), sized(3, 6)
    assert Scaling(low, high).caveats == ("kernel scratch is extended along a line from batch sizes 4 and 6",)
    assert Scaling(low, high).at(5).facts.scratch == "partly assumed"
    op = int(np.flatnonzero(high.ops.scratch)[0])
    scratch = np.where(np.arange(len(high.ops)) == op, 0, high.ops.scratch)
    nbytes = high.blocks.nbytes.copy()
    is_scratch = high.blocks.category == CATEGORY_CODE[Category.SCRATCH]
    kept = replace(
        high,
        blocks=replace(high.blocks, nbytes=np.where(is_scratch & (high.blocks.op == op), 0, nbytes)),
        ops=replace(high.ops, scratch=scratch),
    )
    line = Scaling(low, kept)
    assert line.caveats == ("kernel scratch of 1 op call on no line: kernels choose by size how to compute",)
    check_timeline(line.at(40))  # never below 0 bytes


def test_a_size_that_is_no_size_or_has_to_be_traced() -> None:
    line = Scaling(sized(3, 4), sized(3, 6))
    with pytest.raises(UndecidableError, match="trace it by itself"):
        line.at(1)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        line.at(0)
    for small, large in ((1, 4), (4, 4), (6, 4), (0, 4)):
        with pytest.raises(UsageError, match=f"not {small} and {large}"):
            Scaling(sized(3, small), sized(3, large))


def test_steps_that_do_not_match_say_where() -> None:
    loop = works.training(works.Loop, name="loop")
    with pytest.raises(
        UndecidableError, match=r"sizes 4 and 6 do not match: op \d+ is aten\.\S+ in one and aten"
    ):
        scaling(replace(loop, model=lambda: works.Loop(256, 64)))
    low, high = sized(4, 4), sized(4, 6)
    blocks = high.blocks
    for other, why in (
        (sized(3, 6), "their workloads are random 4 and random 3"),
        (replace(high, ticks=high.ticks + 1), "their clocks"),
        (replace(high, accumulations=()), "their accumulations differ"),
        (
            replace(high, blocks=replace(blocks, born=np.maximum(blocks.born - 1, 0))),
            "the blocks differ in born",
        ),
        (replace(high, saves=replace(high.saves, pack=high.saves.pack - 1)), "the saves differ in pack"),
    ):
        assert mismatch(low, other).startswith(why)


def test_tables_in_another_order_match() -> None:
    low, high = sized(3, 4), sized(3, 6)
    turned = np.arange(len(high.names))[::-1].astype(np.int32)

    def new(column: np.ndarray) -> np.ndarray:
        return np.where(column < 0, column, turned[column])

    same = replace(
        high,
        names=high.names[::-1],
        blocks=replace(high.blocks, name=new(high.blocks.name)),
        saves=replace(high.saves, node=new(high.saves.node)),
        calls=replace(high.calls, module=new(high.calls.module)),
        ops=replace(high.ops, name=new(high.ops.name), node=new(high.ops.node)),
    )
    assert mismatch(low, same) == ""
