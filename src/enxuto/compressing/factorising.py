"""Low rank: a large linear layer or convolution becomes two small ones, by truncated singular value decomposition.

The best approximation of a rank drops the smallest singular values, and its squared error is the sum of their
squares (Eckart and Young, 1936). With samples the error of the layer's OUTPUT on them is what is least: the
decomposition is of the weights times a square root of the inputs' second moments (as in ASVD, Yuan et al. 2023,
arXiv:2312.05821, and SVD-LLM, Wang et al. 2024, arXiv:2403.07378).

Example:
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> low = factorise(net, LowRankSettings(energy=0.5))
    >>> sum(p.numel() for p in low.model.parameters()) < sum(p.numel() for p in net.parameters())
    True
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..records import LowRank
from ..samples import Samples

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankSettings:
    """Which layers, and how much of each is kept.

    Args:
        energy: the share of squared singular values that each layer keeps at least.
        at_most: parameters that the model may have at most, instead of an energy: the largest energy, the same for
            all layers, at which it has no more.
        smallest: layers with fewer weights stay.
        keep: paths of layers that stay.

    Raises:
        UsageError: no energy in (0, 1) and no `at_most`, or both.
    """

    energy: float = 0.0
    at_most: int = 0
    smallest: int = 1024
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.at_most > 0) == (self.energy != 0) or not 0 <= self.energy < 1 or self.at_most < 0:
            raise UsageError(
                "give either energy= above 0 and below 1 or at_most= parameters, not "
                f"energy={self.energy} and at_most={self.at_most}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """One layer that became two: its rank, and the share of energy that was dropped (weights', or outputs' on data)."""

    module: str
    rank: int
    dropped_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factorised:
    """A module with low-rank layers, how to rebuild it, and what each layer lost; `met`: within `at_most`."""

    model: nn.Module
    edits: tuple[LowRank, ...]
    layers: tuple[Approximation, ...]
    met: bool


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """A layer's decomposition: weight = left × diag(values) × right."""

    left: Tensor
    values: Tensor
    right: Tensor

    def rank(self, energy: float) -> int:
        """The smallest rank that keeps this share of the squared values."""
        kept = self.values.square().cumsum(0)
        return min(int((kept < energy * kept[-1]).sum()) + 1, len(self.values))

    def dropped(self, rank: int) -> float:
        """The share of squared values beyond a rank."""
        squares = self.values.square()
        return float(squares[rank:].sum() / squares.sum()) if squares.sum() > 0 else 0.0


def factorise(model: nn.Module, settings: LowRankSettings, *, data: Any = None) -> Factorised:
    """Replace layers by two smaller ones wherever that saves parameters.

    Args:
        model: copied; linear layers, and convolutions in one group, are candidates.
        settings: which layers, and how much is kept.
        data: samples whose inputs weigh the error of linear layers; convolutions are judged by weights alone.

    Returns:
        The copy, where each layer `path` is a Sequential of `path.0` (to the rank, no bias) and `path.1`.

    Raises:
        UsageError: a TorchScript module, or no layer is large enough.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("a TorchScript module cannot be changed: factorise the nn.Module it came from")
    tied = _tied(model)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if _candidate(name, layer, settings) and name not in tied
    }
    if not layers:
        raise UsageError(
            f"no linear layer or convolution of this {type(model).__name__} has {settings.smallest} weights or more"
        )
    roots = _input_roots(model, layers, Samples.of(data)) if data is not None else {}
    spectra = {name: _spectrum(layer, roots.get(name)) for name, layer in layers.items()}
    ranks = _ranks(model, layers, spectra, settings)
    copied = copy.deepcopy(model)
    for name, rank in ranks.items():
        copied.set_submodule(name, _split(layers[name], spectra[name], rank))
    total = sum(parameter.numel() for parameter in copied.parameters())
    return Factorised(
        model=copied,
        edits=tuple(LowRank(module=name, rank=rank) for name, rank in ranks.items()),
        layers=tuple(
            Approximation(module=name, rank=rank, dropped_ratio=spectra[name].dropped(rank))
            for name, rank in ranks.items()
        ),
        met=not settings.at_most or total <= settings.at_most,
    )


def apply_ranks(model: nn.Module, edits: Iterable[LowRank]) -> nn.Module:
    """Give a freshly built model the form of a factorised one, in place; the factorised weights then load.

    Raises:
        UsageError: the model has no such layer: it is another architecture.
    """
    for edit in edits:
        layer = dict(model.named_modules()).get(edit.module)
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise UsageError(f"this {type(model).__name__} has no linear layer or convolution {edit.module}")
        model.set_submodule(edit.module, _empty_pair(layer, edit.rank))
    return model


def _candidate(name: str, layer: nn.Module, settings: LowRankSettings) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not isinstance(layer, kinds) or name in settings.keep or not name:
        return False
    return getattr(layer, "groups", 1) == 1 and layer.weight.numel() >= settings.smallest


def _tied(model: nn.Module) -> set[str]:
    """Modules that share a parameter with another: two factors of one's own would save nothing."""
    paths: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        paths.setdefault(id(parameter), []).append(path.rpartition(".")[0])
    return {path for shared in paths.values() if len(shared) > 1 for path in shared}


