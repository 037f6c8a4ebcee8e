"""Recording: a real run as it was watched, one row for each step; Diagnosis: what it shows to be wrong.

Bytes are -1 where nothing tells them. Every figure of a step says how it was come by (`How`): the peak of a step
that the recorder saw is exact, that of another step of the same shape repeats it, the kernel's is of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar

import numpy as np

from . import codec, display
from .columns import Columns
from .explanation import Explanation, PhaseCost, Share
from .plan import Plan
from .timeline import Category, Site

UNKNOWN = -1


class How(Enum):
    """How a figure was come by."""

    RECORDED = "recorded"  # every block of this step was seen
    REPEATED = "repeated"  # of the last recorded step of the same shapes
    KERNEL = "kernel"  # of the whole process, by the operating system
    ALLOCATOR = "allocator"  # the device's allocator keeps it


class StepKind(Enum):
    """What ended a step: the optimizer's update, or a call of a model that leads to none."""

    UPDATE = "update"
    CALL = "call"


class Ending(Enum):
    """How a run ended; `lost` is a log without an end: killed, or still running."""

    FINISHED = "finished"
    RAISED = "raised"
    OUT_OF_MEMORY = "out of memory"
    INTERRUPTED = "interrupted"
    LOST = "lost"


HOWS = tuple(How)
KINDS = tuple(StepKind)
HOW_CODE = {how: code for code, how in enumerate(HOWS)}
KIND_CODE = {kind: code for code, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row: `covers` steps of one kind up to number `step`, summed up where a log was thinned.

    `peak` and `current` are bytes of tensors (of the device, where there is one); `host` and `host_peak` are the
    resident bytes of this process, `workers` those of its children; `signature` indexes `Recording.signatures`.
    """

    step: int
    covers: int
    kind: StepKind
    seconds: float  # of all its steps together
    peak: int = UNKNOWN
    peak_how: How = How.KERNEL
    current: int = UNKNOWN
    reserved: int = UNKNOWN
    retries: int = UNKNOWN
    host: int = UNKNOWN
    host_peak: int = UNKNOWN
    workers: int = UNKNOWN
    signature: int = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps(Columns[Step]):
    """The rows of a Recording, as columns."""

    step: np.ndarray
    covers: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    peak: np.ndarray
    peak_how: np.ndarray
    current: np.ndarray
    reserved: np.ndarray
    retries: np.ndarray
    host: np.ndarray
    host_peak: np.ndarray
    workers: np.ndarray
    signature: np.ndarray

    @classmethod
    def of(cls, rows: list[Step] | tuple[Step, ...]) -> Steps:
        """Pack rows."""

        def column(name: str, dtype: type = np.int64) -> np.ndarray:
            return np.array([getattr(row, name) for row in rows], dtype)

        return cls(
            step=column("step"),
            covers=column("covers"),
            kind=np.array([KIND_CODE[row.kind] for row in rows], np.int8),
            seconds=column("seconds", np.float64),
            peak=column("peak"),
            peak_how=np.array([HOW_CODE[row.peak_how] for row in rows], np.int8),
            current=column("current"),
            reserved=column("reserved"),
            retries=column("retries"),
            host=column("host"),
            host_peak=column("host_peak"),
            workers=column("workers"),
            signature=column("signature"),
        )

    def row(self, index: int) -> Step:
        return Step(
            step=int(self.step[index]),
            covers=int(self.covers[index]),
            kind=KINDS[self.kind[index]],
            seconds=float(self.seconds[index]),
            peak=int(self.peak[index]),
            peak_how=HOWS[self.peak_how[index]],
            current=int(self.current[index]),
            reserved=int(self.reserved[index]),
            retries=int(self.retries[index]),
            host=int(self.host[index]),
            host_peak=int(self.host_peak[index]),
            workers=int(self.workers[index]),
            signature=int(self.signature[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A step that was recorded in full, and what it shows.

    `cost` is the time that recording took beyond the step; `unused` are the bytes of saved activations at the
    peak that no backward asked for, `without` the peak if they were not kept. `gradless` of `parameters` had no
    gradient when the optimizer came; `state` are the bytes of optimizer state that the step made and left. `cast` are
    copies of weights in lower precision alive at the peak, `halved` what lower precision saves in activations there.
    `others` are bytes of tensors that belong to no model, no
    optimizer and no step.
    """

    step: int
    kind: StepKind
    signature: int
    seconds: float
    cost: float
    peak: int
    end: int  # bytes alive when the step was over
    shares: tuple[Share, ...]
    phases: tuple[PhaseCost, ...]
    grad_enabled: bool = True
    evaluating: bool = False  # the model was in evaluation mode
    calls: int = 1  # of models
    unused: int = 0
    without: int = UNKNOWN
    site: Site | None = None  # the line that was running at the peak
    called_at: Site | None = None  # the line that called the model
    parameters: int = 0
    gradless: int = 0
    state: int = 0
    cast: int = 0
    halved: int = 0
    others: int = 0

    def share(self, category: Category) -> int:
        """Bytes of a category at the peak."""
        return sum(share.nbytes for share in self.shares if share.category is category)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """Tensors that outlive their step, more of them with each: found by the census.

    `owner` is the dotted path that Python reaches them by (empty where none was found), `place` where that path
    starts; `made` is the line that allocated them, `held` the line that holds them, where known. `graph` are the
    bytes among `per_step` that only an autograd graph holds. `limit` is the most elements that its container
    takes, 0 for no limit.
    """

    owner: str
    place: str
    what: str  # "list element", "attribute", "variable" ...
    kind: StepKind
    first: int  # step at which it was first seen
    last: int
    per_step: int  # bytes that each step adds
    total: int  # bytes held when it was last looked at
    tensors: int  # how many of them
    graph: int = 0
    has_graph: bool = False  # whether any of them has a graph at all, be it nodes only
    limit: int = 0
    evaluating: bool = False  # made by calls of a model in evaluation mode
    made: Site | None = None
    held: Site | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Tensors that a name held on to when memory was out: `owner` is the name, `place` where it is one."""

    owner: str
    place: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A refused allocation, or a soft budget that was reached.

    `handled` says that the script went on; `during` that it came while an earlier failure was still being
    handled, whose frames keep what they hold: `still_held` bytes. `kept` names what these are; else, in the step
    after the first update, what that one left. `tried` counts earlier models, gone since, that made a single update
    with the same shapes, where the model that failed had made some too. `free` and `largest` tell of the device.
    """

    step: int  # the step that did not end
    updates: int  # updates that were complete
    kind: StepKind
    message: str
    budgeted: bool = False  # our soft budget, rather than an allocator
    asked: int = UNKNOWN
    alive: int = UNKNOWN
    reserved: int = UNKNOWN
    free: int = UNKNOWN
    largest: int = UNKNOWN  # the largest free block in one piece
    pieces: int = UNKNOWN
    device: int = UNKNOWN  # bytes of the whole device
    driver: int = UNKNOWN  # bytes in use by everyone, as the driver tells
    context: int = UNKNOWN
    handled: bool = False
    during: bool = False
    still_held: int = UNKNOWN
    kept: tuple[Kept, ...] = ()
    tried: int = 0
    batch: int = UNKNOWN
    shapes: str = ""  # of what the models of that step were given
    site: Site | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model of the run, by what its own parameters and calls show.

    `zeros` counts zero entries of `elements`; `masks` are bytes kept beside the weights by torch's pruning;
    `quantized` of `nbytes` are stored in 8 bits or fewer. `agreed` of `compared` outputs name the same class as
    the float model given the same input.
    """

    name: str
    nbytes: int
    elements: int
    zeros: int = 0
    masks: int = 0
    quantized: int = 0
    largest_float: str = ""  # the kind of module that holds most of what is not quantized
    largest_float_bytes: int = 0
    calls: int = 0
    seconds: float = 0.0  # of all its calls, by the median of the latest: one that is recorded takes longer
    compared: int = 0
    agreed: int = 0
    twin: str = ""  # the float model that it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Weights that exist twice: a name that holds tensors with the shapes of a model's parameters."""

    owner: str
    place: str
    nbytes: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonObjects:
    """A container of Python objects in a data set whose loader has workers: `owner` is the class and the attribute,
    `nbytes` what all of it takes, by a sample of its elements."""

    owner: str
    container: str  # "list"
    element: str  # "dict"
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was watched and how."""

    name: str  # the script
    torch: str
    device: str = "cpu"
    process: int = 0
    rank: int = UNKNOWN
    world_size: int = 1
    began: float = 0.0  # seconds since 1970
    base: int = UNKNOWN  # resident bytes before the first step
    budget: int = 0  # 0: none
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One situation that the run shows: what was measured, where, what to do, what that frees, and what else it
    could have been and was not. `id` is that of its page: `enxuto explain M03`."""

    id: str
    evidence: str
    fix: str
    owner: str = ""
    site: Site | None = None
    frees: int = UNKNOWN  # bytes, by calculation from the recorded step
    per_step: int = 0
    ruled_out: tuple[str, ...] = ()


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A run, watched. Made by `enxuto.watch` and `enxuto run`; rebuilt from a log by `enxuto report`."""

    kind: ClassVar[str] = "recording"
    version: ClassVar[int] = 1

    source: Source
    steps: Steps
    signatures: tuple[str, ...] = ()
    recorded: tuple[RecordedStep, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    retained: tuple[Retained, ...] = ()
    failures: tuple[Failure, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    copies: tuple[Copied, ...] = ()
    objects: tuple[PythonObjects, ...] = ()
    causes: tuple[Cause, ...] = ()
    ending: Ending = Ending.LOST
    error: str = ""
    seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """How many steps were seen."""
        return int(self.steps.covers.sum())

    @property
    def peak(self) -> int:
        """Most bytes of tensors in any step, UNKNOWN where none tells."""
        return int(self.steps.peak.max(initial=UNKNOWN))

    @property
    def host_peak(self) -> int:
        """Most resident bytes of the process in any step."""
        return int(max(self.steps.host_peak.max(initial=UNKNOWN), self.steps.host.max(initial=UNKNOWN)))

    def of_kind(self, kind: StepKind) -> np.ndarray:
        """Which rows are of a kind."""
        chosen: np.ndarray = self.steps.kind == KIND_CODE[kind]
        return chosen

    def to_json(self) -> bytes:
        """This Recording as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Recording:
        """Read a Recording; raises RecordError for anything else."""
        recording: Recording = codec.from_json(text, expect=cls)
        return recording

    def check_columns(self) -> None:
        """Raise RecordError where the columns differ in length."""
        from ..errors import RecordError

        columns = [field.name for field in fields(Steps)]
        if len({len(getattr(self.steps, name)) for name in columns}) > 1:
            raise RecordError("this recording is corrupt: columns of Steps differ in length")

    def _repr_html_(self) -> str | None:
        return display.html(self)


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a Recording shows to be wrong, most bytes first, and which situations were looked for in vain."""

    kind: ClassVar[str] = "diagnosis"
    version: ClassVar[int] = 1

    source: Source
    causes: tuple[Cause, ...]
    silent: tuple[str, ...] = ()  # ids of the situations that were looked for and not found

    def __getitem__(self, id: str) -> Cause:
        for cause in self.causes:
            if cause.id == id:
                return cause
        raise KeyError(id)

    def to_json(self) -> bytes:
        """This Diagnosis as versioned JSON."""
        return codec.to_json(self)

    def _repr_html_(self) -> str | None:
        return display.html(self)


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Autopsy:
    """Why a run died of memory: the failure, the receipt of the step that it died in, ranked causes, and a plan
    of that step that would have fitted, where there was a recorded step to plan on."""

    kind: ClassVar[str] = "autopsy"
    version: ClassVar[int] = 1

    source: Source
    failure: Failure
    causes: tuple[Cause, ...]
    ruled_out: tuple[str, ...] = ()
    receipt: Explanation | None = None
    plan: Plan | None = None
    no_plan: str = ""  # why there is no plan
    files: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """This Autopsy as versioned JSON."""
        return codec.to_json(self)

    def _repr_html_(self) -> str | None:
        return display.html(self)
