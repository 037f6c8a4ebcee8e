"""What each unit is worth: by its weights, by the first-order change of the loss, or by its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...samples import Samples
from .groups import Group, Slice

Loss: TypeAlias = Callable[[Any, Tensor], Tensor]
"""`loss(outputs, targets)`, a mean over the batch."""

_BATCH = 64


class Importance(Enum):
    """By what units are ranked.

    MAGNITUDE: squared weights of everything that goes with the unit, each tensor's share counted alike (group
    norm, DepGraph, Fang et al. 2023). FIRST_ORDER: |Σ w ∂L/∂w| over the weights that read the unit, which is the
    first-order change of the loss when its activation becomes zero (Molchanov et al., "Importance Estimation for
    Neural Network Pruning", 2019, arXiv:1906.10771). ACTIVATION: mean squared activation times the squared
    weights that read it (as in Wanda, Sun et al. 2023, arXiv:2306.11695).
    """

    MAGNITUDE = "magnitude"
    FIRST_ORDER = "first-order"
    ACTIVATION = "activation"


def scores(
    model: nn.Module,
    groups: Iterable[Group],
    importance: Importance,
    *,
    data: Samples | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """A score for each unit of each group, float64 `[units]` on the CPU; higher is worth more.

    Args:
        model: runs in evaluation mode meanwhile; parameters, gradients, mode and random numbers are as before.
        groups: from `find_groups`.
        importance: how to rank.
        data: samples for FIRST_ORDER (labelled) and ACTIVATION.
        loss: for FIRST_ORDER, a mean over the batch.

    Raises:
        UsageError: samples or targets are missing.
    """
    groups = tuple(groups)
    if importance is Importance.MAGNITUDE:
        return {group.name: magnitude(model, group) for group in groups}
    if data is None:
        raise UsageError(f"{importance.value} importance needs samples: data=(inputs, targets)")
    if importance is Importance.ACTIVATION:
        return _activation(model, groups, data)
    if data.targets is None or loss is None:
        raise UsageError("first-order importance needs samples with targets, and a loss")
    return _first_order(model, groups, data, loss)


def magnitude(model: nn.Module, group: Group) -> Tensor:
    """The mean over a group's weight tensors of each unit's share of their squared weights, times the units."""
    shares = []
    for piece in group.slices:
        weights = _tensor(model, piece)
        if weights.dim() > 1:
            squares = _per_unit(_along(weights.detach().double().square(), piece.dim), piece)
            shares.append(squares / squares.mean().clamp_min(torch.finfo(torch.float64).tiny))
    return torch.stack(shares).mean(0)


def first_order(model: nn.Module, group: Group) -> Tensor:
    """|Σ w ∂L/∂w| of each unit over the weights that read it, from the gradients that parameters hold now.

    Raises:
        UsageError: there is no gradient.
    """
    total = torch.zeros(group.units, dtype=torch.float64)
    for piece in group.slices:
        if piece.reads:
            weights = _tensor(model, piece)
            if weights.grad is None:
                raise UsageError(
                    f"first-order importance reads gradients, and {piece.tensor} has none: "
                    "call it after backward() and before zero_grad()"
                )
            product = weights.detach().double() * weights.grad.double()
            total += _per_unit(_along(product, piece.dim), piece)
    return total.abs()


def _first_order(model: nn.Module, groups: tuple[Group, ...], data: Samples, loss: Loss) -> dict[str, Tensor]:
    """Mean over small batches of the first-order change: signs of different samples must not cancel for good."""
    totals = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    with _at_rest(model), torch.enable_grad():
        for batch in data.batches(_BATCH):
            model.zero_grad(set_to_none=True)
            assert batch.targets is not None
            loss(model(*batch.inputs), batch.targets).backward()
            for group in groups:
                totals[group.name] += first_order(model, group) * len(batch) / len(data)
    return totals


def _activation(model: nn.Module, groups: tuple[Group, ...], data: Samples) -> dict[str, Tensor]:
    readers = {piece.tensor for group in groups for piece in group.slices if piece.reads}
    energy = _input_energy(model, readers, data)
    found = {}
    for group in groups:
        total = torch.zeros(group.units, dtype=torch.float64)
        for piece in group.slices:
            if piece.reads:
                columns = _along(_tensor(model, piece).detach().double().square(), piece.dim)
                total += _per_unit(columns * energy[piece.tensor], piece)
        found[group.name] = total
    return found


def _input_energy(model: nn.Module, readers: Iterable[str], data: Samples) -> dict[str, Tensor]:
    """For each weight that reads, the sum over samples and places of its squared inputs, `[inputs]`."""
    energy: dict[str, Tensor] = {}

    def listen(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            dim = -1 if isinstance(module, nn.Linear) else 1
            seen = inputs[0].detach().double().movedim(dim, 0).flatten(1).square().sum(1).cpu()
            energy[name] = energy.get(name, torch.zeros_like(seen)) + seen

        return hook

    hooks = [
        model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(listen(name))
        for name in sorted(readers)
    ]
    try:
        with _at_rest(model), torch.no_grad():
            for batch in data.batches(_BATCH):
                model(*batch.inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return energy


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards modes, gradients, what asks for gradients and random numbers are as before."""
    modes = {module: module.training for module in model.modules()}
    kept = {parameter: (parameter.grad, parameter.requires_grad) for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in kept:
            parameter.grad = None
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, (gradient, wanted) in kept.items():
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _tensor(model: nn.Module, piece: Slice) -> Tensor:
    owner, _, name = piece.tensor.rpartition(".")
    found: Tensor = getattr(model.get_submodule(owner), name)
    return found


def _along(values: Tensor, dim: int) -> Tensor:
    """Sums over every dimension but one, on the CPU."""
    return values.movedim(dim, 0).flatten(1).sum(1).cpu()


def _per_unit(values: Tensor, piece: Slice) -> Tensor:
    """Sums of values along a dimension over the rows of each unit, `[units]`."""
    return torch.stack([values[list(rows)].sum() for rows in piece.rows])
