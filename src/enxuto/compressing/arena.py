"""onnxruntime's memory for activations, replayed: which tensors share a buffer, and where its arena puts them.

Nothing here runs a network. Sizes and lifetimes go in; the pages that would be touched come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: `BFCArena` in onnxruntime/core/framework/bfc_arena.h: `kMinAllocationSize`, to whose multiples sizes are rounded up;
#: `DEFAULT_INITIAL_CHUNK_SIZE_BYTES`, the least of the first region; `DEFAULT_MAX_DEAD_BYTES_PER_CHUNK`, more than
#: which a chunk never wastes. The strategy is `ArenaExtendStrategy::kNextPowerOfTwo` (arena_extend_strategy.h).
#: `DEFAULT_INITIAL_GROWTH_CHUNK_SIZE_BYTES` (2 MiB) counts only after `Shrink`, which nobody asks for here.
_ROUND = 256
_FIRST_REGION = 2**20
_MOST_WASTED = 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One kernel of the optimized graph.

    Attributes:
        inputs: names of the activations that it reads; weights and what the caller passes are left out.
        outputs: name and bytes of what it writes.
        in_place: its first output may take the place of any of these inputs that ends here, sizes being equal.
        scratch: bytes that it takes from the arena while it runs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    in_place: tuple[str, ...] = ()
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes alive from step `start` to step `end`, both inclusive; `scratch` ones are not planned beforehand."""

    size: int
    start: int
    end: int
    scratch: bool = False


def buffers(steps: Sequence[Step], kept: frozenset[str] = frozenset()) -> list[Buffer]:
    """The buffers that onnxruntime's planner gives the outputs of steps, in the order of their first use.

    A tensor takes its input's buffer where the kernel may, else that of a dead tensor of the same size, else a new
    one (`AllocationPlanner::ComputeReusePlan`).

    Args:
        steps: in the order they run.
        kept: names that live to the end: the graph's outputs.
    """
    last = _last_uses(steps, kept)
    found: dict[int, list[int]] = {}  # by number: size, start, end
    of: dict[str, int] = {}
    free: list[int] = []  # most recently freed first
    for index, step in enumerate(steps):
        for position, (name, size) in enumerate(step.outputs):
            own = _in_place(step, position, size, last, of, found, index)
            if own is None:
                own = next((number for number in free if found[number][0] == size), None)
                if own is None:
                    own = len(found)
                    found[own] = [size, index, index]
                else:
                    free.remove(own)
            of[name] = own
            found[own][2] = max(found[own][2], last.get(name, index))
        for name in dict.fromkeys((*step.inputs, *(name for name, _ in step.outputs))):
            if name in of and last.get(name, index) == index and found[of[name]][2] == index:
                free.insert(0, of[name])
    planned = [Buffer(size, start, end) for size, start, end in found.values()]
    scratch = [Buffer(s.scratch, i, i, scratch=True) for i, s in enumerate(steps) if s.scratch]
    return sorted(planned + scratch, key=lambda buffer: buffer.start)


def planned_bytes(planned: Sequence[Buffer]) -> int:
    """Size of the one block that holds all planned buffers, each put into the smallest gap that takes it.

    `MemPatternPlanner` in onnxruntime/core/framework/mem_pattern_planner.h.
    """
    alive: list[tuple[int, int, Buffer]] = []  # offset, end offset
    top = 0
    for buffer in planned:
        if buffer.scratch:
            continue
        alive = sorted(block for block in alive if block[2].end >= buffer.start)
        size, best, edge = _rounded(buffer.size), None, 0
        for offset, end, _ in alive:
            if offset - edge >= size and (best is None or offset - edge < best[1]):
                best = (edge, offset - edge)
            edge = max(edge, end)
        at = edge if best is None else best[0]
        alive.append((at, at + size, buffer))
        top = max(top, at + size)
    return top


def touched_bytes(planned: Sequence[Buffer], *, pattern: bool, hole: int = 0, holes: int = 0) -> int:
    """Bytes of the arena's pages that are written when the buffers are first taken one by one, and then, with a
    memory pattern, in one block at the second run.

    Regions of up to `hole` bytes, `holes` in all, are cut from what the C library's heap has free already: their
    pages were written before, and count nothing.
    """
    arena = _Arena()
    _replay(arena, planned)
    if pattern:
        block = arena.take(planned_bytes(planned))
        _replay(arena, [buffer for buffer in planned if buffer.scratch])
        arena.give(block)
    total = 0
    for region in arena.regions:
        if region.size <= min(hole, holes):
            holes -= region.size
        else:
            total += region.touched
    return total


