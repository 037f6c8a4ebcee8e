"""Cross-layer equalisation: a channel made smaller in one layer and larger in the next, the function unchanged.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.1, equations
9 to 11: with ranges r₁ and r₂ of a channel's weights in two layers, s = √(r₁·r₂) / r₂ divides the first layer's
channel and its bias, and multiplies the second's; both then have range √(r₁·r₂). https://arxiv.org/abs/1906.04721

ReLU commutes with positive factors and ReLU6 does not: its clip at 6 becomes a clip at 6 / s for each channel, or,
as the paper does it, is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, fx, nn

from ...errors import UsageError


class Clip(Enum):
    """What becomes of a ReLU6 between two equalised layers."""

    EXACT = "exact"  # a clip for each channel: the function stays; one more op in the file
    RELU = "relu"  # no clip: another function, as in the paper
    LEAVE = "leave"  # pairs with a ReLU6 are not equalised


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalisation:
    """How layers are equalised.

    Attributes:
        clip: what becomes of ReLU6.
        sweeps: most passes over all pairs; chains of three layers need several.
        tolerance: the passes stop when no factor is further than this from 1.
    """

    clip: Clip = Clip.EXACT
    sweeps: int = 40
    tolerance: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two layers that only each other see, by path; the ReLU6 between them, if any; and the range ratios.

    `before` and `after` are the largest ratio between two channels' ranges in the first layer's weight.
    """

    first: str
    second: str
    relu6: str = ""
    before: float = 1.0
    after: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Equalised:
    """A copy of the model with equalised weights, and the pairs."""

    model: nn.Module
    pairs: tuple[Pair, ...]