def _spectrum(layer: Any, root: Tensor | None) -> _Spectrum:
    """The decomposition of a layer's weights, `[outputs, inputs × kernel]`, in double precision.

    With a root R of the inputs' second moments (C = R Rᵀ), that of W R, and the right factor times R⁻¹.
    """
    weight: Tensor = layer.weight.detach().double().flatten(1)
    if root is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return _Spectrum(left, values, right)
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    return _Spectrum(left, values, torch.linalg.solve_triangular(root, right, upper=False, left=False))


def _ranks(
    model: nn.Module, layers: Mapping[str, Any], spectra: Mapping[str, _Spectrum], settings: LowRankSettings
) -> dict[str, int]:
    """The rank of each layer that becomes smaller by it."""

    def at(energy: float) -> dict[str, int]:
        wanted = {name: spectrum.rank(energy) for name, spectrum in spectra.items()}
        return {name: rank for name, rank in wanted.items() if _saved(layers[name], rank) > 0}

    if not settings.at_most:
        return at(settings.energy)
    total = sum(parameter.numel() for parameter in model.parameters())
    low, high = 0.0, 1.0
    for _ in range(40):  # halvings of an interval: the energy is then known to 1e-12
        middle = (low + high) / 2
        saved = sum(_saved(layers[name], rank) for name, rank in at(middle).items())
        low, high = (middle, high) if total - saved <= settings.at_most else (low, middle)
    return at(low)


def _saved(layer: Any, rank: int) -> int:
    """Weights saved: outputs × inputs before, rank × (outputs + inputs) after."""
    outputs = layer.weight.size(0)
    inputs = layer.weight.numel() // outputs
    return int(outputs * inputs - rank * (outputs + inputs))


def _split(layer: Any, spectrum: _Spectrum, rank: int) -> nn.Sequential:
    """Two layers whose product is the layer's best approximation of this rank; singular values shared by halves."""
    pair = _empty_pair(layer, rank)
    first: Any = pair[0]
    second: Any = pair[1]
    half = spectrum.values[:rank].sqrt()
    with torch.no_grad():
        first.weight.copy_((half[:, None] * spectrum.right[:rank]).reshape(first.weight.shape))
        second.weight.copy_((spectrum.left[:, :rank] * half).reshape(second.weight.shape))
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return pair.train(layer.training)


def _empty_pair(layer: Any, rank: int) -> nn.Sequential:
    """To the rank with the layer's own kernel, and from there to its outputs, place by place."""
    bias, placed = layer.bias is not None, {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False, **placed),
            nn.Linear(rank, layer.out_features, bias=bias, **placed),
        )
    kind = type(layer)
    first = kind(
        layer.in_channels,
        rank,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        bias=False,
        **placed,
    )
    return nn.Sequential(first, kind(rank, layer.out_channels, 1, bias=bias, **placed))


def _input_roots(model: nn.Module, layers: Mapping[str, nn.Module], data: Samples) -> dict[str, Tensor]:
    """For each linear layer, the lower Cholesky factor of its inputs' second moments on the samples."""
    moments: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double()
            moments[name] = moments.get(name, torch.zeros((), dtype=torch.float64)) + rows.T @ rows

        return hook

    linear = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(listen(name)) for name, layer in linear.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for batch in data.batches(_BATCH):
                model(*batch.inputs)
    finally:
        for handle in hooks:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return {name: _root(moment) for name, moment in moments.items()}


def _root(moment: Tensor) -> Tensor:
    """Cholesky of a moment matrix, with a millionth of its mean on the diagonal: dead inputs have none of their own."""
    size = len(moment)
    floor = 1e-6 * moment.trace().clamp_min(torch.finfo(torch.float64).tiny) / size
    root: Tensor = torch.linalg.cholesky(
        moment + floor * torch.eye(size, dtype=moment.dtype, device=moment.device)
    )
    return root
