"""Bias correction: the mean error of each channel, which rounded weights leave, taken out of its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2, in the
empirical form of its appendix D: layer by layer, so that each corrects for those before it too.
https://arxiv.org/abs/1906.04721

It is a repair of nearest rounding. After a rounding reconstruction there is little mean error left to take out, and
on few pictures at 4 bits it fitted those pictures instead (`benchmarks/quantization.py`): judge before you keep it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...samples import Samples
from .affine import CHANNELS8, Affine
from .layers import channel_means, evaluating, holding_weights, observed, rounded, rounded_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasCorrection:
    """The grid that the runtime will round weights to, and how many samples the means are taken over."""

    weights: Affine = CHANNELS8
    most_samples: int = 64


def correct_biases(
    model: nn.Module,
    samples: Samples,
    settings: BiasCorrection | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the model whose biases make up for rounded weights; its weights are not rounded.

    Two runs over one batch: the means of each channel in float, and the run with rounded weights, in which every
    layer's bias is moved before the next layer sees its output. Layers without a bias get one.

    Args:
        model: batch norms folded (a norm after the layer would undo the correction).
        samples: calibration inputs; they run as one batch of at most `most_samples`.
        settings: the grid.
        weights: rounded weights by layer path, where a reconstruction has chosen them; elsewhere the nearest.

    Returns:
        The copy, in the model's own mode. A layer that runs several times is left alone.
    """
    settings = settings or BiasCorrection()
    corrected = copy.deepcopy(model)
    batch = samples.first(settings.most_samples)
    layers = rounded_layers(corrected)
    means: dict[str, Tensor] = {}
    calls = dict.fromkeys(layers, 0)

    def note(path: str, layer: Any, _: Tensor, output: Tensor) -> None:
        calls[path] += 1
        means[path] = channel_means(output, layer)

    def correct(path: str, layer: Any, _: Tensor, output: Tensor) -> Tensor | None:
        if calls[path] != 1:
            return None
        shift = (means[path] - channel_means(output, layer)).to(output.dtype)
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias.detach() + shift)
        return output + (
            shift if isinstance(layer, nn.Linear) else shift.reshape(-1, *[1] * (output.dim() - 2))
        )

    few = {path: rounded(layer.weight.data, settings.weights) for path, layer in layers.items()}
    few |= dict(weights or {})
    with evaluating(corrected), torch.no_grad():
        with observed(layers, note):
            corrected(*batch.inputs)
        with holding_weights(layers, few), observed(layers, correct):
            corrected(*batch.inputs)
    return corrected
