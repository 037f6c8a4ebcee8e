"""Layers whose weights torch-side repairs round: convolutions and linear layers, one output channel a row."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...samples import Samples
from .affine import Affine, quantize

Layer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Hook: TypeAlias = Callable[[str, Any, Tensor, Tensor], Tensor | None]


def rounded_layers(model: nn.Module) -> dict[str, Layer]:
    """The convolutions and linear layers of a model by path; a layer with two paths counts once."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LAYERS)}


def rounded(weight: Tensor, affine: Affine) -> Tensor:
    """A weight as it reads after quantization to a grid."""
    return quantize(weight, affine).dequantize().to(weight.dtype)


@contextlib.contextmanager
def holding_weights(layers: Mapping[str, Layer], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights in these layers, and their own ones back at the end."""
    own = {path: layers[path].weight.data for path in weights}
    try:
        for path, weight in weights.items():
            layers[path].weight.data = weight
        yield
    finally:
        for path, weight in own.items():
            layers[path].weight.data = weight


@contextlib.contextmanager
def rounded_inputs(layers: Mapping[str, Layer], affine: Affine) -> Iterator[None]:
    """The inputs of these layers quantized by the range of each batch."""
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], affine), *inputs[1:]))
        for layer in layers.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def observed(layers: Mapping[str, Layer], hook: Hook) -> Iterator[None]:
    """`hook(path, layer, input, output)` after each call of these layers; what it returns replaces the output."""

    def listen(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        return lambda layer, inputs, output: hook(path, layer, inputs[0], output)

    handles = [layer.register_forward_hook(listen(path)) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def outputs_of(model: nn.Module, samples: Samples, batch_size: int = 32) -> Tensor:
    """What the model puts out for all samples, in evaluation mode; of several outputs the first tensor.

    Its mode is what it was, afterwards.
    """
    with evaluating(model), torch.no_grad():
        return torch.cat([first_tensor(model(*batch.inputs)) for batch in samples.batches(batch_size)])


def first_tensor(output: Any) -> Tensor:
    """The first tensor of an output: itself, a tuple's first, `.logits`, or a dict's first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[no-any-return]
    parts = output.values() if isinstance(output, Mapping) else output
    return first_tensor(next(iter(parts)))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode of each module back at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def channel_means(output: Tensor, layer: Layer) -> Tensor:
    """The mean of each output channel over samples and positions, `[channels]`."""
    axis = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
    return output.double().mean([dim for dim in range(output.dim()) if dim != axis])


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model that holds these weights, by layer path."""
    copied = copy.deepcopy(model)
    for path, weight in weights.items():
        copied.get_parameter(f"{path}.weight").data = weight.detach().clone()
    return copied
