"""Which channels, hidden units and heads can go, and everything that goes with each.

The coupling of layers is found by torch-pruning's DependencyGraph (Fang et al., "DepGraph: Towards Any Structural
Pruning", 2023, arXiv:2301.12900); attention heads are found here, because the graph follows only the last of
queries, keys and values. What the graph says is not believed: `soundness` removes units from a copy and compares
it with the same copy masked.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from ..._torch_private import BatchNorms
from ...errors import MissingDependency, UsageError
from ...records import Refusal
from .attention import Attention, attentions

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Layers whose weights are applied as matrix products.
WEIGHTED = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)

_KEPT = "kept, as you asked"


class Kind(Enum):
    """What a unit of a group is."""

    CHANNELS = "channels"
    HIDDEN = "hidden units"
    HEADS = "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Where the units of a group live in one tensor.

    Attributes:
        tensor: path of the parameter or buffer, as in the state dict.
        dim: the dimension that is cut.
        rows: for each unit, its indices along that dimension.
        reads: these weights read the unit's activation; otherwise they produce it.
    """

    tensor: str
    dim: int
    rows: tuple[tuple[int, ...], ...]
    reads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that can be removed one by one, and what is removed with each.

    Attributes:
        name: path of the layer that produces them (one of several, where they are added up).
        kind: what a unit is.
        slices: where they live; unit u of every slice goes at once.
        attention: the module whose count of heads falls with them.
        count: the name of that count.
    """

    name: str
    kind: Kind
    slices: tuple[Slice, ...]
    attention: str = ""
    count: str = ""

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.slices[0].rows)


class _Refused(Exception):
    """This group cannot be cut; the text says why."""


def find_groups(
    model: nn.Module, example: Any, *, keep: Collection[str] = ()
) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """The groups of a module, and the layers whose outputs stay, each with the reason.

    Args:
        model: any module of linear layers, convolutions and norms; it is copied and left as it is.
        example: what the model takes: a tensor, a tuple of arguments or a dict of keyword arguments.
        keep: paths of modules; what they or the modules inside them produce stays.

    Raises:
        UsageError: the model cannot be traced, or `keep` names no module.
        MissingDependency: torch-pruning is not installed.
    """
    names = dict(model.named_modules())
    unknown = sorted(set(keep) - set(names))
    if unknown:
        raise UsageError(f"keep= names no module of this model: {', '.join(unknown)}")
    traced = _traceable_copy(model)
    tensors = _tensor_names(traced)
    heads, refused = attentions(traced)
    taken = {path for found in heads for path in found.producers}
    groups = []
    for found in heads:
        if any(_kept(path, keep) for path in found.producers):
            refused.append(Refusal(lever=found.path, reason=_KEPT))
        else:
            groups.append(_of_heads(found, tensors))
    for items in _dependencies(traced, example):
        makers = [item.layer for item in items if item.produces and isinstance(item.module, WEIGHTED)]
        if taken.intersection(makers):
            continue
        try:
            if any(_kept(path, keep) for path in makers):
                raise _Refused(_KEPT)
            groups.append(_of_layers(items, tensors))
        except _Refused as reason:
            refused.append(Refusal(lever=items[0].layer, reason=str(reason)))
    return tuple(groups), tuple(refused)


def as_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a user gives as an example, as positional and keyword arguments."""
    if isinstance(example, dict):
        return (), example
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})


def _kept(name: str, keep: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in keep)


def _traceable_copy(model: nn.Module) -> nn.Module:
    """A copy on which autograd reaches every layer, in evaluation mode; the user's own keeps its mode and gradients."""
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    return copied


def _tensor_names(model: nn.Module) -> dict[int, str]:
    """The first path of each parameter and buffer, by identity: a tied weight has one name."""
    names: dict[int, str] = {}
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        names.setdefault(id(tensor), path)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One line of a dependency group: which dimension of which module, and the units of its indices."""

    layer: str  # "" for what is no module: operations, loose parameters
    module: Any
    produces: bool
    indices: tuple[int, ...]
    roots: tuple[int, ...]


def _dependencies(model: nn.Module, example: Any) -> list[tuple[_Item, ...]]:
    """torch-pruning's groups, read into plain items; nothing of it is used beyond this function."""
    try:
        import torch_pruning
    except ImportError:
        raise MissingDependency(
            "structured pruning needs torch-pruning: pip install 'enxuto[compress]'"
        ) from None
    arguments, named = as_arguments(example)
    names = {id(module): name for name, module in model.named_modules()}
    try:
        with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # loose parameters are refused below, by name
            graph = torch_pruning.DependencyGraph().build_dependency(
                model, example, forward_fn=lambda module, _: module(*arguments, **named)
            )
            roots = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
            groups = list(graph.get_all_groups(root_module_types=roots))
    except UsageError:
        raise
    except (Exception, RecursionError) as error:
        raise UsageError(
            "torch-pruning cannot follow this model "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            "check the example input first, and prune the parts that it can follow one by one"
        ) from error

    def read(item: Any) -> _Item:
        module = item.dep.target.module
        return _Item(
            layer=names.get(id(module), ""),
            module=module,
            produces=bool(graph.is_out_channel_pruning_fn(item.dep.handler)),
            indices=tuple(item.idxs),
            roots=tuple(item.root_idxs),
        )

    return [tuple(map(read, group.items)) for group in groups]


