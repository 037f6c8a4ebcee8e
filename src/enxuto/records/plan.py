"""Plan: which levers, chosen for which budget, and what was promised; with the actions that it is made of.

An action is the settings of one lever: small, frozen, hashable. `enxuto.techniques` knows what each does to a
Timeline and how it is applied to a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

import msgspec

from . import codec, display


class Numerics(Enum):
    """How far a lever changes what is computed."""

    IDENTICAL = "identical"  # gradients equal to the bit
    ROUNDING = "rounding"  # equal up to the order of sums
    LOSSY = "lossy"  # another function, or other updates


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint"):
    """Activation checkpointing: what the calls save is dropped, and they run again in the backward.

    Attributes:
        modules: paths of one module, or of several that run one after the other and become one region.
        keep: which matrix products and convolutions of a call (counted from 0 in the order they run) keep
            their outputs, so that they do not run again; empty: everything runs again.
        random: random numbers are drawn inside, so that the generator's state is kept and restored.
    """

    modules: tuple[str, ...]
    keep: tuple[int, ...] = ()
    random: bool = False


class Offload(msgspec.Struct, frozen=True, kw_only=True, tag="offload"):
    """What the calls of a module save waits in host memory until the backward asks for it."""

    module: str


class MicroBatches(msgspec.Struct, frozen=True, kw_only=True, tag="micro-batches"):
    """The batch in `pieces` pieces, one forward and backward each, and one update with their exact mean."""

    pieces: int


class OptimizerInBackward(msgspec.Struct, frozen=True, kw_only=True, tag="optimizer-in-backward"):
    """Each parameter is updated as soon as its gradient is complete, and the gradient released."""


class OneKernelStep(msgspec.Struct, frozen=True, kw_only=True, tag="fused-step"):
    """The optimizer's fused kernel, which makes no temporaries."""


class SingleTensorStep(msgspec.Struct, frozen=True, kw_only=True, tag="foreach-off"):
    """The optimizer's loop over parameters, whose temporaries are one parameter's at a time (foreach off)."""


class FrozenBatchNorm(msgspec.Struct, frozen=True, kw_only=True, tag="frozen-batch-norm"):
    """Batch norms use their running statistics and leave them as they are, so that samples do not see each other."""


class EarlyRelease(msgspec.Struct, frozen=True, kw_only=True, tag="early-release"):
    """Gradients are released (set to None) right after the update."""


class InferenceMode(msgspec.Struct, frozen=True, kw_only=True, tag="inference-mode"):
    """Inference without gradient recording."""


class HostAllocator(msgspec.Struct, frozen=True, kw_only=True, tag="host-allocator"):
    """The C library gives freed memory back at once; `kind` is "thresholds" or "jemalloc"."""

    kind: str = "thresholds"


class SmallerBatch(msgspec.Struct, frozen=True, kw_only=True, tag="smaller-batch"):
    """A smaller true batch: more updates per epoch; `rate` multiplies the learning rate."""

    size: int
    rate: float = 1.0


Action: TypeAlias = (
    Checkpoint
    | Offload
    | MicroBatches
    | OptimizerInBackward
    | OneKernelStep
    | SingleTensorStep
    | FrozenBatchNorm
    | EarlyRelease
    | InferenceMode
    | HostAllocator
    | SmallerBatch
)


class Status(Enum):
    """Whether a plan meets its budget, and how good it is known to be."""

    OPTIMAL = "optimal"  # no cheaper plan of these levers fits, proved
    FEASIBLE = "feasible"  # fits; a cheaper plan may exist, within `gap_ratio`
    INFEASIBLE = "infeasible"  # nothing fits: the plan is the one with the lowest peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be used: `bytes` of total peak, parameters and optimizer state included, on the device.

    Attributes:
        bytes: the most that may be alive at once.
        max_slowdown_ratio: the longest step allowed, as a multiple of the plain step; 0: any.
        allow: the numerics that levers may have; LOSSY ones need to be named here.
        fixed: names of levers (`Action` tags) that must not be touched.
    """

    bytes: int
    max_slowdown_ratio: float = 0.0
    allow: tuple[Numerics, ...] = (Numerics.IDENTICAL, Numerics.ROUNDING)
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A step, predicted: bytes at the peak, floating-point operations, seconds by the time model."""

    peak: int
    flops: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One line of a plan: an action, what it frees where it stands in the order, and what it costs there:
    `slowdown_ratio` is the step's time after it over the time just before it."""

    action: Action
    title: str
    numerics: Numerics
    peak_before: int
    peak_after: int
    slowdown_ratio: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A lever that was not taken, and the reason."""

    lever: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One plan that no other beats in both peak and time."""

    peak: int
    slowdown_ratio: float
    numerics: Numerics
    actions: tuple[Action, ...]


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cheapest set of levers found whose predicted peak is within the budget.

    INFEASIBLE keeps the plan with the lowest peak; `floor_holds` then says what is alive at its peak.
    """

    kind: ClassVar[str] = "plan"
    version: ClassVar[int] = 1

    workload: str
    torch: str
    budget: Budget
    status: Status
    before: Cost
    after: Cost
    levers: tuple[Lever, ...]
    refused: tuple[Refusal, ...]
    frontier: tuple[FrontierPoint, ...]
    floor_holds: tuple[str, ...]
    solver: str
    gap_ratio: float  # (cost - proven lower bound) / plain step's time; 0 where optimal
    notes: tuple[str, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions, in the order they are applied."""
        return tuple(lever.action for lever in self.levers)

    @property
    def fits(self) -> bool:
        """Whether the predicted peak is within the budget."""
        return self.after.peak <= self.budget.bytes

    @property
    def slowdown_ratio(self) -> float:
        """The predicted step time as a multiple of the plain step's."""
        return self.after.seconds / self.before.seconds if self.before.seconds else 1.0

    def why(self, action: Action) -> str:
        """Why an action was taken, or a lever of its kind refused."""
        for lever in self.levers:
            if lever.action == action:
                return lever.why
        tag = type(action).__struct_config__.tag
        for refusal in self.refused:
            if refusal.lever == tag:
                return refusal.reason
        return "not considered"

    def to_json(self) -> bytes:
        """This plan as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Plan:
        """Read a plan; raises RecordError for anything else."""
        plan: Plan = codec.from_json(text, expect=cls)
        return plan

    def _repr_html_(self) -> str | None:
        return display.html(self)
