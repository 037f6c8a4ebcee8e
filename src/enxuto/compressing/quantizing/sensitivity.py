"""Which layers suffer most from few bits: each quantized alone, compared with the original without labels."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import UsageError
from ...samples import Samples
from ...verifying import fidelity
from .affine import CHANNELS8, Affine
from .layers import holding_weights, outputs_of, rounded, rounded_inputs, rounded_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is simulated at one layer after the other.

    Attributes:
        weights: the grid of the weight; 8 bits with a scale for each channel.
        inputs: the grid of the layer's inputs, by the range of each batch; None leaves them as they are.
        batch_size: samples that run at once.
    """

    weights: Affine = CHANNELS8
    inputs: Affine | None = None
    batch_size: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """One layer quantized alone: how far the outputs move, and how many weights that buys.

    `moved` is the KL divergence in nats; of outputs that are numbers and no classes, noise as a share of the signal.
    """

    layer: str
    weights: int
    moved: float


def sensitivity(
    model: nn.Module, samples: Samples, probe: Probe | None = None
) -> tuple[LayerSensitivity, ...]:
    """The layers of a model, the most sensitive first.

    One run of the samples for each layer, and one plain; the model is as before afterwards. No labels are read.

    Args:
        model: any module; its convolutions and linear layers are probed. Fold batch norms first: their scales
            are part of the weights that a runtime quantizes.
        samples: inputs; 32 to 64 suffice for a ranking.
        probe: the grids.

    Raises:
        UsageError: the model has no such layer.
    """
    probe = probe or Probe()
    layers = rounded_layers(model)
    if not layers:
        raise UsageError("the model has no convolution and no linear layer to quantize")
    plain = outputs_of(model, samples, probe.batch_size)
    found = []
    for path, layer in layers.items():
        inputs = (
            contextlib.nullcontext() if probe.inputs is None else rounded_inputs({path: layer}, probe.inputs)
        )
        with holding_weights(layers, {path: rounded(layer.weight.data, probe.weights)}), inputs:
            moved = _moved(plain, outputs_of(model, samples, probe.batch_size))
        found.append(LayerSensitivity(layer=path, weights=layer.weight.numel(), moved=moved))
    return tuple(sorted(found, key=lambda each: -each.moved))


def _moved(plain: Tensor, other: Tensor) -> float:
    if plain.dim() > 1 and plain.shape[1] > 1:
        return fidelity(plain, other).kl
    noise = float((plain - other).double().square().sum())
    return noise / float(plain.double().square().sum()) if noise else 0.0
