"""What the untouched run computes beside what the applied run computes: loss, gradients, buffers, updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _torch_private as private
from ..records import Check, Numerics, Outcome
from ..tracing.worlds import Stage
from .randomness import without_dropout
from .runs import Promise, Run, seeded

NAMES = ("loss", "gradients", "buffers", "update")

#: Optimizer state is born in the first and used in the second. Where the first may differ by rounding, the second
#: starts from gradients near zero that differ as a whole, of which adaptive optimizers make whole steps.
_UPDATES = {Numerics.IDENTICAL: 2, Numerics.ROUNDING: 1}
_OTHER_SEED = 7
_FLOOR_RATIO = 0.01
_SCALE = (
    "relative to the largest entry of each tensor, or to 1 % of the largest of all where that is more "
    "(a gradient that is zero but for rounding has no scale of its own)"
)

_Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run left, copied to host memory by the names that the model gives it."""

    loss: _Tensors = field(default_factory=dict)
    gradients: _Tensors = field(default_factory=dict)
    buffers: _Tensors = field(default_factory=dict)
    update: _Tensors = field(default_factory=dict)  # parameters and optimizer state


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference found, in units of the scale it was compared on, and in which tensor."""

    error: float
    where: str
    tolerance: float
    equal: bool


def check_gradients(promise: Promise) -> tuple[Check, ...]:
    """Checks "loss", "gradients", "buffers" and "update" (parameters and optimizer state).

    Both runs start from the same weights and random numbers, dropout on, one after the other; what the first
    computed waits in host memory. IDENTICAL plans owe exactly equal values (0 and -0 are equal), ROUNDING ones
    `tolerance_of` the dtype. A plan that runs the batch in pieces draws other masks for each, so there both runs go
    without dropout.

    Assumed and not checked: that a model whose backward repeats itself exactly does so in its update too.
    """
    refused = _refusal(promise)
    if refused:
        return tuple(not_checked(name, refused) for name in NAMES)
    first, again = (_backward(promise, promise.untouched, repeat=repeat) for repeat in (False, True))
    refused = _unsteady(promise, first, again)
    if refused:
        return tuple(not_checked(name, refused) for name in NAMES)
    found = _backward(promise, promise.applied)
    gradients = first.gradients
    if promise.updates_inside:  # and releases what it used
        gradients = {name: gradient for name, gradient in gradients.items() if name in found.gradients}
    checks = (
        _compared(promise, "loss", first.loss, found.loss),
        _compared(promise, "gradients", gradients, found.gradients)
        if gradients or found.gradients
        else not_checked("gradients", _why_none(promise)),
        _compared(promise, "buffers", first.buffers, found.buffers),
    )
    if promise.work.optimizer is None or promise.in_pieces:
        return (*checks, not_checked("update", _why_no_update(promise)))
    updates = [_updated(promise, entered).update for entered in (promise.untouched, promise.applied)]
    return (*checks, _compared(promise, "update", *updates))


def tolerance_of(dtype: torch.dtype) -> float:
    """How far a tensor may be off by rounding, relative to its largest entry.

    84 units in the last place where sums are kept in the dtype itself: 1e-5 in float32. Kernels sum 16-bit numbers in
    float32 and round once per op, so there 8 units: 0.06 in bfloat16, 0.008 in float16. Integers: none.

    >>> f"{tolerance_of(torch.float32):.0e}"
    '1e-05'
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    eps = torch.finfo(dtype).eps
    return eps * (84 if dtype.itemsize > 2 else 8)


def largest_difference(reference: _Tensors, found: _Tensors) -> Difference:
    """The tensor that is furthest off, as a multiple of what its dtype is allowed.

    A missing tensor, another shape or dtype, integers that differ and values that are not finite are infinitely
    far off.
    """
    missing = sorted(reference.keys() ^ found.keys())
    if missing:
        return Difference(float("inf"), f"{missing[0]} is there in one run only", 0.0, False)
    floor = _FLOOR_RATIO * max((_largest(tensor) for tensor in reference.values()), default=0.0)
    loosest = max((tolerance_of(tensor.dtype) for tensor in reference.values()), default=0.0)
    worst = Difference(0.0, "", loosest, True)
    furthest = 0.0
    for name, tensor in reference.items():
        error, tolerance = _error(tensor, found[name], floor), tolerance_of(tensor.dtype)
        excess = error / tolerance if tolerance else error
        if not _equal(tensor, found[name]) and excess >= furthest:
            worst, furthest = Difference(error, name, tolerance, False), excess
    return worst


def not_checked(name: str, reason: str, *, got: float = 0.0, unit: str = "relative error") -> Check:
    """A check that was not made, with the reason."""
    return Check(
        name=name,
        expected=0.0,
        got=got,
        tolerance=0.0,
        unit=unit,
        outcome=Outcome.NOT_CHECKED,
        how=f"not checked: {reason}",
    )


# ---- The runs --------------------------------------------------------------------------------------------------

_Entered = Callable[[Stage], AbstractContextManager[Run]]


