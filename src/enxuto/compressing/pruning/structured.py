"""Structured pruning: whole channels, hidden units and heads go, and every tensor becomes smaller.

Example:
    >>> import torch
    >>> from enxuto.architectures import digits_cnn
    >>> net = digits_cnn()
    >>> pruned = prune(net, torch.zeros(1, 1, 28, 28), Pruning(ratio=0.5))
    >>> pruned.parameters < 0.4 * sum(p.numel() for p in net.parameters())
    True
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...records import Refusal, Reshape
from ...samples import Samples
from ..losses import supervised_loss
from .groups import WEIGHTED, Group, as_arguments, find_groups
from .importance import Importance, Loss, scores
from .removal import cuts_of, remove
from .selection import Order, Scope, Size, ordered, size_after, unit_costs
from .soundness import sound


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most so many parameters, bytes, or multiply-accumulates for the example."""

    size: Size
    at_most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How much goes, and by what.

    Args:
        ratio: the share of all units that goes; parameters fall faster, about as 1 - (1 - ratio)².
        limit: what the pruned model may have at most, instead of a ratio.
        importance: by what units are ranked.
        scope: whether groups compete, or each loses the same share.
        most: the largest share of one group that may go.
        round_to: what stays of each group is a multiple of this, where the group had that many.
        by_cost: rank units by their worth for each part of the limit's size that they take, not by worth alone: of
            two that are worth the same, the one that brings more goes first.
        keep: paths of modules whose outputs stay as they are.

    Raises:
        UsageError: no ratio in (0, 1) and no limit, or both; `most` or `round_to` out of range.
    """

    ratio: float = 0.0
    limit: Limit | None = None
    importance: Importance = Importance.MAGNITUDE
    scope: Scope = Scope.GLOBAL
    most: float = 0.9
    round_to: int = 1
    by_cost: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.limit is None and not 0 < self.ratio < 1:
            raise UsageError(
                f"a pruning ratio is the share of units that goes, above 0 and below 1, not {self.ratio}"
            )
        if self.limit is not None and self.ratio:
            raise UsageError("give a ratio or a limit, not both")
        if self.limit is None and self.by_cost:
            raise UsageError("by_cost ranks by what the limit counts: give a limit")
        if not 0 < self.most < 1 or self.round_to < 1:
            raise UsageError(
                f"most is a share above 0 and below 1 ({self.most}), round_to at least 1 ({self.round_to})"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """A smaller module, and how to make another copy of the original fit its weights.

    Attributes:
        model: the smaller module.
        spec: the new shapes, for `apply_shapes` and `Rebuild`.
        parameters: how many parameters it has.
        met: whether the limit is met; False where all that may go was not enough.
        refused: layers whose outputs stayed, with the reason.
    """

    model: nn.Module
    spec: Reshape
    parameters: int
    met: bool
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """What can go from a model, found and proved once; ranking it is cheap.

    Attributes:
        groups: what can be removed.
        refused: what cannot, with the reason.
        positions: how often each weight is applied to the example.
    """

    groups: tuple[Group, ...]
    refused: tuple[Refusal, ...]
    positions: dict[str, float] = field(repr=False)


def prunable(model: nn.Module, example: Any, *, keep: Collection[str] = ()) -> Prunable:
    """Find what can be removed from a model, and prove it on a copy.

    Args:
        model: a plain module; it is not changed.
        example: what it takes: a tensor, a tuple of arguments or a dict of keyword arguments; one sample will do.
        keep: paths of modules whose outputs stay.

    Raises:
        UsageError: a TorchScript module, a wrapper, or a model that cannot be followed.
        MissingDependency: torch-pruning is not installed.
    """
    refuse_wrapped(model)
    groups, refused = find_groups(model, example, keep=keep)
    good, faulty = sound(model, example, groups)
    return Prunable(groups=good, refused=(*refused, *faulty), positions=_positions(model, example))


def prune(
    model: nn.Module,
    example: Any,
    settings: Pruning,
    *,
    data: Any = None,
    loss: Loss = supervised_loss,
    found: Prunable | None = None,
    in_place: bool = False,
) -> Pruned:
    """Remove the units that are worth least, and make every tensor smaller.

    Args:
        model: a plain module, trained; copied, and left with its gradients, modes and random numbers.
        example: what it takes, for tracing; one sample will do. MACs are counted for it.
        settings: how much goes, and by what.
        data: samples for first-order and activation importance, as `Samples.of` takes them.
        loss: `loss(outputs, targets)` for first-order importance.
        found: what `prunable` found before, with the same `keep`; saves finding it again.
        in_place: prune the module itself; its parameters stay the same objects.

    Returns:
        The smaller module, with what could not be pruned and why.

    Raises:
        UsageError: nothing can be pruned, samples are missing, or the module cannot be followed.
        MissingDependency: torch-pruning is not installed.
    """
    refuse_wrapped(model)
    found = found or prunable(model, example, keep=settings.keep)
    if not found.groups:
        reasons = "; ".join(f"{refusal.lever}: {refusal.reason}" for refusal in found.refused[:5])
        raise UsageError(
            f"no layer of this {type(model).__name__} can be pruned ({reasons or 'it has none'})"
        )
    samples = None if data is None else Samples.of(data)
    worth = scores(model, found.groups, settings.importance, data=samples, loss=loss)
    order = ordered(
        found.groups,
        worth,
        importance=settings.importance,
        scope=settings.scope,
        most=settings.most,
        round_to=settings.round_to,
        costs=_costs(model, found, settings),
    )
    removed, met = _enough(model, found, order, settings)
    smaller = model if in_place else copy.deepcopy(model)
    spec = remove(smaller, found.groups, removed)
    return Pruned(
        model=smaller,
        spec=spec,
        parameters=sum(parameter.numel() for parameter in smaller.parameters()),
        met=met,
        refused=found.refused,
    )


def size_of(model: nn.Module, example: Any, size: Size) -> int:
    """What a model has of a size; MACs for the example, as `prune` counts them."""
    positions = _positions(model, example) if size is Size.MACS else {}
    return size_after(model, positions, size, {})


def refuse_wrapped(model: Any) -> None:
    """Refuse what is no plain module.

    Raises:
        UsageError: with the way out.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "a TorchScript module cannot be pruned: its code is fixed. Prune the nn.Module it came from"
        )
    if not isinstance(model, nn.Module):
        raise UsageError(f"pruning needs a torch.nn.Module, not a {type(model).__name__}")
    wrappers = ("DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule", "DataParallel")
    if type(model).__name__ in wrappers:
        raise UsageError(
            f"{type(model).__name__} keeps shapes of its own: prune the module inside, then wrap it anew"
        )