def _replay(arena: _Arena, planned: Sequence[Buffer]) -> None:
    ends: dict[int, list[_Chunk]] = {}
    steps = sorted({buffer.start for buffer in planned} | {buffer.end for buffer in planned})
    starting: dict[int, list[Buffer]] = {}
    for buffer in planned:
        starting.setdefault(buffer.start, []).append(buffer)
    for step in steps:
        for buffer in starting.get(step, ()):
            ends.setdefault(buffer.end, []).append(arena.take(buffer.size))
        for chunk in ends.pop(step, ()):
            arena.give(chunk)


def _last_uses(steps: Sequence[Step], kept: frozenset[str]) -> Mapping[str, int]:
    last = {name: index for index, step in enumerate(steps) for name in step.inputs}
    return last | dict.fromkeys(kept, len(steps) - 1)


def _in_place(
    step: Step,
    position: int,
    size: int,
    last: Mapping[str, int],
    of: Mapping[str, int],
    found: Mapping[int, list[int]],
    index: int,
) -> int | None:
    if position:
        return None
    for name in step.in_place:
        if name in of and last.get(name) == index and found[of[name]][0] == size:
            return of[name]
    return None


def _rounded(size: int) -> int:
    return max(_ROUND, -(-size // _ROUND) * _ROUND)


@dataclass(slots=True, eq=False)
class _Chunk:
    """A piece of a region; pieces lie side by side in the region's list."""

    region: _Region
    offset: int
    size: int
    free: bool


@dataclass(slots=True, eq=False)
class _Region:
    """One block that the arena got from malloc; pages count once they are written."""

    size: int
    chunks: list[_Chunk] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def touched(self) -> int:
        """Bytes in the union of what was written."""
        total, edge = 0, 0
        for start, end in sorted(self.spans):
            total += max(0, end - max(start, edge))
            edge = max(edge, end)
        return total


class _Arena:
    """onnxruntime's BFCArena: best fit (`FindChunkPtr`) in doubling regions (`Extend`); a chunk is split where half of
    it would be left over (`SplitFreeChunkFromBin`), and merged with free neighbours (`Coalesce`); bfc_arena.cc."""

    def __init__(self) -> None:
        self.regions: list[_Region] = []
        self._next = _FIRST_REGION

    def take(self, size: int) -> _Chunk:
        """A chunk, all of whose `size` bytes are written."""
        rounded = _rounded(size)
        chunk = self._fitting(rounded) or self._extended(rounded)
        if chunk.size >= 2 * rounded or chunk.size - rounded >= _MOST_WASTED:
            rest = _Chunk(chunk.region, chunk.offset + rounded, chunk.size - rounded, True)
            chunk.region.chunks.insert(chunk.region.chunks.index(chunk) + 1, rest)
            chunk.size = rounded
        chunk.free = False
        chunk.region.spans.append((chunk.offset, chunk.offset + size))
        return chunk

    def give(self, chunk: _Chunk) -> None:
        """Free a chunk and merge it with free neighbours."""
        chunk.free = True
        chunks = chunk.region.chunks
        place = chunks.index(chunk)
        for left, right in ((place, place + 1), (place - 1, place)):
            if left >= 0 and right < len(chunks) and chunks[left].free and chunks[right].free:
                chunks[left].size += chunks[right].size
                del chunks[right]

    def _fitting(self, size: int) -> _Chunk | None:
        free = (
            chunk for region in self.regions for chunk in region.chunks if chunk.free and chunk.size >= size
        )
        return min(free, key=lambda chunk: chunk.size, default=None)

    def _extended(self, size: int) -> _Chunk:
        grown = size > self._next
        while size > self._next:
            self._next *= 2
        region = _Region(self._next)
        region.chunks.append(_Chunk(region, 0, self._next, True))
        if not grown:
            self._next *= 2
        self.regions.append(region)
        return region.chunks[0]
