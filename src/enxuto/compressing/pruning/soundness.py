"""The proof of a group: a copy with units removed gives what the same copy gives with these units at zero.

Both run in double precision, on weights shaken a little, so that a weight that happens to be zero hides nothing.
What fails is not pruned: a channel shuffle that was followed wrongly, a norm that is written by hand, a forward
that has a width written into it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..._torch_private import pytree
from ...errors import UsageError
from ...records import Refusal
from .groups import Group, as_arguments
from .removal import Removed, cuts_of, remove

#: Of the largest output; double precision leaves about 1e-13, a wrong channel 1e-3 and more.
_TOLERANCE = 1e-6


def sound(
    model: nn.Module, example: Any, groups: Iterable[Group]
) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """The groups for which removing equals masking, and the others with what went wrong.

    Raises:
        UsageError: the model does not run on the example, or groups that are right alone are wrong together.
    """
    groups = tuple(group for group in groups if group.units > 1)
    double = _shaken_double(model)
    fault = _fault(double, example, groups)
    if not fault:
        return groups, ()
    faults = {group.name: _fault(double, example, (group,)) for group in groups}
    good = tuple(group for group in groups if not faults[group.name])
    together = _fault(double, example, good)
    if together:
        raise UsageError(f"this model cannot be pruned: {together}")
    refused = [Refusal(lever=name, reason=fault) for name, fault in faults.items() if fault]
    return good, tuple(refused)


def mask(model: nn.Module, groups: Iterable[Group], removed: Removed) -> None:
    """Set every weight of these units to zero, in place: what `remove` takes out, left in."""
    with torch.no_grad():
        for path, dims in cuts_of(groups, removed).items():
            owner, _, name = path.rpartition(".")
            tensor = getattr(model.get_submodule(owner), name)
            for dim, gone in dims.items():
                tensor.index_fill_(dim, torch.tensor(sorted(gone), device=tensor.device), 0)


def _fault(model: nn.Module, example: Any, groups: tuple[Group, ...]) -> str:
    """What goes wrong when every second unit of these groups goes; "" where nothing does."""
    removed = {group.name: tuple(range(1, group.units, 2)) for group in groups}
    masked, smaller = copy.deepcopy(model), copy.deepcopy(model)
    mask(masked, groups, removed)
    expected = _outputs(masked, example)
    try:
        remove(smaller, groups, removed)
        got = _outputs(smaller, example)
    except Exception as error:  # whatever the user's forward does with a size that it did not expect
        said = (str(error).splitlines() or ["no message"])[0]
        return f"the smaller module does not run ({type(error).__name__}: {said})"
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in expected]:
        return "the outputs of the model would become smaller"
    for one, other in zip(expected, got, strict=True):
        if not torch.allclose(one, other, rtol=0, atol=_TOLERANCE * float(one.abs().max())):
            return "removing these units is not the same as setting them to zero"
    return ""


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Every floating-point tensor that the model returns, in double precision."""
    arguments, named = pytree.tree_map(_double, as_arguments(example))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = pytree.tree_leaves(model(*arguments, **named))
    return [leaf.double() for leaf in found if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _shaken_double(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.02 * noise.to(parameter.device))
    return copied
