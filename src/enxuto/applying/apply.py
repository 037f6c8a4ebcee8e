"""`apply`: a plan on a real model, while a context lasts; what was there before comes back.

Nothing of the user's is replaced by ours for good: forwards are wrapped, hooks registered and settings
changed on entry, and all of it is undone on exit, also after an exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..records import (
    Action,
    Checkpoint,
    EarlyRelease,
    FrozenBatchNorm,
    HostAllocator,
    InferenceMode,
    MicroBatches,
    Offload,
    OneKernelStep,
    OptimizerInBackward,
    Plan,
    SingleTensorStep,
    SmallerBatch,
)
from ..techniques import (
    batch_norm,
    checkpointing,
    early_release,
    inference_mode,
    micro_batches,
    offloading,
    optimizer_in_backward,
    optimizer_step,
)
from ..techniques.host_allocator import set_mallopt
from ..workload import Workload

_ON_MODULES = (Checkpoint, Offload, FrozenBatchNorm)  # what changes the model; the rest changes the optimizer


@dataclass(slots=True, eq=False)
class Applied:
    """A work under a plan.

    Attributes:
        plan: what is applied.
        model, optimizer: the user's own, changed while the context lasts.
    """

    plan: Plan
    work: Workload
    model: nn.Module
    optimizer: Optimizer | None
    _pieces: int = 1

    def step(self, batch: Any) -> Tensor:
        """One training step: gradients dropped, forward and backward in the plan's pieces, update.

        Returns:
            The batch's loss, a scalar; detached where the batch runs in pieces.
        """
        if self.optimizer is None:
            raise UsageError("this work has no optimizer: it is inference, call run.model")
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch)
        self.optimizer.step()
        return loss

    def backward(self, batch: Any, *, scale: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Forward and backward of a batch, in the plan's pieces; the update is the caller's.

        Args:
            batch: the whole batch.
            scale: applied to the loss before its backward, for instance a GradScaler's `scale`.
        """
        if self._pieces > 1:
            return micro_batches.backward(
                self.work.loss,
                self.model,
                batch,
                self._pieces,
                items=self.work.items,
                batch_size=self.work.batch_size,
                scale=scale,
            )
        loss: Tensor = self.work.loss(self.model, batch)
        (loss if scale is None else scale(loss)).backward()
        return loss


@contextlib.contextmanager
def apply(
    plan: Plan, work: Workload, *, model: nn.Module | None = None, optimizer: Optimizer | None = None
) -> Iterator[Applied]:
    """Apply a plan while the context lasts.

    Args:
        plan: from `enxuto.fit`, or read from a file.
        work: what the plan was made for.
        model, optimizer: live objects to apply it to; None builds them from the work.

    Raises:
        UsageError: the plan was made for another model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from enxuto import Workload, fit
        >>> work = Workload(
        ...     model=lambda: nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 1)),
        ...     batch=lambda n=None: torch.ones(n or 64, 8),
        ...     loss=lambda model, x: model(x).square().mean(),
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ...     batch_size=64,
        ... )
        >>> plan = fit(work, budget="200 KiB", measure=False, calibrate=False).plan
        >>> with apply(plan, work) as run:
        ...     loss = run.step(work.batch())
        >>> loss.shape
        torch.Size([])
    """
    model = work.model() if model is None else model
    if optimizer is None and work.optimizer is not None:
        optimizer = work.optimizer(model.parameters())
    with contextlib.ExitStack() as stack:
        _enter(stack, plan.actions, model, optimizer)
        yield Applied(plan, work, model, optimizer, _pieces(plan.actions))


def applied_workload(work: Workload, actions: Sequence[Action]) -> Workload:
    """A Workload whose every model and optimizer have the actions applied for good, to be traced again."""
    contexts: list[contextlib.ExitStack] = []  # kept open as long as this workload lives

    def model() -> nn.Module:
        built = work.model()
        contexts.append(contextlib.ExitStack())
        _enter(contexts[-1], [a for a in actions if isinstance(a, _ON_MODULES)], built, None)
        return built

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        assert work.optimizer is not None  # only called when there is one
        built = work.optimizer(parameters)
        contexts.append(contextlib.ExitStack())
        _enter(contexts[-1], [a for a in actions if not isinstance(a, _ON_MODULES)], None, built)
        return built

    changed = replace(work, model=model, optimizer=None if work.optimizer is None else optimizer)
    for action in actions:
        if isinstance(action, SmallerBatch):
            changed = changed.at_batch(action.size)
        if isinstance(action, InferenceMode):
            changed = replace(changed, grad=False)
    pieces = _pieces(actions)
    return replace(changed, step=_InPieces(changed, pieces)) if pieces > 1 else changed


@dataclass(frozen=True, slots=True)
class _InPieces:
    """The usual step, in micro-batches."""

    work: Workload
    pieces: int

    def __call__(self, model: nn.Module, optimizer: Optimizer | None, batch: Any) -> Tensor:
        assert optimizer is not None  # micro-batches are for training
        optimizer.zero_grad(set_to_none=True)
        loss = micro_batches.backward(
            self.work.loss,
            model,
            batch,
            self.pieces,
            items=self.work.items,
            batch_size=self.work.batch_size,
        )
        optimizer.step()
        return loss


def _pieces(actions: Sequence[Action]) -> int:
    return next((a.pieces for a in actions if isinstance(a, MicroBatches)), 1)


def _enter(
    stack: contextlib.ExitStack,
    actions: Sequence[Action],
    model: nn.Module | None,
    optimizer: Optimizer | None,
) -> None:
    if FrozenBatchNorm() in actions and model is not None:
        stack.enter_context(batch_norm.apply(model))  # first: what runs again is frozen too
    checkpoints = [action for action in actions if isinstance(action, Checkpoint)]
    if checkpoints and model is not None:
        stack.enter_context(checkpointing.apply(model, checkpoints))
    offloads = [action for action in actions if isinstance(action, Offload)]
    if offloads and model is not None:
        stack.enter_context(offloading.apply(model, offloads))
    for action in actions:
        match action:
            case OptimizerInBackward():
                stack.enter_context(optimizer_in_backward.apply(_needed(optimizer)))
            case OneKernelStep():
                stack.enter_context(optimizer_step.apply(_needed(optimizer)))
            case SingleTensorStep():
                stack.enter_context(optimizer_step.apply_foreach_off(_needed(optimizer)))
            case EarlyRelease():
                stack.enter_context(early_release.apply(_needed(optimizer)))
            case InferenceMode() if model is not None:
                stack.enter_context(inference_mode.apply())
            case HostAllocator(kind="thresholds"):
                set_mallopt()
            case HostAllocator(kind=kind):
                raise UsageError(
                    f"{kind} has to be there before the process starts: run it with the variables that "
                    "enxuto.techniques.host_allocator.environment() gives"
                )
            case SmallerBatch(rate=rate):
                stack.enter_context(_rate(_needed(optimizer), rate))


def _needed(optimizer: Optimizer | None) -> Optimizer:
    if optimizer is None:
        raise UsageError("the plan changes the optimizer's step, and this work has no optimizer")
    return optimizer


@contextlib.contextmanager
def _rate(optimizer: Optimizer, rate: float) -> Iterator[None]:
    """Another learning rate while the context lasts."""
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * rate
    try:
        yield
    finally:
        for group, own in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = own