def _of_heads(found: Attention, tensors: Mapping[int, str]) -> Group:
    slices = [
        Slice(tensor=tensors[id(part.tensor)], dim=part.dim, rows=part.rows, reads=part.reads)
        for part in found.parts
    ]
    return Group(
        name=found.path, kind=Kind.HEADS, slices=tuple(slices), attention=found.path, count=found.count
    )


def _of_layers(items: tuple[_Item, ...], tensors: Mapping[int, str]) -> Group:
    """One dependency group as units and slices.

    Raises:
        _Refused: a part of it cannot be cut, or its outputs are the model's.
    """
    layers = [item for item in items if isinstance(item.module, nn.Module) and item.layer]
    loose = [item for item in items if isinstance(item.module, nn.Parameter)]
    if loose:
        raise _Refused(
            f"the loose parameter {tensors.get(id(loose[0].module), '')} runs along these channels"
        )
    if any("Output" in type(item.module).__name__ for item in items):
        raise _Refused("these are the model's outputs")
    for item in layers:
        _check_member(item)
    if not any(_reads(item) for item in layers):
        raise _Refused("these are the model's outputs: no layer reads them")
    units = _units(len(items[0].indices), layers)
    slices = [piece for item in layers for piece in _slices(item, units, tensors)]
    convolves = any(
        isinstance(item.module, (*_CONVOLUTIONS, *_TRANSPOSED)) for item in layers if item.produces
    )
    return Group(name=items[0].layer, kind=Kind.CHANNELS if convolves else Kind.HIDDEN, slices=tuple(slices))


def _depthwise(module: Any) -> bool:
    return bool(module.groups > 1 and module.groups == module.in_channels == module.out_channels)


def _reads(item: _Item) -> bool:
    return isinstance(item.module, WEIGHTED) and not item.produces


def _check_member(item: _Item) -> None:
    """Refuse layers whose result changes for the units that stay, or that this package does not cut.

    Raises:
        _Refused: with the layer's path.
    """
    module, layer = item.module, item.layer
    if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)):
        if module.groups > 1 and not _depthwise(module):
            raise _Refused(f"{layer} is a convolution in {module.groups} groups, which tie inputs to outputs")
    elif isinstance(module, nn.LayerNorm) or type(module).__name__ == "RMSNorm":
        raise _Refused(f"{layer} normalises over these channels: without some, all others change")
    elif not isinstance(module, (nn.Linear, nn.GroupNorm, nn.PReLU, nn.Embedding, BatchNorms)):
        raise _Refused(f"{layer} is a {type(module).__name__}, which is not cut")
    if isinstance(module, WEIGHTED) and item.produces and len(item.indices) != _outputs(module):
        raise _Refused(
            f"only {len(item.indices)} of the {_outputs(module)} outputs of {layer} are followed "
            "(grouped queries, a split or a shuffle)"
        )


def _outputs(module: Any) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)


def _units(roots: int, layers: list[_Item]) -> list[int]:
    """The unit of each channel of the root: channels that one group of a group norm joins go together.

    Raises:
        _Refused: a norm's group reaches into channels of another layer.
    """
    unit = list(range(roots))
    for item in layers:
        if not isinstance(item.module, nn.GroupNorm):
            continue
        size = item.module.num_channels // item.module.num_groups
        root_of = dict(zip(item.indices, item.roots, strict=True))
        for start in range(0, item.module.num_channels, size):
            members = [root_of.get(index) for index in range(start, start + size)]
            if None in members and any(member is not None for member in members):
                raise _Refused(f"a group of {item.layer} mixes channels of several layers")
            joined = {unit[member] for member in members if member is not None}
            unit = [min(joined) if own in joined else own for own in unit]
    order = {own: place for place, own in enumerate(sorted(set(unit)))}
    return [order[own] for own in unit]


def _slices(item: _Item, units: list[int], tensors: Mapping[int, str]) -> list[Slice]:
    """The tensors of one layer that the units run through."""
    rows: list[list[int]] = [[] for _ in range(max(units) + 1)]
    for index, root in zip(item.indices, item.roots, strict=True):
        rows[units[root]].append(index)
    fixed = tuple(tuple(sorted(unit)) for unit in rows)
    return [
        Slice(tensor=_named(tensor, item, tensors), dim=dim, rows=fixed, reads=_reads(item))
        for tensor, dim in _cut_dimensions(item)
    ]


def _named(tensor: Tensor, item: _Item, tensors: Mapping[int, str]) -> str:
    name = tensors.get(id(tensor))
    if name is None:
        raise _Refused(f"the weight of {item.layer} is computed from others (a parametrization or a mask)")
    return name


def _cut_dimensions(item: _Item) -> list[tuple[Tensor, int]]:
    """Which dimension of which tensors of a layer holds its output (or input) channels."""
    module = item.module
    if isinstance(module, nn.Embedding):
        return [(module.weight, 1)]
    if isinstance(module, (BatchNorms, nn.GroupNorm, nn.PReLU)):
        names = ("weight", "bias", "running_mean", "running_var")
        found = [getattr(module, name, None) for name in names]
        shared = isinstance(module, nn.PReLU) and module.num_parameters == 1
        return [] if shared else [(tensor, 0) for tensor in found if tensor is not None]
    transposed = isinstance(module, _TRANSPOSED) and not _depthwise(module)
    if _reads(item):
        return [(module.weight, 0 if transposed else 1)]
    outputs = [(module.weight, 1 if transposed else 0)]
    return outputs if module.bias is None else [*outputs, (module.bias, 0)]
