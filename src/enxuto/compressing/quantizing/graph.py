"""ONNX graphs as the recipes read and write them: which inputs are weights, their channels, whole files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingDependency, UsageError
from ...records.codec import write_atomically
from ..silence import quietly

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: The inputs of each op that are weights. The recurrent ops hold input and recurrent weights.
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}

#: From here ONNX's own DequantizeLinear takes 4-bit and 16-bit codes.
OPSET_OF_SMALL_CODES = 21
OPSET_OF_CHANNELS = 13  # DequantizeLinear's `axis`


def require_onnx() -> ModuleType:
    """The onnx package.

    Raises:
        MissingDependency: it or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"quantizing an ONNX file needs {error.name}: pip install 'enxuto[compress]'"
        ) from None
    return onnx


def read_onnx(path: str | os.PathLike[str]) -> ModelProto:
    """An ONNX model with all its tensors in memory.

    Raises:
        UsageError: the file is missing or no ONNX.
    """
    onnx = require_onnx()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model: ModelProto = onnx.load(os.fspath(path))
    except OSError as error:
        raise UsageError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from None
    except DecodeError:
        raise UsageError(f"{os.fspath(path)} is no ONNX model; write one with torch.onnx.export") from None
    if not model.graph.node:
        raise UsageError(f"{os.fspath(path)} is no ONNX model, or an empty one: it has no nodes")
    return model


def write_onnx(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model whole, its tensors as plain bytes, without names of sources and inferred shapes.

    Raises:
        RecordError: the folder is missing or not writable.
    """
    strip(model)
    write_atomically(path, model.SerializeToString())


def strip(model: ModelProto) -> None:
    """Drop what no runtime reads: the exporter's stack traces, inferred shapes, unused domains and tensors."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        if part.metadata_props:
            del part.metadata_props[:]
    _drop_unread_tensors(model)
    for tensor in graph.initializer:
        _store_raw(tensor)
    strip_opsets(model)


def values_of(tensor: TensorProto) -> np.ndarray[Any, Any]:
    """A stored tensor as an array."""
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """The stored tensors by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def name_products(model: ModelProto, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give the weights of matrix products the names that their module has for them.

    Exporters store a linear layer's weight transposed where its inputs have more than two dimensions, under a
    name of their own.

    Args:
        model: changed in place.
        weights: `[outputs, inputs]` by name. Of equal weights the first gives its name.
    """
    known: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, weight in weights.items():
        known.setdefault((weight.T.shape, np.ascontiguousarray(weight.T).tobytes()), name)
    taken = set(initializers(model))
    for node in model.graph.node:
        if node.op_type != "MatMul" or (tensor := initializers(model).get(node.input[1])) is None:
            continue
        values = values_of(tensor)
        new = known.get((values.shape, values.tobytes()))
        if new is None or new in taken:
            continue
        for other, position in readers(model)[tensor.name]:
            other.input[position] = new
        tensor.name = new
        taken.add(new)


def readers(model: ModelProto) -> dict[str, list[tuple[NodeProto, int]]]:
    """For each value, the nodes that read it and at which input."""
    found: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            found.setdefault(name, []).append((node, position))
    return found


def weights_of(node: NodeProto, tensors: dict[str, TensorProto]) -> list[str]:
    """The stored float weights that a node reads as weights."""
    from onnx import TensorProto

    positions = WEIGHT_INPUTS.get(node.op_type, ())
    names = [node.input[position] for position in positions if position < len(node.input)]
    return [name for name in names if name in tensors and tensors[name].data_type == TensorProto.FLOAT]


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def channel_axis(node: NodeProto, rank: int) -> int | None:
    """The axis of a weight that counts the node's output channels; None where there is none.

    A row of an embedding is a channel; so is a gate's unit of a recurrent weight `[directions, gates, inputs]`.
    """
    match node.op_type:
        case "ConvTranspose":  # [inputs, outputs / groups, ...]: several groups share an index of axis 1
            return 1 if attribute(node, "group", 1) == 1 else None
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        case "MatMul":
            return rank - 1
        case "LSTM" | "GRU" | "RNN":
            return 1
        case _:
            return 0


def prepared(path: str | os.PathLike[str]) -> ModelProto:
    """A model ready to be quantized: names on all nodes, shapes inferred, batch norms folded, opset ≥ 13.

    onnxruntime's `quant_pre_process` does it in one call. Symbolic shape inference knows fewer ops than the
    optimizer (issue #16470 and its like), so where the call fails it is tried again without that step; where
    it still fails the model is taken as it stands.

    Raises:
        UsageError: the file is missing or no ONNX.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = raised(read_onnx(path), OPSET_OF_CHANNELS)
    _name_nodes(model)
    with scratch() as folder:
        for skip_symbolic in (False, True):
            target = folder / f"prepared{int(skip_symbolic)}.onnx"
            try:
                with quietly():
                    quant_pre_process(model, str(target), skip_symbolic_shape=skip_symbolic)
            except Exception:  # each step raises its own kind; what failed is optional
                continue
            model = read_onnx(target)
            break
    _name_nodes(model)
    strip_opsets(model)
    return model


def strip_opsets(model: ModelProto) -> None:
    """Keep the domains that nodes are of: onnxruntime's optimizer adds all it knows."""
    domains = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)


def raised(model: ModelProto, opset: int) -> ModelProto:
    """The model at this opset or a later one, by ONNX's own converter.

    Raises:
        UsageError: the converter cannot.
    """
    from onnx import version_converter

    current = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if current >= opset:
        return model
    try:
        lifted = version_converter.convert_version(model, opset)
    except Exception as error:
        raise UsageError(
            f"this recipe needs ONNX opset {opset}, the model has {current}, and the converter failed ({error}); "
            f"export again with torch.onnx.export(..., opset_version={opset})"
        ) from None
    lifted.ir_version = max(lifted.ir_version, 10)  # the first with 4-bit tensors
    return lifted


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for intermediate models, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="enxuto-quantize-") as folder:
        yield Path(folder)


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Give the graph these nodes instead of its own."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_nodes(model: ModelProto) -> None:
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = name if name not in taken else f"{name}_unnamed"


def _drop_unread_tensors(model: ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    read |= {name for node in model.graph.node for name in _names_in_subgraphs(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def _names_in_subgraphs(node: NodeProto) -> Iterator[str]:
    for each in node.attribute:
        for graph in (each.g, *each.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _names_in_subgraphs(inner)


def _store_raw(tensor: TensorProto) -> None:
    """Typed fields cost more: int32_data spends 10 bytes on a negative int8."""
    from onnx import TensorProto, numpy_helper

    if tensor.HasField("raw_data") or tensor.data_type == TensorProto.STRING:
        return
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), name))
