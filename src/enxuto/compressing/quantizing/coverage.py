"""Coverage of an ONNX file: every stored tensor with its bytes, its bits, and why it has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...records.coverage import Coverage, CoverageKind, CoverageRow
from ...records.recipe import Recipe, Scheme
from .graph import WEIGHT_INPUTS, read_onnx, readers

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_UNFOLDING = ("DequantizeLinear", "Cast")
_NORMS = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
)

#: Where each op reads codes, and where their scales and zero points.
_CODES: dict[str, tuple[int, ...]] = {
    "DequantizeLinear": (0,),
    "MatMulNBits": (1,),
    "MatMulInteger": (1,),
    "ConvInteger": (1,),
    "DynamicQuantizeLSTM": (1, 2),
    "GatherBlockQuantized": (0,),
}
_SCALES: dict[str, tuple[int, ...]] = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "MatMulNBits": (2, 3),
    "MatMulInteger": (3,),
    "ConvInteger": (3,),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "GatherBlockQuantized": (2, 3),
}


def cover(path: str | os.PathLike[str], recipe: Recipe | None = None) -> Coverage:
    """What of an ONNX file is quantized, what is not, and why.

    Args:
        path: the file; tensors stored inside it.
        recipe: the one that made it, which tells a weight left out on purpose from one too small.

    Returns:
        A row for each stored tensor, the largest first. Rows and overhead sum to the file's bytes.

    Raises:
        UsageError: the file is missing or no ONNX.
    """
    model = read_onnx(path)
    reading = readers(model)
    rows = [
        _row(tensor, _users(tensor.name, reading), recipe or Recipe()) for tensor in model.graph.initializer
    ]
    rows.sort(key=lambda row: (-row.nbytes, row.name))
    return Coverage(rows=tuple(rows), file_bytes=Path(path).stat().st_size)


Users = list[tuple["NodeProto", int]]


def _users(name: str, reading: dict[str, Users]) -> Users:
    """What reads a tensor, and then what reads it unfolded: the weight's own op stands at the end."""
    found: Users = []
    waiting = list(reading.get(name, ()))
    while waiting:
        node, position = waiting.pop(0)
        found.append((node, position))
        if node.op_type in _UNFOLDING and position == 0:
            waiting += reading.get(node.output[0], ())
    return found


def _row(tensor: TensorProto, users: Users, recipe: Recipe) -> CoverageRow:
    bits, elements = bits_of(tensor), _elements(tensor)
    nbytes = -(-elements * bits // 8)
    kind, op = _kind(tensor, users, recipe)
    if op == "MatMulNBits" and kind is CoverageKind.QUANTIZED:  # bytes of packed codes
        bits, elements = 4, elements * 2
    return CoverageRow(name=tensor.name, op=op, kind=kind, bits=bits, elements=elements, nbytes=nbytes)


def _kind(tensor: TensorProto, users: Users, recipe: Recipe) -> tuple[CoverageKind, str]:
    """What a tensor is, by its first reader; and the op that it serves."""
    if not users:
        return CoverageKind.UNSUPPORTED, "unread"
    first, position = users[0]
    last, last_position = users[-1]
    if position in _SCALES.get(first.op_type, ()):
        return CoverageKind.SCALE, first.op_type
    if last.op_type in _NORMS:
        return CoverageKind.NORM, last.op_type
    if last.op_type in WEIGHT_INPUTS and last_position > max(WEIGHT_INPUTS[last.op_type]):
        return CoverageKind.BIAS, last.op_type
    if position in _CODES.get(first.op_type, ()) or _is_half(tensor):
        return CoverageKind.QUANTIZED, first.op_type if first.op_type not in _UNFOLDING else last.op_type
    if not _is_float(tensor):
        return CoverageKind.INDEX, first.op_type
    if last.op_type == "Add" and len([size for size in tensor.dims if size > 1]) <= 1:
        return CoverageKind.BIAS, last.op_type
    return _left_out(tensor, first, position, recipe), first.op_type


def _left_out(tensor: TensorProto, node: NodeProto, position: int, recipe: Recipe) -> CoverageKind:
    """Why a float tensor is still one."""
    if position not in WEIGHT_INPUTS.get(node.op_type, ()):
        return CoverageKind.UNSUPPORTED
    if _scheme(tensor.name, node.name, recipe) is Scheme.FLOAT32:
        return CoverageKind.EXCLUDED
    return CoverageKind.SMALL if _elements(tensor) < recipe.smallest else CoverageKind.UNSUPPORTED


def _scheme(tensor: str, node: str, recipe: Recipe) -> Scheme:
    named = [override.scheme for override in recipe.overrides if override.name in (tensor, node)]
    return named[-1] if named else recipe.default


def bits_of(tensor: TensorProto) -> int:
    """Bits that one element of a stored tensor takes."""
    from onnx import TensorProto, helper

    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        return 4
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8


def _is_float(tensor: TensorProto) -> bool:
    from onnx import TensorProto

    return tensor.data_type in (
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
    )


def _is_half(tensor: TensorProto) -> bool:
    from onnx import TensorProto

    return tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
