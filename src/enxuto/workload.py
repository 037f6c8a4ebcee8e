"""Workload: what the user wants to run, as plain callables, so that a model can be built without memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ._torch_private import pytree
from .errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A training step, or inference when `optimizer` is None.

    Args:
        model: builds the module; called again for every trace.
        batch: `batch(n=None)` gives the inputs that `loss` takes; n asks for another batch size.
        loss: `loss(model, batch)` gives a scalar to call `backward()` on; in inference any output will do.
        optimizer: `optimizer(parameters)` builds the optimizer; None is inference (no gradients are kept).
        batch_size: the n that `batch()` gives, where known.
        name: what reports call this work.
        step: `step(model, optimizer, batch)` replaces the usual step (zero_grad, loss, backward, step), for
            loops that accumulate, clip or keep gradients; it is then called once per recorded step, and
            perhaps once more to look at the peak. What a training step returns lives until the next, as a
            loop's `loss` does.
        items: `items(batch)` counts what the loss is a mean over, where that is not the samples: the targets
            that are no padding. Micro-batches need it to weigh their pieces.
        grad: inference only: True runs it, `step` included, as a user who forgot `torch.no_grad()` would.

    Example:
        >>> from torch import nn
        >>> work = Workload(
        ...     model=lambda: nn.Linear(4, 2),
        ...     batch=lambda n=None: torch.zeros(n or 8, 4),
        ...     loss=lambda model, x: model(x).sum(),
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ...     batch_size=8,
        ... )
        >>> work.training
        True
    """

    model: Callable[[], nn.Module]
    batch: Callable[..., Any]
    loss: Callable[[nn.Module, Any], Any]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
    batch_size: int | None = None
    name: str = "model"
    step: Callable[[nn.Module, Optimizer | None, Any], Any] | None = None
    items: Callable[[Any], Any] | None = None
    grad: bool = False

    def __post_init__(self) -> None:
        for field in ("model", "batch", "loss"):
            given_part = getattr(self, field)
            live = field == "model" and isinstance(given_part, nn.Module)
            if live or not callable(given_part):
                given = type(given_part).__name__
                raise UsageError(
                    f"Workload({field}=...) takes a function, not a {given}; for live objects use "
                    "enxuto.explain(model, batch, loss=criterion, optimizer=optimizer)"
                )
        if self.optimizer is not None and not callable(self.optimizer):
            raise UsageError(
                "Workload(optimizer=...) takes a function of the parameters, for instance "
                "lambda parameters: torch.optim.AdamW(parameters)"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")

    @property
    def training(self) -> bool:
        """Whether a step trains; inference otherwise."""
        return self.optimizer is not None

    def at_batch(self, size: int) -> Workload:
        """The same work at another batch size."""
        if size < 1:
            raise UsageError(f"a batch size must be at least 1, not {size}")
        return replace(self, batch=_AtSize(self.batch, size), batch_size=size)

    def inference(self, *, grad: bool = False) -> Workload:
        """The same work without a backward; `grad=True` leaves gradient recording on."""
        step = None if self.training else self.step  # a step that trains is no inference
        return replace(self, optimizer=None, step=step, grad=grad)


@dataclass(frozen=True, slots=True)
class _AtSize:
    """A batch function asked for one size unless told otherwise."""

    batch: Callable[..., Any]
    size: int

    def __call__(self, n: int | None = None) -> Any:
        return self.batch(n or self.size)


def live_workload(
    model: nn.Module,
    batch: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Optimizer | None = None,
    name: str | None = None,
) -> Workload:
    """A Workload over copies of live objects, which themselves are never touched.

    Args:
        model: the module; copied for every trace (a dry copy holds no memory).
        batch: `(inputs, target)` with a criterion; without one, what `model(...)` takes: a tensor, a tuple of
            positional arguments or a dict of keyword arguments.
        loss: `criterion(output, target)`; None takes the output's own `.loss`, or the output's sum.
        optimizer: the live optimizer, copied with its settings and state; None is inference.

    Raises:
        UsageError: an argument is of the wrong type, or the batch does not fit the criterion.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"explain() needs a torch.nn.Module or a Workload first, not a {type(model).__name__}"
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise UsageError(f"optimizer= needs a torch optimizer, not a {type(optimizer).__name__}")
    if loss is not None and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise UsageError("with loss=criterion the batch must be a pair (inputs, target)")
    size = _leading_size(batch)

    def build_batch(n: int | None = None) -> Any:
        return copy.deepcopy(batch) if n in (None, size) else _resized(batch, size, n)

    def build_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        # deepcopy maps every old parameter to its new one, so groups, settings and state stay as they are
        assert optimizer is not None  # only called when there is one
        return copy.deepcopy(
            optimizer, {id(old): new for old, new in zip(model.parameters(), parameters, strict=True)}
        )

    return Workload(
        model=lambda: copy.deepcopy(model),
        batch=build_batch,
        loss=_LiveLoss(loss),
        optimizer=None if optimizer is None else build_optimizer,
        batch_size=size,
        name=name or type(model).__name__,
    )


@dataclass(frozen=True, slots=True)
class _LiveLoss:
    """`loss(model, batch)` from a criterion, as `live_workload` describes."""

    criterion: Callable[..., Any] | None

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        if self.criterion is not None:
            inputs, target = batch
            return self.criterion(_call(model, inputs), target)
        output = _call(model, batch)
        if not torch.is_grad_enabled():
            return output
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            return loss
        floats = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        return sum((t.sum() for t in floats[1:]), floats[0].sum()) if floats else output


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _leading_size(batch: Any) -> int | None:
    sizes = {t.shape[0] for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def _resized(batch: Any, size: int | None, n: int) -> Any:
    if size is None:
        raise UsageError("the batch size of these inputs is not known: their first dimensions differ")

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        return torch.zeros((n, *leaf.shape[1:]), dtype=leaf.dtype, device=leaf.device)

    return pytree.tree_map(resize, batch)