def _costs(model: nn.Module, found: Prunable, settings: Pruning) -> dict[str, float] | None:
    if settings.limit is None or not settings.by_cost:
        return None
    return unit_costs(model, found.groups, found.positions, settings.limit.size)


def _enough(model: nn.Module, found: Prunable, order: Order, settings: Pruning) -> tuple[Any, bool]:
    """The units that go, and whether the limit is met with them."""
    limit = settings.limit
    if limit is None:
        units = sum(group.units for group in found.groups)
        return order.first(round(settings.ratio * units)), True

    def within(removed: Any) -> bool:
        cuts = cuts_of(found.groups, removed)
        return size_after(model, found.positions, limit.size, cuts) <= limit.at_most

    removed = order.fewest(within)
    return removed, within(removed)


def _positions(model: nn.Module, example: Any) -> dict[str, float]:
    """How often each weight of a linear layer or convolution is applied when the model runs on the example."""
    positions: dict[str, float] = {}
    names = {id(parameter): path for path, parameter in model.named_parameters()}

    def count(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        transposed = getattr(module, "transposed", False)  # each input place meets the whole kernel
        places = inputs[0] if transposed else output
        channels = (
            module.in_channels if transposed else places.size(-1 if isinstance(module, nn.Linear) else 1)
        )
        path = names.get(id(module.weight), "")
        positions[path] = positions.get(path, 0.0) + places.numel() / channels

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, WEIGHTED)]
    modes = {module: module.training for module in model.modules()}
    arguments, named = as_arguments(example)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(*arguments, **named)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return positions
