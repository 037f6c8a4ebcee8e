"""How many floating-point operations an op takes: torch's formulas, and those that it lacks or has wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

from .. import _torch_private as private


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward(
    grad: Any, images: Any, weight: Any, *rest: Any, out_shape: Any = None, **__: Any
) -> int:
    """Once the forward for the images' gradient and once for the weight's, where each is asked for."""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, asked = rest
    return int(sum(asked[:2])) * int(conv_flop_count(images, weight, grad, transposed))


#: Formulas over shapes, as `FlopCounterMode(custom_mapping=...)` takes them. torch has those of GPUs' attention
#: kernels alone, and counts the weight's gradient of a depthwise convolution as if its channels were not grouped.
CORRECTED: dict[Any, Any] = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    private.CPU_ATTENTION: _attention,
    private.CPU_ATTENTION_BACKWARD: _attention_backward,
}

#: Formulas over tensors, by op: what the recorder counts with.
FORMULAS: dict[Any, Any] = {**flop_registry, **{op: shape_wrapper(f) for op, f in CORRECTED.items()}}
