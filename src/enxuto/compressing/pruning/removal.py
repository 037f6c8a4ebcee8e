"""Taking units out: tensors, gradients, optimizer state and the counts that modules keep of their shapes.

Parameters stay the same objects, so that optimizers, and whatever else of the user's refers to them, need no new list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import UsageError
from ...records import Counted, Reshape, Resized
from .groups import Group, Slice

Removed: TypeAlias = Mapping[str, tuple[int, ...]]
"""For each group by its name, the units that go."""

Cuts: TypeAlias = dict[str, dict[int, set[int]]]
"""For each tensor by its path, and each of its dimensions, the indices that go."""

_COUNTS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "num_channels",
    "num_groups",
    "num_parameters",
    "embedding_dim",
)


def cuts_of(groups: Iterable[Group], removed: Removed) -> Cuts:
    """What leaves each tensor when these units of these groups go."""
    cuts: Cuts = {}
    for group in groups:
        for piece in group.slices:
            for unit in removed.get(group.name, ()):
                cuts.setdefault(piece.tensor, {}).setdefault(piece.dim, set()).update(piece.rows[unit])
    return cuts


def narrowed(tensor: Tensor, dims: Mapping[int, set[int]]) -> Tensor:
    """A tensor without these indices of these dimensions; new memory."""
    for dim, gone in dims.items():
        kept = [index for index in range(tensor.size(dim)) if index not in gone]
        tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
    return tensor


def remove(model: nn.Module, groups: Iterable[Group], removed: Removed) -> Reshape:
    """Take units out of a module, in place; its gradients shrink too.

    Args:
        model: the module whose groups these are, with the shapes that it had then.
        groups: from `find_groups`, or `renumbered` after an earlier removal.
        removed: the units that go, by group; at least one of each group stays.

    Returns:
        The new shapes and counts, with which `apply_shapes` makes another copy fit.
    """
    groups = tuple(groups)
    cuts = cuts_of(groups, removed)
    owners = {path: model.get_submodule(path.rpartition(".")[0]) for path in cuts}
    touched = {_name_of(model, owner): owner for owner in owners.values()}
    before = {name: _counts(module) for name, module in touched.items()}
    with torch.no_grad():
        for path, dims in cuts.items():
            resize(owners[path], path.rpartition(".")[2], partial(narrowed, dims=dims))
    for module in touched.values():
        _count_again(module)
    heads = list(_fewer_heads(model, groups, removed))
    counts = [
        Counted(module=name, name=count, value=value)
        for name, module in touched.items()
        for count, value in _counts(module).items()
        if before[name][count] != value
    ]
    shapes = [
        Resized(tensor=path, shape=tuple(getattr(owners[path], path.rpartition(".")[2]).shape))
        for path in cuts
    ]
    return Reshape(tensors=tuple(shapes), counts=(*counts, *heads))


def remove_from_state(model: nn.Module, optimizer: Optimizer, cuts: Cuts) -> None:
    """Take the same rows out of an optimizer's state; call it before the parameters themselves shrink.

    State of a parameter's own shape (momentum, Adam's averages) is cut as the parameter is; numbers stay.

    Raises:
        UsageError: state of another shape, such as Adafactor's factors or L-BFGS's history; nothing was changed.
    """
    parameters = {path: model.get_parameter(path) for path in cuts if _is_parameter(model, path)}
    check_state(optimizer, parameters)
    with torch.no_grad():
        for path, parameter in parameters.items():
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.dim():
                    state[key] = narrowed(value, cuts[path])


def check_state(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """Refuse an optimizer with state that is neither a number nor of the parameter's shape.

    Raises:
        UsageError: with the optimizer, the parameter and the state's name.
    """
    for path, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            number = not isinstance(value, Tensor | list | dict) or (
                isinstance(value, Tensor) and not value.dim()
            )
            if not number and (not isinstance(value, Tensor) or value.shape != parameter.shape):
                raise UsageError(
                    f"the state {key!r} that {type(optimizer).__name__} keeps for {path} does not have its shape, so "
                    "it cannot be cut with it; prune with SGD, Adam or AdamW, or prune after training"
                )


def resize(owner: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Give a parameter (and its gradient) or a buffer of a module another size; a parameter stays the same object.

    Args:
        owner: the module that holds it.
        name: its name there.
        change: from the old tensor to the new one.
    """
    tensor = getattr(owner, name)
    if not isinstance(tensor, nn.Parameter):
        setattr(owner, name, change(tensor))
        return
    gradient, tensor.grad = tensor.grad, None
    smaller = change(tensor.detach())
    # A loss that is still referred to keeps the parameter's old gradient node alive, and the next backward
    # would meet the old shape there. A change of type makes torch drop that node; a change of shape does not.
    tensor.data = smaller.new_empty(
        0, dtype=torch.float32 if smaller.dtype == torch.float64 else torch.float64
    )
    tensor.data = smaller
    if gradient is not None:
        tensor.grad = change(gradient)


