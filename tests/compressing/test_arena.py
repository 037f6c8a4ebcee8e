"""The replay of onnxruntime's activation memory: laws over random lifetimes, then examples by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from enxuto.compressing import arena
from enxuto.compressing.arena import Buffer, Step, buffers, planned_bytes, touched_bytes

MIB = 2**20


def random_buffers(seed: int) -> list[Buffer]:
    draw = random.Random(seed)
    found = []
    for _ in range(draw.randint(1, 40)):
        start = draw.randrange(30)
        size = draw.choice([256, 1000, 4096, 2**16, 3 * 2**18, 2**20, 5 * 2**20])
        found.append(Buffer(size, start, start + draw.randrange(6)))
    return sorted(found, key=lambda buffer: buffer.start)


def most_alive(found: list[Buffer]) -> int:
    return max(sum(b.size for b in found if b.start <= at <= b.end) for at in range(40))


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_holds_all_that_is_alive_and_less_than_all(seed: int) -> None:
    found = random_buffers(seed)
    rounded = [Buffer(arena._rounded(b.size), b.start, b.end) for b in found]
    assert most_alive(rounded) <= planned_bytes(found) <= sum(b.size for b in rounded)


@pytest.mark.parametrize("seed", range(60))
def test_chunks_never_overlap_and_pages_hold_what_is_alive(seed: int) -> None:
    found = random_buffers(seed)
    taken: dict[int, tuple[arena._Chunk, Buffer]] = {}
    memory = arena._Arena()
    for at in range(40):
        for index, buffer in enumerate(found):
            if buffer.start == at:
                taken[index] = (memory.take(buffer.size), buffer)
        spans = sorted((id(c.region), c.offset, c.offset + b.size) for c, b in taken.values())
        for (region, _, end), (other, start, _) in itertools.pairwise(spans):
            assert region != other or end <= start
        for index in [i for i, (_, b) in taken.items() if b.end == at]:
            memory.give(taken.pop(index)[0])
    assert all(region.chunks[0].size == region.size and len(region.chunks) == 1 for region in memory.regions)
    touched = touched_bytes(found, pattern=False)
    assert touched == sum(region.touched for region in memory.regions)
    assert most_alive(found) <= touched <= sum(region.size for region in memory.regions)
    assert touched <= touched_bytes(found, pattern=True)


def test_regions_start_at_one_mebibyte_and_double() -> None:
    memory = arena._Arena()
    for size in (MIB // 2, MIB, MIB, 5 * MIB):
        memory.take(size)
    assert [region.size for region in memory.regions] == [MIB, 2 * MIB, 8 * MIB]


def test_a_plan_counts_in_units_of_256_bytes_and_fills_the_smallest_gap() -> None:
    assert planned_bytes([Buffer(1, 0, 0)]) == 256
    # alive at 2: 1024 at the bottom, a gap of 512, 256, a gap of 256, 256; the last one goes into the smaller gap
    at_first = [
        Buffer(1024, 0, 9),
        Buffer(512, 0, 1),
        Buffer(256, 0, 9),
        Buffer(256, 0, 1),
        Buffer(256, 0, 9),
    ]
    assert planned_bytes([*at_first, Buffer(256, 2, 9), Buffer(512, 3, 9)]) == 2304


def test_holes_take_small_regions_and_no_large_ones() -> None:
    found = [Buffer(MIB, 0, 3), Buffer(6 * MIB, 1, 3)]
    assert touched_bytes(found, pattern=False) == 7 * MIB
    assert touched_bytes(found, pattern=False, hole=MIB, holes=4 * MIB) == 6 * MIB
    assert touched_bytes(found, pattern=False, hole=16 * MIB, holes=16 * MIB) == 0
    assert touched_bytes(found, pattern=False, hole=MIB, holes=MIB // 2) == 7 * MIB


def test_a_chain_of_equal_sizes_needs_two_buffers() -> None:
    steps = [Step(inputs=(f"h{i}",), outputs=((f"h{i + 1}", 1000),)) for i in range(6)]
    assert [buffer.size for buffer in buffers(steps)] == [1000, 1000]


def test_what_is_computed_in_place_needs_no_buffer_of_its_own() -> None:
    steps = [
        Step(inputs=("x",), outputs=(("a", 512),)),
        Step(inputs=("a",), outputs=(("b", 512),), in_place=("a",)),
        Step(inputs=("b",), outputs=(("c", 256),), in_place=("b",)),
    ]
    assert buffers(steps) == [Buffer(512, 0, 2), Buffer(256, 2, 2)]


def test_a_shortcut_keeps_its_input_alive() -> None:
    steps = [
        Step(inputs=("x",), outputs=(("a", 512),)),
        Step(inputs=("a",), outputs=(("b", 512),), in_place=("a",)),  # read again below: not in its place
        Step(inputs=("a", "b"), outputs=(("c", 512),), in_place=("a", "b")),
    ]
    assert buffers(steps) == [Buffer(512, 0, 2), Buffer(512, 1, 2)]


def test_results_live_to_the_end() -> None:
    steps = [Step(inputs=("x",), outputs=(("y", 512),)), *(Step(inputs=(), outputs=()) for _ in range(3))]
    assert buffers(steps, kept=frozenset({"y"})) == [Buffer(512, 0, 3)]


def test_scratch_is_taken_beside_the_plan() -> None:
    steps = [Step(inputs=("x",), outputs=(("y", 512),), scratch=4096)]
    found = buffers(steps)
    assert planned_bytes(found) == 512
    assert touched_bytes(found, pattern=False) == 512 + 4096