class ChannelClip(nn.Module):
    """ReLU with an upper limit for each channel (axis 1)."""

    limit: Tensor

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, channels, ...]` between 0 and each channel's limit."""
        return torch.minimum(torch.relu(x), self.limit.reshape(-1, *[1] * (x.dim() - 2)))


def equalise(model: nn.Module, settings: Equalisation | None = None) -> Equalised:
    """A copy of the model in which the channels of consecutive layers have equal ranges.

    Args:
        model: batch norms folded; one that stands between two layers keeps them from being a pair.
        settings: what becomes of ReLU6.

    Returns:
        The copy: outputs equal the model's up to float rounding, unless `Clip.RELU` was asked for. Without any
        pair it is a plain copy.

    Raises:
        UsageError: torch.fx cannot follow the model's forward.
    """
    settings = settings or Equalisation()
    copied = copy.deepcopy(model)
    pairs = [pair for pair in find_pairs(copied) if not pair.relu6 or settings.clip is not Clip.LEAVE]
    before = [_spread(copied, pair) for pair in pairs]
    clips = {pair.relu6: torch.full((_channels(copied, pair),), 6.0) for pair in pairs if pair.relu6}
    with torch.no_grad():
        for _ in range(settings.sweeps):
            factors = [_balance(copied, pair, clips.get(pair.relu6)) for pair in pairs]
            if not factors or max(float((f - 1).abs().max()) for f in factors) < settings.tolerance:
                break
    for path, limit in clips.items():
        _replace(copied, path, nn.ReLU() if settings.clip is Clip.RELU else ChannelClip(limit))
    found = tuple(
        Pair(first=p.first, second=p.second, relu6=p.relu6, before=was, after=_spread(copied, p))
        for p, was in zip(pairs, before, strict=True)
    )
    return Equalised(model=copied, pairs=found)


def find_pairs(model: nn.Module) -> list[Pair]:
    """Layers that run once, whose output goes through what commutes with positive factors into one other layer.

    Raises:
        UsageError: torch.fx cannot follow the model's forward.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise UsageError(
            f"equalisation follows the model with torch.fx, which failed: {error}; leave this repair out"
        ) from None
    modules = dict(model.named_modules())
    runs: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            runs[str(node.target)] = runs.get(str(node.target), 0) + 1
    pairs = (_pair_from(node, modules, runs) for node in graph.nodes)
    return [pair for pair in pairs if pair is not None]


_THROUGH_MODULES = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
)
_THROUGH_FUNCTIONS = {
    "relu",
    "relu_",
    "dropout",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "flatten",
    "boolean_dispatch",  # how torch.fx names functional.max_pool2d
}


def _pair_from(node: fx.Node, modules: dict[str, nn.Module], runs: dict[str, int]) -> Pair | None:
    """The pair that starts at this node, if there is one."""
    if not _is_layer(node, modules) or runs[str(node.target)] != 1:
        return None
    relu6 = ""
    for user in _only_users(node):
        if _is_layer(user, modules):
            if runs[str(user.target)] != 1 or not _fit(modules[str(node.target)], modules[str(user.target)]):
                return None
            return Pair(first=str(node.target), second=str(user.target), relu6=relu6)
        if _is_relu6(user, modules) and not relu6 and runs[str(user.target)] == 1:
            relu6 = str(user.target)
        elif not _commutes(user, modules):
            return None
    return None


def _only_users(node: fx.Node) -> Iterator[fx.Node]:
    """The chain of nodes that are each the only reader of the one before."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        yield node


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.groups in (1, layer.in_channels) and (layer.groups == 1 or _depthwise(layer))
    return isinstance(layer, nn.Linear)


def _depthwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv1d | nn.Conv2d)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )


def _fit(first: nn.Module, second: nn.Module) -> bool:
    """Whether the second layer's inputs are the first one's channels, each once or spread over positions."""
    inputs, outputs = _inputs(second), len(first.weight)  # type: ignore[arg-type]
    if isinstance(second, nn.Linear) and not isinstance(first, nn.Linear):
        return inputs % outputs == 0  # flattened: the positions of a channel lie together
    return inputs == outputs


def _inputs(layer: nn.Module) -> int:
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert isinstance(size, int)
    return size


def _is_relu6(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), nn.ReLU6)


def _commutes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), _THROUGH_MODULES)
    if node.op == "call_method":
        return str(node.target) in {"relu", "relu_", "flatten", "contiguous"}
    return node.op == "call_function" and getattr(node.target, "__name__", "") in _THROUGH_FUNCTIONS


def _channels(model: nn.Module, pair: Pair) -> int:
    return len(model.get_parameter(f"{pair.first}.weight"))


def _balance(model: nn.Module, pair: Pair, clip: Tensor | None) -> Tensor:
    """Equalise one pair in place and return its factors `[channels]`, 1 where a channel is all zeros."""
    first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)
    weight, bias = first.weight, first.bias
    assert isinstance(weight, Tensor)
    outgoing = _by_input(second, len(weight))
    r1, r2 = weight.abs().flatten(1).amax(1), outgoing.abs().flatten(1).amax(1)
    usable = (r1 > 0) & (r2 > 0)
    factor = torch.where(usable, torch.sqrt(r1 / r2.where(usable, torch.ones_like(r2))), torch.ones_like(r1))
    weight /= factor.reshape(-1, *[1] * (weight.dim() - 1))
    if isinstance(bias, Tensor):
        bias /= factor
    outgoing *= factor.reshape(-1, *[1] * (outgoing.dim() - 1))
    if clip is not None:
        clip /= factor
    return factor


def _by_input(layer: nn.Module, channels: int) -> Tensor:
    """A view of a layer's weight with the channels that it reads as the first axis."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if _depthwise(layer):
        return weight.data
    if isinstance(layer, nn.Linear):
        return weight.data.view(len(weight), channels, -1).transpose(0, 1)
    return weight.data.transpose(0, 1)


def _spread(model: nn.Module, pair: Pair) -> float:
    """The largest channel range over the smallest, of the first layer's weight; channels of zeros apart."""
    ranges = model.get_parameter(f"{pair.first}.weight").detach().abs().flatten(1).amax(1)
    ranges = ranges[ranges > 0]
    return float(ranges.max() / ranges.min()) if len(ranges) else 1.0


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
