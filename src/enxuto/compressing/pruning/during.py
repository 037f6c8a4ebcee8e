"""Pruning while training: weights, gradients, activations and optimizer state shrink in the middle of a run.

Example:
    >>> import torch
    >>> from enxuto.architectures import digits_cnn
    >>> net = digits_cnn()
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> shrinking = Shrinking(net, optimizer, Cubic(ratio=0.5, start=1, end=3, every=1), torch.zeros(1, 1, 28, 28))
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     net(torch.rand(4, 1, 28, 28)).square().mean().backward()
    ...     optimizer.step()
    ...     shrunk = shrinking.step()
    >>> shrinking.ratio
    0.5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import UsageError
from ...records import Refusal, Reshape
from .groups import Group
from .importance import Importance, first_order, magnitude
from .removal import Removed, check_state, cuts_of, merged, remove, remove_from_state, renumbered
from .selection import Scope, ordered
from .structured import Prunable, prunable, refuse_wrapped

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubic:
    """How much is gone when: fast at first, slower as less is left (Zhu and Gupta, "To prune, or not to prune", 2017,
    arXiv:1710.01878, equation 1); what is gone does not come back.

    Args:
        ratio: the share of all units that is gone in the end.
        start: the step (counted from 1) of the first removal.
        end: the step of the last.
        every: steps from one removal to the next.

    Raises:
        UsageError: a ratio outside (0, 1), or steps that are in no order.
    """

    ratio: float
    start: int
    end: int
    every: int

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UsageError(f"a pruning ratio is above 0 and below 1, not {self.ratio}")
        if not 1 <= self.start <= self.end or self.every < 1:
            raise UsageError(
                f"a schedule needs 1 <= start <= end and every >= 1, not start={self.start}, end={self.end}, "
                f"every={self.every}"
            )

    def gone_at(self, step: int) -> float:
        """The share that is gone after this step: ratio × (1 - (1 - t)³).

        t is (step - start + every) / (end - start + every): above 0 at the first removal, 1 at the last.
        """
        if step < self.start:
            return 0.0
        whole = self.end - self.start
        done = whole if step >= self.end else (step - self.start) // self.every * self.every
        left = 1 - (done + self.every) / (whole + self.every)
        return self.ratio * (1 - left**3)

    def is_due(self, step: int) -> bool:
        """Whether units go after this step."""
        inside = self.start <= step < self.end and (step - self.start) % self.every == 0
        return inside or step == self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """By what units are ranked while training runs, and how they compete; fields as in `Pruning`."""

    importance: Importance = Importance.MAGNITUDE
    scope: Scope = Scope.GLOBAL
    most: float = 0.9
    round_to: int = 1
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.importance is Importance.ACTIVATION:
            raise UsageError("activations are not kept while training: rank by magnitude or first-order")
        if not 0 < self.most < 1 or self.round_to < 1:
            raise UsageError(
                f"most is a share above 0 and below 1 ({self.most}), round_to at least 1 ({self.round_to})"
            )


class Shrinking:
    """Shrinks a model and the state of its optimizer, in place, on a schedule.

    Parameters stay the same objects and the optimizer stays the user's, with its groups and settings.

    Args:
        model: a plain module, of its original shapes; copied twice for a moment to find what can go.
        optimizer: of this model; its state must have the parameters' shapes (SGD, Adam, AdamW and their like).
        schedule: how much is gone when.
        example: what the model takes, for tracing; one sample will do.
        ranking: which units go first.
        found: what `prunable` found before on this model, with the same `keep`.

    Raises:
        UsageError: the model cannot be pruned, or the optimizer's state cannot be cut.
        MissingDependency: torch-pruning is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: Cubic,
        example: Any,
        *,
        ranking: Ranking | None = None,
        found: Prunable | None = None,
    ) -> None:
        refuse_wrapped(model)
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.ranking = ranking or Ranking()
        found = found or prunable(model, example, keep=self.ranking.keep)
        if not found.groups:
            raise UsageError(f"no layer of this {type(model).__name__} can be pruned")
        self.refused: tuple[Refusal, ...] = found.refused
        self.groups: tuple[Group, ...] = found.groups
        self.spec = Reshape(tensors=(), counts=())
        self.steps = 0
        self._first = {group.name: group.units for group in found.groups}
        self._history: list[tuple[int, dict[str, tuple[int, ...]]]] = []
        check_state(optimizer, dict(model.named_parameters()))

    @property
    def ratio(self) -> float:
        """The share of all units that is gone now."""
        return 1 - sum(group.units for group in self.groups) / sum(self._first.values())

    def step(self) -> bool:
        """Count one step, and remove what is due; call it after each `optimizer.step()`.

        With first-order ranking gradients must still be there: before `zero_grad()`.

        Returns:
            Whether anything was removed.

        Raises:
            UsageError: there are no gradients to rank by, or state that cannot be cut; nothing was changed then.
        """
        if not self.schedule.is_due(self.steps + 1):
            self.steps += 1
            return False
        removed = self._due(self.steps + 1)
        if removed:
            self._remove(removed)
        self.steps += 1
        if removed:
            self._history.append((self.steps, dict(removed)))
        return bool(removed)

    def state_dict(self) -> dict[str, Any]:
        """Steps and removals, as plain numbers: `torch.load(..., weights_only=True)` reads them."""
        history = [
            {"step": step, "removed": {name: list(units) for name, units in removed.items()}}
            for step, removed in self._history
        ]
        return {"version": _VERSION, "steps": self.steps, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give a freshly built model the shapes of a checkpoint.

        Call it first; then load the model's and the optimizer's own state dicts, which fit after it.

        Raises:
            UsageError: this model was shrunk already, or the checkpoint is of another architecture or version.
        """
        if self._history or self.steps:
            raise UsageError("load a checkpoint into a Shrinking of a freshly built model, before any step")
        if state.get("version") != _VERSION:
            raise UsageError(f"this enxuto reads shrinking checkpoints of version {_VERSION}")
        known = {name for entry in state["history"] for name in entry["removed"]} - set(self._first)
        if known:
            raise UsageError(f"this checkpoint shrank {sorted(known)[0]}, which this model does not have")
        for entry in state["history"]:
            removed = {name: tuple(units) for name, units in entry["removed"].items()}
            self._remove(removed)
            self._history.append((int(entry["step"]), removed))
        self.steps = int(state["steps"])

    def _due(self, step: int) -> Removed:
        """The units that go after this step, so that as many are gone as the schedule says."""
        total = sum(self._first.values())
        already = total - sum(group.units for group in self.groups)
        wanted = round(self.schedule.gone_at(step) * total) - already
        if wanted <= 0:
            return {}
        order = ordered(
            self.groups,
            {group.name: self._worth(group) for group in self.groups},
            importance=self.ranking.importance,
            scope=self.ranking.scope,
            most=self.ranking.most,
            round_to=self.ranking.round_to,
            gone={group.name: self._first[group.name] - group.units for group in self.groups},
        )
        return order.first(wanted)

    def _worth(self, group: Group) -> Tensor:
        rank = first_order if self.ranking.importance is Importance.FIRST_ORDER else magnitude
        with torch.no_grad():
            return rank(self.model, group)

    def _remove(self, removed: Removed) -> None:
        remove_from_state(self.model, self.optimizer, cuts_of(self.groups, removed))
        self.spec = merged(self.spec, remove(self.model, self.groups, removed))
        self.groups = renumbered(self.groups, removed)
