"""Timeline: every block of memory in one step, why it lives, and what ran, on one clock.

A tick is one event: an op, a save (pack), its use in the backward (unpack), its release, a death, a module's
enter or exit, an accumulated gradient, a phase change. Intervals are half-open: alive at t when
born <= t < end. `docs/design.md` tells why these fields are needed and enough to simulate every lever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import RecordError
from . import codec, display
from .columns import Columns, Ragged

if TYPE_CHECKING:
    from .columns import Array


class World(Enum):
    """What the tensors of a trace were: `dry` ones hold no memory and compute nothing."""

    DRY = "dry"
    CPU = "cpu"
    CUDA = "cuda"


class Category(Enum):
    """What a block is for; the order is that of every picture and table."""

    PARAMETER = "parameter"
    OPTIMIZER_STATE = "optimizer state"
    GRADIENT = "gradient"
    SAVED_ACTIVATION = "saved activation"
    TEMPORARY_FORWARD = "temporary (forward)"
    TEMPORARY_BACKWARD = "temporary (backward)"
    TEMPORARY_OPTIMIZER = "temporary (optimizer)"
    SCRATCH = "kernel scratch"
    BUFFER = "buffer"
    INPUT = "input"
    OTHER = "other"


class Phase(Enum):
    """Where in the step the clock stands; `before` holds what lived when the step began."""

    BEFORE = "before"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


CATEGORIES = tuple(Category)
PHASES = tuple(Phase)
CATEGORY_CODE = {category: code for code, category in enumerate(CATEGORIES)}
PHASE_CODE = {phase: code for code, phase in enumerate(PHASES)}

#: Categories that are there before a step begins and after it ended.
STATIC = frozenset({Category.PARAMETER, Category.BUFFER, Category.INPUT, Category.OPTIMIZER_STATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A line of the user's source."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One storage: `nbytes` bytes, born at tick `born`; `natural` is the tick at which its last reference
    that is not a saved tensor went. `op`, `call` and `site` index the Timeline's tables, -1 for none."""

    id: int
    nbytes: int
    category: Category
    phase: Phase
    born: int
    natural: int
    name: int
    op: int
    call: int
    site: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks(Columns[Block]):
    """The blocks of a Timeline, as columns."""

    nbytes: np.ndarray
    category: np.ndarray
    phase: np.ndarray
    born: np.ndarray
    natural: np.ndarray
    name: np.ndarray
    op: np.ndarray
    call: np.ndarray
    site: np.ndarray

    def row(self, index: int) -> Block:
        return Block(
            id=index,
            nbytes=int(self.nbytes[index]),
            category=CATEGORIES[self.category[index]],
            phase=PHASES[self.phase[index]],
            born=int(self.born[index]),
            natural=int(self.natural[index]),
            name=int(self.name[index]),
            op=int(self.op[index]),
            call=int(self.call[index]),
            site=int(self.site[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """One saved tensor: block `block` kept for the backward from `pack` until `release`; each unpack is the
    tick at which a backward node asked for it, with the tick at which that node let go (its local end)."""

    block: int
    pack: int
    unpacks: tuple[int, ...]
    local_ends: tuple[int, ...]
    release: int
    call: int
    node: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saves(Columns[Save]):
    """The saved tensors of a Timeline, as columns."""

    block: np.ndarray
    pack: np.ndarray
    unpacks: Ragged
    local_ends: Ragged
    release: np.ndarray
    call: np.ndarray
    node: np.ndarray

    def row(self, index: int) -> Save:
        return Save(
            block=int(self.block[index]),
            pack=int(self.pack[index]),
            unpacks=self.unpacks[index],
            local_ends=self.local_ends[index],
            release=int(self.release[index]),
            call=int(self.call[index]),
            node=int(self.node[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a module: its path, when it ran, the blocks of its tensor arguments. `hooked` is False
    where saved tensors could not be seen (under torch.func); a recomputed call has phase BACKWARD. Calls with
    the same `extras` were given the same other arguments besides tensors, 0 is none; `returns` is the block of
    the one tensor that the call returned, -1 if it returned anything else."""

    module: int
    parent: int
    phase: Phase
    enter: int
    exit: int
    arguments: tuple[int, ...]
    hooked: bool
    extras: int
    returns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calls(Columns[Call]):
    """The module calls of a Timeline, as columns."""

    module: np.ndarray
    parent: np.ndarray
    phase: np.ndarray
    enter: np.ndarray
    exit: np.ndarray
    arguments: Ragged
    hooked: np.ndarray
    extras: np.ndarray
    returns: np.ndarray

    def row(self, index: int) -> Call:
        return Call(
            module=int(self.module[index]),
            parent=int(self.parent[index]),
            phase=PHASES[self.phase[index]],
            enter=int(self.enter[index]),
            exit=int(self.exit[index]),
            arguments=self.arguments[index],
            hooked=bool(self.hooked[index]),
            extras=int(self.extras[index]),
            returns=int(self.returns[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One dispatched op: floating-point operations, blocks read, blocks written in place, kernel scratch in
    bytes (alive for this tick only). `node` names the autograd node it ran for, `call` its module call."""

    name: int
    tick: int
    phase: Phase
    call: int
    site: int
    node: int
    signature: int
    flops: int
    scratch: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ops(Columns[Op]):
    """The ops of a Timeline, as columns."""

    name: np.ndarray
    tick: np.ndarray
    phase: np.ndarray
    call: np.ndarray
    site: np.ndarray
    node: np.ndarray
    signature: np.ndarray
    flops: np.ndarray
    scratch: np.ndarray
    reads: Ragged
    writes: Ragged

    def row(self, index: int) -> Op:
        return Op(
            name=int(self.name[index]),
            tick=int(self.tick[index]),
            phase=PHASES[self.phase[index]],
            call=int(self.call[index]),
            site=int(self.site[index]),
            node=int(self.node[index]),
            signature=int(self.signature[index]),
            flops=int(self.flops[index]),
            scratch=int(self.scratch[index]),
            reads=self.reads[index],
            writes=self.writes[index],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """A stretch of the clock in one phase: start <= t < stop."""

    phase: Phase
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """The tick at which a parameter's gradient was complete: the parameter's block, the gradient's block."""

    tick: int
    parameter: int
    gradient: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What held a block at a tick on the side of Python: `local variable `h` of forward() at model.py:41`."""

    block: int
    tick: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was traced and how: said in every report, so that no number stands without its conditions."""

    workload: str
    torch: str
    dry: str = ""  # "fake" or "meta" in the dry world
    dry_refused: str = ""  # why the dry world could not run it, when a real one had to
    device: str = ""
    batch_size: int = 0  # 0: not known
    training: bool = True
    grad_enabled: bool = True
    step_peaks: tuple[int, ...] = ()  # bytes, one per recorded step, scratch included
    deaths: str = "natural"  # "natural": seen apart from saves; "last": a block's last reference of any kind
    scratch: str = "assumed 0"  # "measured", "partly assumed" or "assumed 0"
    scratch_unknown: int = 0  # distinct op calls whose scratch was assumed 0
    outputs_corrected: int = 0  # op outputs resized to what the real kernel allocates
    notes: tuple[str, ...] = ()


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """One step on one clock of `ticks` ticks. Build it with `enxuto.trace`; read it with or without torch."""

    kind: ClassVar[str] = "timeline"
    version: ClassVar[int] = 1

    world: World
    ticks: int
    blocks: Blocks
    saves: Saves
    calls: Calls
    ops: Ops
    phases: tuple[PhaseSpan, ...]
    accumulations: tuple[Accumulation, ...]
    names: tuple[str, ...]
    sites: tuple[Site, ...]
    signatures: tuple[str, ...]
    facts: Facts
    holders: tuple[Holder, ...] = ()  # of large temporaries at the peak, those that were looked for and found

    @property
    def ends(self) -> Array:
        """Tick of each block's end: its natural death, or the last of its saves if that is later."""
        ends = self.blocks.natural.copy()
        np.maximum.at(ends, self.saves.block, self.saves.release)
        used = self.saves.block[self.saves.local_ends.owners()]
        np.maximum.at(ends, used, self.saves.local_ends.values)
        return ends

    @property
    def curve(self) -> Array:
        """Bytes alive at each tick, int64 of length `ticks`."""
        return self._curve_of(slice(None))

    def curves(self) -> dict[Category, Array]:
        """Bytes alive at each tick, by category; they sum to `curve` at every tick."""
        present = np.unique(self.blocks.category)
        return {CATEGORIES[code]: self._curve_of(self.blocks.category == code) for code in present.tolist()}

    @property
    def peak(self) -> int:
        """Most bytes alive at once, kernel scratch included."""
        return int(self.curve.max(initial=0))

    @property
    def peak_tick(self) -> int:
        """The first tick at which the peak is reached."""
        return int(self.curve.argmax()) if self.ticks else 0

    def alive(self, tick: int) -> Array:
        """Ids of the blocks alive at a tick."""
        return np.flatnonzero((self.blocks.born <= tick) & (tick < self.ends))

    def phase_at(self, tick: int) -> Phase:
        """The phase that a tick belongs to."""
        for span in self.phases:
            if span.start <= tick < span.stop:
                return span.phase
        return Phase.BEFORE

    def op_at(self, tick: int) -> int:
        """Index of the op running at a tick, or of the last one before it; -1 before the first."""
        return int(np.searchsorted(self.ops.tick, tick, side="right")) - 1

    def text(self, name: int) -> str:
        """The interned text of an index, empty for -1."""
        return self.names[name] if name >= 0 else ""

    def module_of(self, call: int) -> str:
        """The module path of a call, empty outside every module."""
        return self.text(int(self.calls.module[call])) if call >= 0 else ""

    def site_of(self, site: int) -> Site | None:
        """The source line of an index, None for -1."""
        return self.sites[site] if site >= 0 else None

    def _curve_of(self, rows: slice | Array) -> Array:
        delta = np.zeros(self.ticks + 1, np.int64)
        sizes = self.blocks.nbytes[rows]
        np.add.at(delta, self.blocks.born[rows], sizes)
        np.subtract.at(delta, self.ends[rows], sizes)
        return np.cumsum(delta[:-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> bytes:
        """This Timeline as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Timeline:
        """Read a Timeline; raises RecordError for anything else."""
        timeline: Timeline = codec.from_json(text, expect=cls)
        return timeline

    def check_columns(self) -> None:
        """Raise RecordError where the columns of a group differ in length; `codec` asks after reading."""
        _check_lengths(self)

    def _repr_html_(self) -> str | None:
        return display.html(self)


def intern(values: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Give each distinct text one index: the table, and the index of every value."""
    table = {text: index for index, text in enumerate(dict.fromkeys(values))}
    return tuple(table), [table[text] for text in values]


def _check_lengths(timeline: Timeline) -> None:
    for group in (timeline.blocks, timeline.saves, timeline.calls, timeline.ops):
        lengths = {len(getattr(group, name)) for name in group.__slots__}  # type: ignore[var-annotated]
        if len(lengths) > 1:
            raise RecordError(f"this timeline is corrupt: columns of {type(group).__name__} differ in length")
