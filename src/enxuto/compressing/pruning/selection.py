"""Which units go: the ones worth least, one after the other, until enough is gone."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from .groups import Group
from .importance import Importance
from .removal import Cuts, Removed, cuts_of


class Scope(Enum):
    """Whether the units of all groups compete (GLOBAL), or each group loses the same share (UNIFORM)."""

    GLOBAL = "global"
    UNIFORM = "uniform"


class Size(Enum):
    """What a pruned model may have at most."""

    PARAMETERS = "parameters"
    BYTES = "bytes"  # of parameters and buffers
    MACS = "macs"  # multiply-accumulates of linear layers and convolutions, for the example


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Every unit that may go, the one worth least first; and how many of each group go together.

    Attributes:
        groups: whose units these are.
        units: (group's place, unit), in the order in which they go.
        round_to: so many units of a group stay, or a multiple of it.
    """

    groups: tuple[Group, ...]
    units: tuple[tuple[int, int], ...]
    round_to: int = 1

    def first(self, n: int) -> Removed:
        """The first n units of the order, fewer where the rest of a group has to stay a multiple."""
        gone: dict[int, list[int]] = {}
        for place, unit in self.units[:n]:
            gone.setdefault(place, []).append(unit)
        chosen = {}
        for place, units in gone.items():
            group = self.groups[place]
            stay = math.ceil((group.units - len(units)) / self.round_to) * self.round_to
            if stay < group.units:
                chosen[group.name] = tuple(sorted(units[: group.units - stay]))
        return chosen

    def fewest(self, enough: Callable[[Removed], bool]) -> Removed:
        """The shortest beginning of the order that is enough; all of it where nothing is."""
        at = bisect_left(range(len(self.units) + 1), True, key=lambda n: enough(self.first(n)))
        return self.first(min(at, len(self.units)))


def ordered(
    groups: tuple[Group, ...],
    scores: Mapping[str, Tensor],
    *,
    importance: Importance,
    scope: Scope,
    most: float,
    round_to: int = 1,
    gone: Mapping[str, int] | None = None,
    costs: Mapping[str, float] | None = None,
) -> Order:
    """The order in which units go.

    Args:
        groups: the groups, as they are now.
        scores: float64 `[units]` for each group.
        importance: says which scores of different groups can be compared as they are.
        scope: GLOBAL or UNIFORM.
        most: the largest share of a group that may go, of what it had at first.
        round_to: what stays of a group is a multiple of this.
        gone: units that each group has lost before.
        costs: what one unit of each group takes; units then go by their worth for what they take.
    """
    ranked: list[tuple[float, int, int]] = []
    for place, group in enumerate(groups):
        before = (gone or {}).get(group.name, 0)
        first = group.units + before
        may_go = min(first - max(1, math.ceil(first * (1 - most) - 1e-9)) - before, group.units - 1)
        values = scores[group.name]
        cheapest = values.argsort(stable=True).tolist()[: max(0, may_go)]
        keys = _keys(values, importance, cost=1.0 if costs is None else costs[group.name])
        for rank, unit in enumerate(cheapest, start=before + 1):
            ranked.append((rank / first if scope is Scope.UNIFORM else keys[unit], place, unit))
    ranked.sort(key=lambda entry: entry[0])
    return Order(groups=groups, units=tuple((place, unit) for _, place, unit in ranked), round_to=round_to)


def unit_costs(
    model: nn.Module, groups: tuple[Group, ...], positions: Mapping[str, float], size: Size
) -> dict[str, float]:
    """How much of a size goes with one unit of each group, all others staying."""
    whole = size_after(model, positions, size, {})
    return {
        group.name: whole - size_after(model, positions, size, cuts_of((group,), {group.name: (0,)}))
        for group in groups
    }


def _keys(values: Tensor, importance: Importance, *, cost: float) -> list[float]:
    """Scores that can be compared between groups, for each part of a cost; what costs nothing goes last.

    First-order scores are changes of one loss already. Of activations each unit's share of what its readers make of
    the group counts; of weights each unit's score in the group's mean, because scales of layers mean nothing.
    """
    if cost <= 0:
        return [math.inf] * len(values)
    if importance is Importance.FIRST_ORDER:
        return list((values / cost).tolist())
    scale = values.sum() if importance is Importance.ACTIVATION else values.mean()
    return list(((values / scale if scale > 0 else values) / cost).tolist())


def size_after(model: nn.Module, positions: Mapping[str, float], size: Size, cuts: Cuts) -> int:
    """What a model would have after cuts, from its shapes alone.

    Args:
        model: with the shapes before.
        positions: for each weight, how often it is applied to the example (1 for a linear layer and one sample).
        size: what is counted.
        cuts: what leaves each tensor, by path and dimension.
    """
    total = 0.0
    counted: dict[str, Tensor] = dict(model.named_parameters())
    if size is Size.BYTES:
        counted |= dict(model.named_buffers())
    for path, tensor in counted.items():
        shape = list(tensor.shape)
        for dim, gone in cuts.get(path, {}).items():
            shape[dim] -= len(gone)
        weight = {
            Size.PARAMETERS: 1,
            Size.BYTES: tensor.element_size(),
            Size.MACS: positions.get(path, 0),
        }[size]
        total += math.prod(shape) * weight
    return round(total)
