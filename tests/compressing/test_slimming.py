"""Slim files: the same bits come out, inputs and outputs keep their names, and nothing long is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from enxuto.compressing.making import export
from enxuto.compressing.runtimes import runtime
from enxuto.compressing.slimming import slim
from enxuto.records import Recipe, Scheme
from enxuto.samples import Samples

onnx = pytest.importorskip("onnx")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)
    ).eval()


@pytest.mark.parametrize("scheme", [Scheme.FLOAT32, Scheme.STATIC8, Scheme.WEIGHT8])
def test_a_slim_file_gives_the_same_bits(scheme: Scheme, tmp_path: Path) -> None:
    samples = Samples((torch.randn(8, 3, 12, 12),))
    path = tmp_path / "net.onnx"
    export(net(), samples, Recipe(default=scheme), path)
    before, size = runtime().describe(path), path.stat().st_size
    expected = runtime().load(path)(samples.inputs[0].numpy())[0]
    saved = slim(path)
    after = runtime().describe(path)
    assert saved == size - path.stat().st_size > 100
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert np.array_equal(runtime().load(path)(samples.inputs[0].numpy())[0], expected)
    inner = [name for node in onnx.load(str(path)).graph.node for name in node.output]
    kept = {value.name for value in after.outputs}
    assert max(len(name) for name in inner if name not in kept) <= 3


def test_a_graph_with_subgraphs_keeps_its_names(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def branch(op: str) -> object:
        node = helper.make_node(op, ["a_long_name_outside"], [f"inside_{op}"])
        return helper.make_graph(
            [node], op, [], [helper.make_tensor_value_info(f"inside_{op}", TensorProto.FLOAT, [2])]
        )

    nodes = [
        helper.make_node("Neg", ["x"], ["a_long_name_outside"], doc_string="a note" * 50),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Abs"), else_branch=branch("Neg")),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "branches.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    assert slim(path) > 250
    run = runtime().load(path)
    for condition, expected in ((True, [1.0, 2.0]), (False, [1.0, -2.0])):
        (found,) = run(np.array([1.0, -2.0], np.float32), np.array(condition))
        assert found.tolist() == expected
