"""Weights stored in fewer bits ahead of an op that computes in 32: what onnxruntime has a kernel for, not a recipe.

onnxruntime's quantizers shrink a convolution only together with its activations, and a Gemm not at all when
weight-only. The format can say it (a stored integer tensor, then DequantizeLinear), and the runtime keeps the
integers in the file and in memory until the session unfolds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...records.recipe import Recipe, Scheme
from ..silence import quietly
from .affine import Affine, on_grid, quantize
from .graph import (
    OPSET_OF_SMALL_CODES,
    attribute,
    channel_axis,
    initializers,
    raised,
    readers,
    replace_nodes,
    values_of,
    weights_of,
)
from .grids import GridIndex

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Stored = tuple[list["TensorProto"], "NodeProto"]


def store_weights(
    model: ModelProto, schemes: dict[str, Scheme], recipe: Recipe, grids: GridIndex
) -> ModelProto:
    """The model with the weights of WEIGHT16, WEIGHT8 and WEIGHT4 nodes stored in 16, 8 and 4 bits.

    WEIGHT4 of a matrix product becomes onnxruntime's MatMulNBits (blocks of `recipe.block_size`); of any other
    op, and where a grid is given, 4-bit codes with a scale for each channel ahead of it.
    """
    if Scheme.WEIGHT4 in schemes.values():
        model = raised(model, OPSET_OF_SMALL_CODES)
        model = _pack_products(model, _chosen(model, schemes, Scheme.WEIGHT4), recipe, grids)
    writers: dict[Scheme, Callable[[TensorProto, NodeProto], Stored]] = {
        Scheme.WEIGHT16: lambda tensor, node: _half(tensor),
        Scheme.WEIGHT8: lambda tensor, node: _codes(tensor, node, 8, grids),
        Scheme.WEIGHT4: lambda tensor, node: _codes(tensor, node, 4, grids),
    }
    for scheme, write in writers.items():
        _store(model, _chosen(model, schemes, scheme), recipe, write)
    return model


def _chosen(model: ModelProto, schemes: dict[str, Scheme], scheme: Scheme) -> list[NodeProto]:
    return [node for node in model.graph.node if schemes.get(node.name) is scheme]


def _store(
    model: ModelProto,
    nodes: Iterable[NodeProto],
    recipe: Recipe,
    write: Callable[[TensorProto, NodeProto], Stored],
) -> None:
    """Put the stored form of every large enough weight of these nodes ahead of all that read it."""
    tensors = initializers(model)
    reading = readers(model)
    ahead: list[NodeProto] = []
    for node in nodes:
        for name in weights_of(node, tensors):
            if _elements(tensors[name]) < recipe.smallest:
                continue
            stored, reader = write(tensors[name], node)
            model.graph.initializer.remove(tensors.pop(name))
            model.graph.initializer.extend(stored)
            for other, position in reading[name]:
                other.input[position] = reader.output[0]
            ahead.append(reader)
    replace_nodes(model, [*ahead, *model.graph.node])


def _half(tensor: TensorProto) -> Stored:
    """A tensor in 16 bits, and the Cast that reads it; what 16 bits cannot hold becomes the largest they can."""
    from onnx import TensorProto, helper, numpy_helper

    largest = np.finfo(np.float16).max
    values = values_of(tensor).clip(-largest, largest).astype(np.float16)
    stored = numpy_helper.from_array(values, f"{tensor.name}_float16")
    output = f"{tensor.name}_float32"
    return [stored], helper.make_node("Cast", [stored.name], [output], name=output, to=TensorProto.FLOAT)


def _codes(tensor: TensorProto, node: NodeProto, bits: int, grids: GridIndex) -> Stored:
    """A tensor as signed codes with a scale for each channel, and the DequantizeLinear that reads them."""
    from onnx import TensorProto, helper, numpy_helper

    values = values_of(tensor)
    axis = channel_axis(node, values.ndim)
    codes, scale = channel_codes(values, axis, bits, grids)
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4
    stored = helper.make_tensor(
        f"{tensor.name}_quantized", kind, values.shape, _bytes_of(codes, bits), raw=True
    )
    scales = numpy_helper.from_array(scale, f"{tensor.name}_scale")
    output = f"{tensor.name}_dequantized"
    reader = helper.make_node("DequantizeLinear", [stored.name, scales.name], [output], name=output)
    if axis is not None:
        reader.attribute.append(helper.make_attribute("axis", axis))
    return [stored, scales], reader


def channel_codes(
    values: np.ndarray[Any, Any], axis: int | None, bits: int, grids: GridIndex
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Symmetric codes and scales of a weight: the given grid's where there is one, else the tightest."""
    weight = torch.from_numpy(np.array(values, dtype=np.float32))
    affine = Affine(bits=bits, axis=axis)
    scales = grids.scales_of(values, bits=bits, axis=axis)
    if scales is None:
        found = quantize(weight, affine)
    else:
        shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]
        scale = torch.from_numpy(scales).reshape(shape)
        found = on_grid(weight, scale, torch.zeros_like(scale), affine)
    scale = found.scale.flatten() if axis is not None else found.scale.reshape(())
    return found.codes.numpy(), scale.numpy()


def _bytes_of(codes: np.ndarray[Any, Any], bits: int) -> bytes:
    from .affine import pack4

    return codes.tobytes() if bits == 8 else bytes(pack4(torch.from_numpy(codes)).numpy().tobytes())


def _pack_products(
    model: ModelProto, nodes: Iterable[NodeProto], recipe: Recipe, grids: GridIndex
) -> ModelProto:
    """Matrix products by onnxruntime's MatMulNBits; those whose weight lies on a given grid are left."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    tensors = initializers(model)
    names = []
    for node in nodes:
        weights = weights_of(node, tensors)
        if node.op_type not in ("MatMul", "Gemm") or not weights:
            continue
        weight = tensors[weights[0]]
        if (
            len(weight.dims) == 2
            and _elements(weight) >= recipe.smallest
            and not grids.holds(values_of(weight))
        ):
            names.append(node.name)
    if not names:
        return model
    split_gemms(model, set(names))
    others = [node.name for node in model.graph.node if node.name not in names]
    with quietly():
        quantizer = MatMulNBitsQuantizer(
            model, bits=4, block_size=recipe.block_size, is_symmetric=True, nodes_to_exclude=others
        )
        quantizer.process()
    packed: ModelProto = quantizer.model.model
    return packed


def split_gemms(model: ModelProto, names: set[str]) -> None:
    """Y = A·B + C as MatMul, which keeps the name, and Add: onnxruntime has no Gemm of few bits.

    Only where alpha and beta are 1 and A is not transposed, as every Linear is exported.
    """
    from onnx import helper, numpy_helper

    tensors = initializers(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name not in names or node.op_type != "Gemm" or not _is_linear(node):
            nodes.append(node)
            continue
        weight = node.input[1]
        if attribute(node, "transB", 0):
            turned = f"{weight}_transposed"
            if turned not in tensors:
                tensors[turned] = numpy_helper.from_array(values_of(tensors[weight]).T.copy(), turned)
                model.graph.initializer.append(tensors[turned])
            weight = turned
        biased = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if biased:
            nodes.append(
                helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_bias")
            )
    replace_nodes(model, nodes)


def _is_linear(node: NodeProto) -> bool:
    factors = {each.name: each.f for each in node.attribute if each.name in ("alpha", "beta")}
    return not attribute(node, "transA", 0) and all(factor == 1.0 for factor in factors.values())


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
