"""Rounding reconstruction: each weight rounded up or down so that the layer's outputs change least.

The objective is AdaRound's local one, Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization"
(2020), equation 21: E‖(W - Ŵ)x‖² over calibration inputs x. It is a quadratic form in the Gram matrix E[xxᵀ], which
one run of the model collects; we minimise it by exact coordinate descent over the codes (as CDQuant, Nair and
Suggala 2024, https://arxiv.org/abs/2406.17542) instead of AdaRound's relaxation: no step size, no seed, and the
error can only fall.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import UsageError
from ...samples import Samples
from .affine import Affine, on_grid, quantize
from .grids import Grid
from .layers import Layer, evaluating, observed, rounded_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """How weights are rounded.

    Attributes:
        bits: of the symmetric grid; one scale for each output channel.
        exceptions: (layer path, bits) of layers on other grids.
        sweeps: most passes over a layer's inputs; it stops earlier when no code moves.
        shrinks: scales tried for each channel, from the tightest that holds all weights down to half of it;
            1 keeps the tightest.
        damping: share of the mean diagonal that is added to the Gram matrix's, so that few samples do not
            count as certainty.
        widest: layers of more inputs (channels × kernel, in a group) are rounded to the nearest: their Gram
            matrix would take 4·inputs² bytes.
        batch_size: samples that run at once.
    """

    bits: int = 8
    exceptions: tuple[tuple[str, int], ...] = ()
    sweeps: int = 4
    shrinks: int = 12
    damping: float = 0.01
    widest: int = 8192
    batch_size: int = 16

    def bits_of(self, layer: str) -> int:
        """The bits of one layer's grid."""
        return dict(self.exceptions).get(layer, self.bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReconstruction:
    """One layer: the mean squared error of an output, nearest rounding beside ours; and a reason if skipped."""

    layer: str
    nearest_error: float
    error: float
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstructed:
    """A copy of the model that holds rounded weights, their grids, and what was gained in each layer."""

    model: nn.Module
    grids: tuple[Grid, ...]
    layers: tuple[LayerReconstruction, ...]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The rounded weights by layer path, as `correct_biases` and `with_weights` take them."""
        return {grid.name.removesuffix("weight").removesuffix("."): grid.weight for grid in self.grids}


def reconstruct(model: nn.Module, samples: Samples, settings: Reconstruction | None = None) -> Reconstructed:
    """A copy of the model with every convolution's and linear layer's weights on a grid of few bits.

    Export the copy and give its `grids` to `quantize_onnx`: the file then holds exactly these codes. Layers are
    rounded by the inputs that they have in the float model; `correct_biases` takes care of what adds up.

    Args:
        model: batch norms folded.
        samples: calibration inputs.
        settings: the grid and the effort.

    Raises:
        UsageError: the model has no such layer, or an exception names none.
    """
    settings = settings or Reconstruction()
    copied = copy.deepcopy(model)
    layers = rounded_layers(copied)
    if not layers:
        raise UsageError("the model has no convolution and no linear layer to quantize")
    unknown = [path for path, _ in settings.exceptions if path not in layers]
    if unknown:
        raise UsageError(f"no convolution or linear layer of the model is called {unknown[0]!r}")
    grams, counts = _grams(copied, layers, samples, settings)
    grids, found = [], []
    for path, layer in layers.items():
        grid, report = _rounded_layer(path, layer, grams.pop(path, None), counts.get(path, 0), settings)
        layer.weight.data = grid.weight
        grids.append(grid)
        found.append(report)
    return Reconstructed(model=copied, grids=tuple(grids), layers=tuple(found))


def descend(
    weight: Tensor, gram: Tensor, quantized: Tensor, scale: Tensor, affine: Affine, sweeps: int
) -> Tensor:
    """Codes that no single change improves, or those reached after `sweeps` passes.

    Args:
        weight: `[groups, outputs, inputs]`.
        gram: `[groups, inputs, inputs]`, positive semidefinite.
        quantized: first codes, `[groups, outputs, inputs]`, as floats.
        scale: `[groups, outputs, 1]`.
        affine: the range of codes.
        sweeps: most passes over all inputs.

    Returns:
        Codes as floats. Σ over outputs of (W - sQ)G(W - sQ)ᵀ is at most what the first ones have.
    """
    codes = quantized.clone()
    pull = (weight - scale * codes) @ gram  # minus half the gradient, by weight
    curvature = gram.diagonal(dim1=1, dim2=2)
    for _ in range(sweeps):
        moved = False
        for column in range(weight.shape[2]):
            bend = curvature[:, column, None]
            step = torch.where(bend > 0, pull[:, :, column] / bend, 0) / scale[:, :, 0]
            best = torch.round(codes[:, :, column] + step).clamp(affine.lowest, affine.highest)
            change = best - codes[:, :, column]
            if not change.any():
                continue
            moved = True
            codes[:, :, column] = best
            pull -= (change * scale[:, :, 0])[:, :, None] * gram[:, column, None, :]
        if not moved:
            break
    return codes


def output_error(difference: Tensor, gram: Tensor) -> Tensor:
    """`[groups, outputs]`: the mean squared change of each output when weights change by `difference`."""
    return ((difference @ gram) * difference).sum(-1)


def _grams(
    model: nn.Module, layers: dict[str, Layer], samples: Samples, settings: Reconstruction
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Σxxᵀ of each layer's inputs as `[groups, inputs, inputs]`, and how many positions were summed."""
    grams: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def add(path: str, layer: Any, given: Tensor, _: Tensor) -> None:
        if _skip_reason(layer, settings):
            return
        columns = _columns(layer, given)
        product = columns @ columns.transpose(1, 2)
        grams[path] = grams[path] + product if path in grams else product
        counts[path] += columns.shape[2]

    with evaluating(model), torch.no_grad(), observed(layers, add):
        for batch in samples.batches(settings.batch_size):
            model(*batch.inputs)
    return grams, counts


def _columns(layer: Layer, given: Tensor) -> Tensor:
    """The inputs that each output is a product of weights with, `[groups, inputs, positions]`."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1]).T.unsqueeze(0).float()
    flat = isinstance(layer, nn.Conv1d)
    image = functional.pad(given, _padding(layer))
    image = image.unsqueeze(2) if flat else image
    kernel, dilation, stride = (
        (1, sizes[0]) if flat else tuple(sizes) for sizes in (layer.kernel_size, layer.dilation, layer.stride)
    )
    patches = functional.unfold(
        image, kernel, dilation=dilation, stride=stride
    )  # [n, channels·kernel, places]
    n, rows, places = patches.shape
    grouped = patches.reshape(n, layer.groups, rows // layer.groups, places)
    return grouped.permute(1, 2, 0, 3).reshape(layer.groups, rows // layer.groups, n * places).float()


def _padding(layer: Any) -> list[int]:
    """Zeros before and after each axis, the last axis first, as `functional.pad` takes them."""
    sides: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if layer.padding == "valid":
            sides += [0, 0]
        elif layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [layer.padding[axis]] * 2
    return sides


def _skip_reason(layer: Layer, settings: Reconstruction) -> str:
    if isinstance(layer, nn.Conv3d):
        return "three-dimensional convolution"
    if not isinstance(layer, nn.Linear) and layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode}"
    inputs = layer.weight[0].numel()
    return f"{inputs} inputs are more than {settings.widest}" if inputs > settings.widest else ""


def _rounded_layer(
    path: str, layer: Layer, gram: Tensor | None, count: int, settings: Reconstruction
) -> tuple[Grid, LayerReconstruction]:
    affine = Affine(bits=settings.bits_of(path), axis=0)
    weight = layer.weight.data.float()
    nearest = quantize(weight, affine)
    if gram is None:
        reason = _skip_reason(layer, settings) or "it did not run on the calibration data"
        report = LayerReconstruction(
            layer=path, nearest_error=float("nan"), error=float("nan"), skipped=reason
        )
        return _grid(path, nearest.codes, nearest.scale, affine.bits), report
    gram = gram / count
    groups = len(gram)
    matrix = weight.reshape(groups, -1, gram.shape[1])
    damped = gram + settings.damping * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(
        gram.shape[1]
    )
    scale = _best_scale(matrix, damped, nearest.scale.reshape(groups, -1, 1), affine, settings.shrinks)
    start = on_grid(matrix, scale, torch.zeros_like(scale), affine).codes.float()
    codes = descend(matrix, damped, start, scale, affine, settings.sweeps)
    before = output_error(matrix - nearest.dequantize().reshape(matrix.shape), gram).sum(1).mean()
    after = output_error(matrix - scale * codes, gram).sum(1).mean()
    report = LayerReconstruction(
        layer=path,
        nearest_error=float(before) / matrix.shape[1],
        error=float(after) / matrix.shape[1],
    )
    grid = _grid(path, codes.reshape(weight.shape).to(affine.storage), scale, affine.bits)
    return grid, report


def _best_scale(weight: Tensor, gram: Tensor, tightest: Tensor, affine: Affine, tries: int) -> Tensor:
    """For each output the scale, of `tries` from the tightest down to half, with the least nearest-rounding error."""
    best, least = tightest, None
    for shrink in torch.linspace(1.0, 0.5, tries).tolist():
        scale = tightest * shrink
        read_back = on_grid(weight, scale, torch.zeros_like(scale), affine).dequantize()
        error = output_error(weight - read_back, gram)[:, :, None]
        best = scale if least is None else torch.where(error < least, scale, best)
        least = error if least is None else torch.minimum(error, least)
    return best


def _grid(path: str, codes: Tensor, scale: Tensor, bits: int) -> Grid:
    return Grid(name=f"{path}.weight" if path else "weight", codes=codes, scale=scale.flatten(), bits=bits)