def _backward(promise: Promise, entered: _Entered, *, repeat: bool = False) -> Observed:
    """Loss, gradients and buffers of one run without the update.

    A repetition has the same random numbers; without dropout other ones, which then must not matter.
    """
    stage = promise.stage()
    seed = {"seed": _OTHER_SEED} if repeat and promise.in_pieces else {}
    with entered(stage) as run, _comparable(promise, run), seeded(**seed):
        # a step of the user's own has no half
        value = run.step(stage.batch) if promise.work.step is not None else run.backward(stage.batch)
        gradients = {
            name: p.grad
            for name, p in run.model.named_parameters()
            if p.grad is not None and promise.work.step is None
        }
        return Observed(
            loss=_copied(_leaves(value)),
            gradients=_copied(gradients),
            buffers=_copied(dict(run.model.named_buffers())),
        )


def _updated(promise: Promise, entered: _Entered) -> Observed:
    """Parameters and optimizer state after a few steps."""
    stage = promise.stage()
    names = {id(p): name for name, p in stage.model.named_parameters()}
    with entered(stage) as run, _comparable(promise, run), seeded():
        for _ in range(_UPDATES[promise.numerics]):
            run.step(stage.batch)
    # outside: what counts is what the user's own objects hold afterwards
    state = {
        f"{names[id(p)]}.{key}": value
        for p, states in (stage.optimizer.state.items() if stage.optimizer is not None else ())
        for key, value in states.items()
        if isinstance(value, Tensor)
    }
    return Observed(update=_copied({**dict(stage.model.named_parameters()), **state}))


def _comparable(promise: Promise, run: Run) -> AbstractContextManager[None]:
    return without_dropout(run.model) if promise.in_pieces else nullcontext()


def _leaves(value: Any) -> dict[str, Tensor]:
    leaves = [leaf for leaf in private.pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return {f"output {number}": leaf for number, leaf in enumerate(leaves)}


def _copied(tensors: _Tensors) -> dict[str, Tensor]:
    return {name: _dense(tensor.detach()).to("cpu", copy=True) for name, tensor in tensors.items()}


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


# ---- The judgement ---------------------------------------------------------------------------------------------


def _refusal(promise: Promise) -> str:
    if promise.numerics is Numerics.LOSSY:
        return "the plan changes what is computed (lossy), so that quality has to be judged instead"
    return ""


def _why_none(promise: Promise) -> str:
    if not promise.work.training:
        return "inference has no gradients"
    if promise.work.step is not None:
        return "the workload has a step of its own, whose gradients are not known; see update"
    if promise.updates_inside:
        return "each gradient is used and released inside the backward; see update"
    return "the untouched run leaves no gradient"


def _why_no_update(promise: Promise) -> str:
    if promise.work.optimizer is None:
        return "inference has no update"
    return (
        "adaptive optimizers make whole steps of the rounding in gradients near zero; the update's input is compared "
        "under gradients"
    )


def _unsteady(promise: Promise, first: Observed, again: Observed) -> str:
    """Why nothing can be said of this model: the untouched run is not finite, or differs from itself."""
    for name in NAMES[:3]:
        one, two = getattr(first, name), getattr(again, name)
        wild = [key for key, tensor in one.items() if not bool(tensor.isfinite().all())]
        if wild:
            return f"the untouched run's own {name} are not finite ({wild[0]})"
        difference = largest_difference(one, two)
        if not difference.equal:
            random = ", or draws random numbers other than dropout's," if promise.in_pieces else ""
            return f"the model is not deterministic{random}: two untouched runs differ in {name}, {difference.where}"
    return ""


def _compared(promise: Promise, name: str, reference: _Tensors, found: _Tensors) -> Check:
    if not reference and not found:
        return not_checked(name, f"there are no {name} to compare")
    difference = largest_difference(reference, found)
    if promise.numerics is Numerics.IDENTICAL:
        passed, tolerance, how = difference.equal, 0.0, "exactly equal"
    else:
        passed, tolerance = difference.error <= difference.tolerance, difference.tolerance
        how = f"largest difference {_SCALE}"
    steps = _UPDATES[promise.numerics]
    what = (
        f"parameters and optimizer state after {steps} step{'s'[: steps - 1]}" if name == "update" else name
    )
    dropout = "dropout off, since pieces draw other masks" if promise.in_pieces else "dropout as it is"
    worst = f"; furthest off: {difference.where}" if difference.where else ""
    return Check(
        name=name,
        expected=0.0,
        got=difference.error,
        tolerance=tolerance,
        unit="relative error",
        outcome=Outcome.PASSED if passed else Outcome.FAILED,
        how=f"{what} of the untouched and the applied run ({len(reference)} tensors), {how}; same weights and seed, "
        f"{dropout}{worst}",
    )


def _error(reference: Tensor, found: Tensor, floor: float) -> float:
    if reference.shape != found.shape or reference.dtype != found.dtype:
        return float("inf")
    if _equal(reference, found):
        return 0.0
    if not (reference.is_floating_point() or reference.is_complex()):
        return float("inf")
    wide = torch.complex128 if reference.is_complex() else torch.float64
    difference = float((reference.to(wide) - found.to(wide)).abs().max())
    scale = max(_largest(reference), floor)
    error = difference / scale if scale else float("inf")
    return error if error < float("inf") else float("inf")  # nan is not below


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one, two)  # torch's own looks past the dtype


def _largest(tensor: Tensor) -> float:
    floats = tensor.is_floating_point() or tensor.is_complex()
    return float(tensor.abs().max()) if floats and tensor.numel() else 0.0
