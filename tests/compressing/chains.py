"""Small ONNX models made without torch: chains of one kind of layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the compress extra is not installed")


def write_convolutions(path: Path, *, layers: int, channels: int, side: int = 4) -> Path:
    """`layers` 3x3 convolutions of as many channels in as out, over float [batch, channels, side, side]."""
    random = np.random.default_rng(0)
    nodes, weights, name = [], {}, "x"
    for index in range(layers):
        output = "y" if index == layers - 1 else f"h{index}"
        weights[f"w{index}"] = (
            random.standard_normal((channels, channels, 3, 3)).astype(np.float32) / channels
        )
        nodes.append(
            onnx.helper.make_node("Conv", [name, f"w{index}"], [output], pads=[1] * 4, kernel_shape=[3, 3])
        )
        name = output
    return _written(path, nodes, weights, ["batch", channels, side, side])


def write_matrices(path: Path, *, layers: int, width: int) -> Path:
    """`layers` square matrix products over float [batch, width]."""
    random = np.random.default_rng(0)
    nodes, weights, name = [], {}, "x"
    for index in range(layers):
        output = "y" if index == layers - 1 else f"h{index}"
        weights[f"w{index}"] = random.standard_normal((width, width)).astype(np.float32) / width
        nodes.append(onnx.helper.make_node("MatMul", [name, f"w{index}"], [output]))
        name = output
    return _written(path, nodes, weights, ["batch", width])


def _written(path: Path, nodes: list[object], weights: dict[str, np.ndarray], shape: list[int | str]) -> Path:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "chain", values[:1], values[1:], initializers)
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path
