"""Batch norms folded into the layer before them: the same function in evaluation, without the norms.

The arithmetic is torch's own (`torch.nn.utils.fusion`); which norm follows which layer, and nothing else, is read
from the traced graph.

Example:
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> folded = fold_batch_norms(net)
    >>> [(edit.layer, edit.norm) for edit in folded.edits]
    [('0', '1')]
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ..errors import UndecidableError, UsageError
from ..records import Fold

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folded:
    """A module in evaluation mode without the norms that could be folded, and which those were."""

    model: nn.Module
    edits: tuple[Fold, ...]


def fold_batch_norms(model: nn.Module) -> Folded:
    """Fold every batch norm that is the only reader of a linear layer or convolution.

    Args:
        model: copied; the copy comes back in evaluation mode, for which alone folding is exact. Norms without
            running statistics stay.

    Returns:
        The copy; a folded layer has a bias, a folded norm is an `nn.Identity`.

    Raises:
        UsageError: a TorchScript module.
        UndecidableError: `torch.fx` cannot trace the model, so that nobody knows what follows what.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("a TorchScript module cannot be changed: fold the nn.Module it came from")
    copied = copy.deepcopy(model).eval()
    edits = foldable_norms(copied)
    for edit in edits:
        _fold(copied, edit)
    return Folded(model=copied, edits=edits)


def apply_folds(model: nn.Module, edits: Iterable[Fold]) -> nn.Module:
    """Give a freshly built model the form of a folded one, in place; the folded weights then load.

    Raises:
        UsageError: the model has no such layer: it is another architecture.
    """
    modules = dict(model.named_modules())
    for edit in edits:
        layer = modules.get(edit.layer)
        if not isinstance(layer, _LAYERS) or edit.norm not in modules:
            raise UsageError(f"this {type(model).__name__} has no {edit.layer} followed by {edit.norm}")
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(_outputs(layer)))
        model.set_submodule(edit.norm, nn.Identity())
    return model


def foldable_norms(model: nn.Module) -> tuple[Fold, ...]:
    """Each norm whose input is the output of a layer that nothing else reads, both used once.

    Nothing is computed or changed: dry parameters will do. `apply_folds` then gives the form without the values.

    Raises:
        UndecidableError: `torch.fx` cannot trace the model, so that nobody knows what follows what.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # tracing runs the user's forward: anything may come of it
        raise UndecidableError(
            f"torch.fx cannot trace this {type(model).__name__} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}), so no norm is known to follow a layer; fold the "
            "parts that can be traced, one by one"
        ) from error
    modules = dict(model.named_modules())
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    found = []
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, layer = modules[str(node.target)], modules[str(before.target)]
        once = calls[id(norm)] == calls[id(layer)] == 1 and len(before.users) == 1
        if isinstance(norm, _NORMS) and isinstance(layer, _LAYERS) and once and norm.running_mean is not None:
            found.append(Fold(layer=str(before.target), norm=str(node.target)))
    return tuple(found)


def _fold(model: nn.Module, edit: Fold) -> None:
    layer: Any
    norm: Any
    layer, norm = model.get_submodule(edit.layer), model.get_submodule(edit.norm)
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        transposed = isinstance(layer, _TRANSPOSED)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transposed)
    model.set_submodule(edit.norm, nn.Identity())


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
