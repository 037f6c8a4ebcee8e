"""Reading a PyTorch memory snapshot, which is a pickle, without trusting it.

A pickle is a program. This reader knows only the instructions that make plain values (numbers, texts, lists,
tuples, dicts): what imports, calls or builds objects is refused before it is looked at. It is the standard
library's reader in Python, whose table of read values is a dict: that of the reader in C is an array, which a
file of ten bytes can make fill the machine (https://github.com/python/cpython/issues/115952).
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from ..errors import RecordError
from .columns import Ragged
from .snapshot import (
    ACTION_CODE,
    NO_STACK,
    STATE_CODE,
    AllocatorAction,
    AllocatorEvents,
    BlockState,
    SegmentBlocks,
    Segments,
    Snapshot,
)
from .timeline import Site

#: Larger files are not read: their values would take some ten times their size.
MOST_BYTES = 2**30
#: A file of a megabyte can name one list a hundred thousand times; what it unfolds to is counted first.
MOST_ROWS = 20_000_000

_PLAIN = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)
_NAMES = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, struct.error, MemoryError),
    *(LookupError, TypeError, ValueError, AttributeError),
)
_Bytes = Annotated[int, msgspec.Meta(ge=0)]


class _PlainUnpickler(pickle._Unpickler):
    """Reads plain values; any other instruction is a KeyError of its code."""

    dispatch: ClassVar[dict[int, Any]] = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN}


class _Segment(msgspec.Struct):
    address: int
    total_size: _Bytes
    blocks: Any
    device: int = 0
    stream: int = 0
    segment_type: str = "large"


class _Block(msgspec.Struct):
    size: _Bytes
    state: str
    address: int = -1
    requested_size: _Bytes = -1
    frames: Any = None
    history: Any = None  # how PyTorch before 2.1 kept frames and the requested size


class _Event(msgspec.Struct):
    action: str
    size: _Bytes = 0
    addr: int = 0
    frames: Any = None
    time_us: int = 0


class _Frame(msgspec.Struct):
    filename: str
    line: int
    name: str


class _File(msgspec.Struct):
    segments: list[_Segment]
    device_traces: list[Any] = []  # of lists that are taken as they are: a copy unfolds what is one list
    allocator_settings: Any = None


def is_snapshot(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a pickle of protocol 2 or later does."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(2)
    except OSError:
        return False
    return len(start) == 2 and start[0] == pickle.PROTO[0] and 2 <= start[1] <= 5


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read the file that `torch.cuda.memory._dump_snapshot` wrote. Nothing in it is run.

    Raises:
        RecordError: the file is missing, larger than 1 GiB, damaged, or no such snapshot, or it holds anything but
            plain values.
    """
    name = os.fspath(path)
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise RecordError(
                f"{name} is larger than 1 GiB; record fewer events: _record_memory_history(max_entries=100000)"
            )
        content = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {name}: {error.strerror or error}") from None
    try:
        return _snapshot(Path(path).name, msgspec.convert(plain_values(content), _File))
    except (RecordError, msgspec.ValidationError, OverflowError) as error:
        raise RecordError(f"{name} is no memory snapshot of PyTorch: {error}") from None


