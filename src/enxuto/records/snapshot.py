"""Snapshot: the state of PyTorch's CUDA allocator, and the events that led to it.

`torch.cuda.memory._dump_snapshot` writes it as a pickle; `snapshot_file` reads that without running any of it.
Source of the structure: the docstring of `torch.cuda.memory._snapshot`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar

import numpy as np

from ..errors import RecordError
from . import codec, display
from .columns import Array, Columns, Ragged
from .timeline import Site

NO_STACK = -1


class BlockState(Enum):
    """Of a piece of a segment."""

    ALLOCATED = "active_allocated"  # a tensor has it
    AWAITING_FREE = "active_awaiting_free"  # freed, and another stream may still use it
    INACTIVE = "inactive"  # cached, free for reuse
    AWAITING_EVENT = "active_pending_free"  # as AWAITING_FREE, by an older name


class AllocatorAction(Enum):
    """What the allocator did."""

    ALLOC = "alloc"
    FREE_REQUESTED = "free_requested"
    FREE_COMPLETED = "free_completed"
    SEGMENT_ALLOC = "segment_alloc"
    SEGMENT_FREE = "segment_free"
    SEGMENT_MAP = "segment_map"
    SEGMENT_UNMAP = "segment_unmap"
    OOM = "oom"
    SNAPSHOT = "snapshot"
    OTHER = "other"  # of a newer PyTorch; changes no figure here


STATES = tuple(BlockState)
ACTIONS = tuple(AllocatorAction)
STATE_CODE = {state: code for code, state in enumerate(STATES)}
ACTION_CODE = {action: code for code, action in enumerate(ACTIONS)}
_GROWS = (ACTION_CODE[AllocatorAction.SEGMENT_ALLOC], ACTION_CODE[AllocatorAction.SEGMENT_MAP])
_SHRINKS = (ACTION_CODE[AllocatorAction.SEGMENT_FREE], ACTION_CODE[AllocatorAction.SEGMENT_UNMAP])
_NOT_THE_USERS = re.compile(r"(^|/)(site-packages|dist-packages|torch|lib/python3[.]\d+)/|^<|^[?]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Memory that the device gave in one piece; the sum of all is what the process has reserved."""

    device: int
    address: int
    nbytes: int
    large: bool  # of the pool of requests above 1 MiB
    stream: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments(Columns[Segment]):
    """The segments of a Snapshot, as columns."""

    device: np.ndarray
    address: np.ndarray
    nbytes: np.ndarray
    large: np.ndarray
    stream: np.ndarray

    def row(self, index: int) -> Segment:
        return Segment(
            device=int(self.device[index]),
            address=int(self.address[index]),
            nbytes=int(self.nbytes[index]),
            large=bool(self.large[index]),
            stream=int(self.stream[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentBlock:
    """A piece of segment `segment`: `nbytes` of it, of which a tensor asked for `requested`; `stack` is where."""

    segment: int
    address: int
    nbytes: int
    requested: int
    state: BlockState
    stack: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentBlocks(Columns[SegmentBlock]):
    """The blocks of a Snapshot, as columns."""

    segment: np.ndarray
    address: np.ndarray
    nbytes: np.ndarray
    requested: np.ndarray
    state: np.ndarray
    stack: np.ndarray

    def row(self, index: int) -> SegmentBlock:
        return SegmentBlock(
            segment=int(self.segment[index]),
            address=int(self.address[index]),
            nbytes=int(self.nbytes[index]),
            requested=int(self.requested[index]),
            state=STATES[self.state[index]],
            stack=int(self.stack[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorEvent:
    """One action; `microseconds` since 1970, 0 where the file does not tell."""

    device: int
    action: AllocatorAction
    address: int
    nbytes: int
    stack: int
    microseconds: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AllocatorEvents(Columns[AllocatorEvent]):
    """The events of a Snapshot, device by device, as columns."""

    device: np.ndarray
    action: np.ndarray
    address: np.ndarray
    nbytes: np.ndarray
    stack: np.ndarray
    microseconds: np.ndarray

    def row(self, index: int) -> AllocatorEvent:
        return AllocatorEvent(
            device=int(self.device[index]),
            action=ACTIONS[self.action[index]],
            address=int(self.address[index]),
            nbytes=int(self.nbytes[index]),
            stack=int(self.stack[index]),
            microseconds=int(self.microseconds[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one line of source holds: `site` is None where no history was recorded."""

    site: Site | None
    nbytes: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lives:
    """Blocks of one device over its recorded events: alive at instant t ⇔ born <= t < died.

    Instant 0 is before the first event, t after the t-th. A life that begins before the history has born 0, one
    that goes on after it has died = instants.
    """

    born: Array
    died: Array
    nbytes: Array
    stack: Array
    curve: Array  # requested bytes alive at every instant

    @property
    def instants(self) -> int:
        """How many instants there are: one more than events."""
        return len(self.curve)


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What PyTorch's CUDA allocator held on every device, by segment and block, and how it came to it.

    `frames` has every source line once; `stacks` index it, innermost first; events and blocks index `stacks`.
    """

    kind: ClassVar[str] = "memory-snapshot"
    version: ClassVar[int] = 1

    name: str
    segments: Segments
    blocks: SegmentBlocks
    events: AllocatorEvents
    frames: tuple[Site, ...]
    stacks: Ragged
    settings: tuple[str, ...] = ()  # of the allocator, those that are set, as "name: value"

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices that have a segment or an event."""
        return tuple(np.union1d(self.segments.device, self.events.device).astype(int).tolist())

    @property
    def reserved(self) -> int:
        """Bytes that the process took from its devices."""
        return int(self.segments.nbytes.sum())

    @property
    def allocated(self) -> int:
        """Bytes of blocks that tensors have."""
        return int(self.blocks.nbytes[self._in(BlockState.ALLOCATED)].sum())

    @property
    def requested(self) -> int:
        """Bytes that tensors asked for; `allocated` is these, rounded up."""
        return int(self.blocks.requested[self._in(BlockState.ALLOCATED)].sum())

    @property
    def free(self) -> int:
        """Reserved bytes that are in no tensor and await nothing."""
        return int(self.blocks.nbytes[self._in(BlockState.INACTIVE)].sum())

    @property
    def awaiting(self) -> int:
        """Bytes that were freed and that another stream may still use."""
        return sum(int(self.blocks.nbytes[self._in(state)].sum()) for state in _WAITING)

    @property
    def largest_free(self) -> int:
        """The largest free block: a larger request needs new memory from the device."""
        return int(self.blocks.nbytes[self._in(BlockState.INACTIVE)].max(initial=0))

    @property
    def stranded(self) -> int:
        """Free bytes in segments that are partly in use: `empty_cache()` cannot give them back."""
        free = self._in(BlockState.INACTIVE)
        used = np.isin(self.blocks.segment, self.blocks.segment[~free])
        return int(self.blocks.nbytes[free & used].sum())

    @property
    def fragmentation_ratio(self) -> float:
        """The share of the reserved bytes that is stranded."""
        return self.stranded / self.reserved if self.reserved else 0.0

    def user_frame(self, stack: int) -> Site | None:
        """The user's innermost line of a stack, its innermost line where none is the user's; None without stack."""
        if stack == NO_STACK or not self.stacks[stack]:
            return None
        lines = [self.frames[frame] for frame in self.stacks[stack]]
        return next((line for line in lines if not _NOT_THE_USERS.search(line.file)), lines[0])

    def held(self) -> tuple[Held, ...]:
        """The allocated bytes by line of source, most first; they add up to `allocated`."""
        chosen = self._in(BlockState.ALLOCATED)
        return self._by_site(self.blocks.stack[chosen], self.blocks.nbytes[chosen])

    def held_at_peak(self, device: int) -> tuple[Held, ...]:
        """The requested bytes by line of source at the highest instant of the history; they add up to it."""
        lives = self.lives(device)
        peak = int(lives.curve.argmax())
        alive = (lives.born <= peak) & (peak < lives.died)
        return self._by_site(lives.stack[alive], lives.nbytes[alive])

    def lives(self, device: int) -> Lives:
        """Each block of a device, from its allocation to the request to free it."""
        chosen = self.events.device == device
        columns = (self.events.action, self.events.address, self.events.nbytes, self.events.stack)
        rows = zip(*(column[chosen].tolist() for column in columns), strict=True)
        alive: dict[int, tuple[int, int, int]] = {}  # address: born, nbytes, stack
        ended: list[tuple[int, int, int, int]] = []  # born, died, nbytes, stack
        for instant, (action, address, nbytes, stack) in enumerate(rows, start=1):
            if action == _ALLOC:
                alive[address] = (instant, nbytes, stack)
            elif action == _FREE:
                born, size, where = alive.pop(address, (0, nbytes, NO_STACK))
                ended.append((born, instant, size, where))
        instants = int(chosen.sum()) + 1
        for address, requested, stack in self._allocated_on(device):
            born, _, where = alive.get(address, (0, 0, stack))
            ended.append((born, instants, requested, where if where != NO_STACK else stack))
        born_at, died, held, stacks = np.array(ended, np.int64).reshape(-1, 4).T
        change = np.zeros(instants + 1, np.int64)
        np.add.at(change, born_at, held)
        np.subtract.at(change, died, held)
        return Lives(born=born_at, died=died, nbytes=held, stack=stacks, curve=np.cumsum(change)[:-1])

    def reserved_curve(self, device: int) -> Array:
        """Reserved bytes of a device at every instant of its history, counted back from what is reserved now."""
        chosen = self.events.device == device
        action, nbytes = self.events.action[chosen], self.events.nbytes[chosen]
        change = np.where(np.isin(action, _GROWS), nbytes, np.where(np.isin(action, _SHRINKS), -nbytes, 0))
        now = int(self.segments.nbytes[self.segments.device == device].sum())
        grown = np.concatenate([[0], np.cumsum(change)])
        curve: Array = now - grown[-1] + grown
        return curve

    def to_json(self) -> bytes:
        """This Snapshot as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Snapshot:
        """Read a Snapshot; raises RecordError for anything else."""
        snapshot: Snapshot = codec.from_json(text, expect=cls)
        return snapshot

    def check_columns(self) -> None:
        """Raise RecordError where columns differ in length or point outside of their tables."""
        for table in (self.segments, self.blocks, self.events):
            if len({len(getattr(table, field.name)) for field in fields(table)}) > 1:
                raise RecordError(
                    f"this snapshot is corrupt: columns of {type(table).__name__} differ in length"
                )
        for column, size in (
            (self.blocks.segment, len(self.segments)),
            (self.blocks.state, len(STATES)),
            (self.events.action, len(ACTIONS)),
            (self.blocks.stack + 1, len(self.stacks) + 1),
            (self.events.stack + 1, len(self.stacks) + 1),
            (self.stacks.values, len(self.frames)),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < size):
                raise RecordError("this snapshot is corrupt: an index points outside of its table")

    def _in(self, state: BlockState) -> Array:
        chosen: Array = self.blocks.state == STATE_CODE[state]
        return chosen

    def _allocated_on(self, device: int) -> list[tuple[int, int, int]]:
        """Address, requested bytes and stack of the blocks that tensors have now."""
        chosen = self._in(BlockState.ALLOCATED) & (self.segments.device[self.blocks.segment] == device)
        columns = (self.blocks.address, self.blocks.requested, self.blocks.stack)
        return list(zip(*(column[chosen].tolist() for column in columns), strict=True))

    def _by_site(self, stacks: Array, nbytes: Array) -> tuple[Held, ...]:
        found: dict[Site | None, tuple[int, int]] = {}
        frames = {stack: self.user_frame(stack) for stack in np.unique(stacks).tolist()}
        for stack, size in zip(stacks.tolist(), nbytes.tolist(), strict=True):
            held, blocks = found.get(frames[stack], (0, 0))
            found[frames[stack]] = (held + size, blocks + 1)
        rows = (Held(site=site, nbytes=held, blocks=blocks) for site, (held, blocks) in found.items())
        return tuple(sorted(rows, key=lambda row: -row.nbytes))

    def _repr_html_(self) -> str | None:
        return display.html(self)


_ALLOC, _FREE = ACTION_CODE[AllocatorAction.ALLOC], ACTION_CODE[AllocatorAction.FREE_REQUESTED]
_WAITING = (BlockState.AWAITING_FREE, BlockState.AWAITING_EVENT)