def renumbered(groups: Iterable[Group], removed: Removed) -> tuple[Group, ...]:
    """The groups that are left, as a new search would find them: fewer units, and indices that have moved up."""
    groups = tuple(groups)
    cuts = cuts_of(groups, removed)
    return tuple(_renumbered(group, set(removed.get(group.name, ())), cuts) for group in groups)


def _renumbered(group: Group, gone: set[int], cuts: Cuts) -> Group:
    def moved(piece: Slice) -> Slice:
        cut = cuts.get(piece.tensor, {}).get(piece.dim, set())
        top = max(max(rows) for rows in piece.rows) + 1
        new, place = {}, 0
        for old in range(top):
            new[old] = place
            place += old not in cut
        rows = tuple(
            tuple(new[index] for index in rows) for unit, rows in enumerate(piece.rows) if unit not in gone
        )
        return replace(piece, rows=rows)

    return replace(group, slices=tuple(moved(piece) for piece in group.slices))


def apply_shapes(model: nn.Module, spec: Reshape) -> nn.Module:
    """Give a freshly built model the shapes of a pruned one, in place; the pruned weights then load.

    Args:
        model: as the user's own code builds it.
        spec: what `prune` returned.

    Returns:
        The same module; the values of what was reshaped are zeros until a state dict is loaded.

    Raises:
        UsageError: the model has no such tensor or module: it is another architecture.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    modules = dict(model.named_modules())
    missing = [item.tensor for item in spec.tensors if item.tensor not in tensors]
    missing += [
        f"{item.module}.{item.name}"
        for item in spec.counts
        if not hasattr(modules.get(item.module), item.name)
    ]
    if missing:
        raise UsageError(
            f"these shapes belong to another architecture: this {type(model).__name__} has no {missing[0]}; "
            "build the model with the code and the arguments that it was trained with"
        )
    for item in spec.tensors:
        path, _, name = item.tensor.rpartition(".")
        resize(modules[path], name, partial(torch.Tensor.new_zeros, size=tuple(item.shape)))
    for count in spec.counts:
        setattr(modules[count.module], count.name, count.value)
    return model


def merged(first: Reshape, second: Reshape) -> Reshape:
    """Two reshapes in a row as one."""
    shapes = {item.tensor: item for item in (*first.tensors, *second.tensors)}
    counts = {(item.module, item.name): item for item in (*first.counts, *second.counts)}
    return Reshape(tensors=tuple(shapes.values()), counts=tuple(counts.values()))


def _is_parameter(model: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    return isinstance(getattr(model.get_submodule(owner), name), nn.Parameter)


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(str(name) for name, other in model.named_modules() if other is module)


def _counts(module: nn.Module) -> dict[str, int]:
    return {name: int(getattr(module, name)) for name in _COUNTS if hasattr(module, name)}


def _count_again(module: Any) -> None:
    """Set a module's counts from the tensors that it holds now."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.size(1)
    elif isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups  # a norm's groups go whole
        module.num_channels = len(module.weight)
        module.num_groups = module.num_channels // size
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif hasattr(module, "num_features"):
        module.num_features = len(module.weight if module.weight is not None else module.running_mean)
    elif module.groups > 1:
        module.groups = module.in_channels = module.out_channels = module.weight.size(0)
    elif module.transposed:
        module.in_channels, module.out_channels = module.weight.shape[:2]
    else:
        module.out_channels, module.in_channels = module.weight.shape[:2]


def _fewer_heads(model: nn.Module, groups: tuple[Group, ...], removed: Removed) -> Iterable[Counted]:
    for group in groups:
        gone = len(removed.get(group.name, ()))
        if group.count and gone:
            module = model.get_submodule(group.attention)
            setattr(module, group.count, getattr(module, group.count) - gone)
            yield Counted(module=group.attention, name=group.count, value=getattr(module, group.count))