def plain_values(content: bytes) -> Any:
    """What a pickle of plain values holds.

    Raises:
        RecordError: it is damaged, or has an instruction that imports, calls or builds something.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except KeyError as error:
        code = error.args[0]
        known = _NAMES.get(code)
        if known is None or code in _PlainUnpickler.dispatch:
            raise RecordError("the pickle is damaged") from None
        raise RecordError(
            f"the pickle holds more than plain values (instruction {known}) and was not opened: "
            "a snapshot needs none of that, so do not load this file with another program either"
        ) from None
    except _DAMAGED as error:
        raise RecordError(f"the pickle is damaged ({type(error).__name__})") from None


def _snapshot(name: str, file: _File) -> Snapshot:
    lists = [*(segment.blocks for segment in file.segments), *file.device_traces]
    if not all(isinstance(each, list) for each in lists):
        raise RecordError("its blocks and events are no lists")
    found = sum(map(len, lists))
    if found > MOST_ROWS:
        raise RecordError(f"it unfolds to {found:,} blocks and events, and {MOST_ROWS:,} are the most")
    stacks = _Stacks()
    blocks = _blocks(file, stacks)
    events = _events(file, stacks)
    return Snapshot(
        name=name,
        segments=_segments(file),
        blocks=blocks,
        events=events,
        frames=tuple(stacks.frames),
        stacks=Ragged.of(stacks.stacks),
        settings=_settings(file.allocator_settings),
    )


def _settings(found: Any) -> tuple[str, ...]:
    known = found.items() if isinstance(found, dict) else ()
    return tuple(f"{name}: {value}" for name, value in known if isinstance(value, bool | int | str) and value)


def _segments(file: _File) -> Segments:
    rows = [(s.device, s.address, s.total_size, s.segment_type == "large", s.stream) for s in file.segments]
    device, address, nbytes, large, stream = _columns(rows, 5)
    return Segments(device=device, address=address, nbytes=nbytes, large=large.astype(np.int8), stream=stream)


def _blocks(file: _File, stacks: _Stacks) -> SegmentBlocks:
    rows = []
    for index, segment in enumerate(file.segments):
        address = segment.address
        for raw in segment.blocks:
            block = msgspec.convert(raw, _Block)
            frames, requested = _frames_and_request(block)
            place = block.address if block.address >= 0 else address
            rows.append(
                (index, place, block.size, requested, STATE_CODE[_state(block.state)], stacks.add(frames))
            )
            address = place + block.size
    segments, address_, nbytes, asked, state, stack = _columns(rows, 6)
    return SegmentBlocks(
        segment=segments,
        address=address_,
        nbytes=nbytes,
        requested=asked,
        state=state.astype(np.int8),
        stack=stack,
    )


def _frames_and_request(block: _Block) -> tuple[Any, int]:
    first = block.history[0] if isinstance(block.history, list) and block.history else None
    if isinstance(first, dict):
        size = first.get("real_size", block.size)
        return first.get("frames"), size if isinstance(size, int) else block.size
    return block.frames, block.requested_size if block.requested_size >= 0 else block.size


def _state(text: str) -> BlockState:
    try:
        return BlockState(text)
    except ValueError:
        raise RecordError(f"a block is in state {text!r}, which this enxuto does not know") from None


def _events(file: _File, stacks: _Stacks) -> AllocatorEvents:
    rows = []
    known = {action.value: code for action, code in ACTION_CODE.items()}
    other = ACTION_CODE[AllocatorAction.OTHER]
    for device, trace in enumerate(file.device_traces):
        for raw in trace:
            event = msgspec.convert(raw, _Event)
            code = known.get(event.action, other)
            rows.append((device, code, event.addr, event.size, stacks.add(event.frames), event.time_us))
    device_, action, address, nbytes, stack, microseconds = _columns(rows, 6)
    return AllocatorEvents(
        device=device_,
        action=action.astype(np.int8),
        address=address,
        nbytes=nbytes,
        stack=stack,
        microseconds=microseconds,
    )


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> list[np.ndarray]:
    table = np.array(rows, np.int64).reshape(-1, width)
    return [np.ascontiguousarray(table[:, column]) for column in range(width)]


class _Stacks:
    """Every stack and every line of source once. PyTorch gives events with the same stack the same list."""

    def __init__(self) -> None:
        self.frames: dict[Site, int] = {}
        self.stacks: dict[tuple[int, ...], int] = {}
        self._seen: dict[int, int] = {}  # id of a list that the file keeps alive

    def add(self, frames: Any) -> int:
        """The number of a stack, NO_STACK for one without lines."""
        if not frames:
            return NO_STACK
        if id(frames) not in self._seen:
            lines = msgspec.convert(frames, list[_Frame])
            sites = (Site(file=line.filename, line=line.line, function=line.name) for line in lines)
            stack = tuple(self.frames.setdefault(site, len(self.frames)) for site in sites)
            self._seen[id(frames)] = self.stacks.setdefault(stack, len(self.stacks))
        return self._seen[id(frames)]
