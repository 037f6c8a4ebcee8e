"""The RAM forecast: its parts by hand on chains, and the whole against what was measured there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from enxuto.errors import UsageError
from enxuto.records import OnnxRuntimeFlags, OptimizationLevel, Recipe, Scheme
from enxuto.samples import Samples

pytest.importorskip("onnxruntime", reason="the compress extra is not installed")
from enxuto.compressing import ram
from enxuto.compressing.making import export, folded_or_plain
from enxuto.compressing.ram import Use, Weight, forecast_module, forecast_ram
from enxuto.compressing.runtimes.measuring import measure
from enxuto.compressing.runtimes.onnx_runtime import OnnxRuntime
from tests.compressing import workloads
from tests.compressing.chains import write_convolutions, write_matrices

MIB = 2**20
ALL = OnnxRuntimeFlags()
EXTENDED = OnnxRuntimeFlags(level=OptimizationLevel.EXTENDED)
AHEAD = OnnxRuntimeFlags(ahead=True, external_data=True)
UNPACKED = OnnxRuntimeFlags(prepacking=False)


@pytest.mark.parametrize("flags", [ALL, EXTENDED, AHEAD, UNPACKED])
def test_the_parts_sum_to_the_total(flags: OnnxRuntimeFlags, tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "net.onnx", layers=3, channels=32)
    found = forecast_ram(path, [(1, 32, 4, 4)], flags=flags, base_bytes=7 * MIB)
    parts = found.graph + found.weights + found.copies + found.loading + found.activations
    assert found.above_base_bytes == parts
    assert found.peak_bytes == parts + 7 * MIB
    assert found.weights == 3 * 32 * 32 * 9 * 4
    assert found.unknown == 0


def held(use: Use, flags: OnnxRuntimeFlags) -> tuple[int, int, int]:
    """Standing, running and loading bytes of one weight of 1000 bytes, 1024 in its kernel's layout."""
    return ram._held([Weight(name="w", bytes=1000, kernel_bytes=1024, use=use)], flags)


OUTSIDE = OnnxRuntimeFlags(external_data=True)


@pytest.mark.parametrize(
    ("use", "flags", "expected"),
    [
        (Use.PLAIN, ALL, (1024, 1024, 1000)),  # its file's copy goes when it was read
        (Use.PLAIN, OUTSIDE, (0, 1024, 0)),  # mapped: resident when it is read
        (Use.ROWS, OUTSIDE, (0, 0, 0)),
        (Use.BLOCKED, ALL, (3048, 3048, 1000)),  # original, reordered, and the session's
        (Use.BLOCKED, OUTSIDE, (2048, 2048, 1000)),
        (Use.BLOCKED, AHEAD, (0, 1024, 0)),
        (Use.PACKED, ALL, (1694, 1694, 0)),  # 1024 + 0.67 × 1000
        (Use.PACKED, OUTSIDE, (1024, 1024, 1000)),
        (Use.PACKED, UNPACKED, (1024, 1024, 1000)),
        (Use.PACKED_INT8, ALL, (2024, 2024, 0)),
    ],
)
def test_what_becomes_of_a_weight(use: Use, flags: OnnxRuntimeFlags, expected: tuple[int, int, int]) -> None:
    assert held(use, flags) == expected


@pytest.mark.parametrize(
    ("dims", "group", "blocked", "size"),
    [
        ((64, 3, 7, 7), 1, True, 64 * 3 * 49),  # few channels in: read as they are
        ((40, 20, 3, 3), 1, True, 48 * 32 * 9),
        ((40, 18, 3, 3), 1, False, None),  # not in fours: left as it is
        ((40, 1, 3, 3), 40, True, 48 * 9),  # depthwise
        ((64, 16, 3, 3), 2, True, 64 * 16 * 9),
        ((48, 16, 3, 3), 2, False, None),  # 24 out of a group
    ],
)
def test_which_convolutions_are_blocked(
    dims: tuple[int, ...], group: int, blocked: bool, size: int | None
) -> None:
    from tests.compressing.chains import onnx

    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=group)
    graph = ram._Graph(
        nodes=[node], dims={}, item_bytes={}, initializers={"w": (dims, 4)}, inputs=("x",), outputs=("y",),
        readers={"w": [node]}, makers={"y": node},
    )  # fmt: skip
    assert ram.is_blocked(graph, node, ALL) is blocked
    assert not ram.is_blocked(graph, node, EXTENDED)
    (weight,) = graph.weights(ALL)
    assert weight.use is (Use.BLOCKED if blocked else Use.PLAIN)
    assert weight.kernel_bytes == 4 * (math.prod(dims) if size is None else size)


@pytest.mark.parametrize("flags", [ALL, EXTENDED, AHEAD], ids=["all", "extended", "ahead"])
def test_a_chain_of_convolutions_is_forecast_within_a_tenth(flags: OnnxRuntimeFlags, tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "net.onnx", layers=6, channels=256, side=16)
    measured = _measured(path, (1, 256, 16, 16), flags)
    forecast = forecast_ram(path, [(1, 256, 16, 16)], flags=flags)
    assert forecast.above_base_bytes == pytest.approx(measured, rel=0.1)


def test_activations_grow_with_the_batch_as_measured(tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "net.onnx", layers=3, channels=16, side=64)
    for batch in (4, 32):
        measured = _measured(path, (batch, 16, 64, 64), AHEAD)
        forecast = forecast_ram(path, [(batch, 16, 64, 64)], flags=AHEAD)
        assert forecast.above_base_bytes == pytest.approx(measured, rel=0.1)


def test_unpacked_matrices_are_forecast_within_a_tenth(tmp_path: Path) -> None:
    path = write_matrices(tmp_path / "net.onnx", layers=6, width=1024)
    measured = _measured(path, (1, 1024), UNPACKED)
    assert forecast_ram(path, [(1, 1024)], flags=UNPACKED).above_base_bytes == pytest.approx(
        measured, rel=0.1
    )


def test_wrong_shapes_are_told(tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "net.onnx", layers=1, channels=16)
    for shapes, told in [
        ([], "takes 1 inputs, and 0"),
        ([(1, 8, 4, 4)], "does not take"),
        ([(1, 16)], "does not take"),
    ]:
        with pytest.raises(UsageError, match=told):
            forecast_ram(path, shapes)


def _measured(path: Path, shape: tuple[int, ...], flags: OnnxRuntimeFlags) -> int:
    used, run = OnnxRuntime(), path
    if flags.ahead or flags.external_data:
        run = path.with_name("prepared.onnx")
        used.prepare(path, flags, run)
    return measure(run, np.zeros(shape, np.float32), runtime=used, flags=flags, runs=2).above_base_bytes


@pytest.mark.parametrize("recipe", [None, Recipe(default=Scheme.STATIC8), Recipe(default=Scheme.WEIGHT8)])
def test_a_module_is_forecast_as_the_file_that_it_would_be(recipe: Recipe | None, tmp_path: Path) -> None:
    net, x = workloads.Classifier().train(), torch.rand(1, 1, 8, 8)
    found = forecast_module(net, x, recipe=recipe, base_bytes=5)
    path = tmp_path / "net.onnx"
    export(folded_or_plain(net), Samples((x,)), recipe or Recipe(default=Scheme.FLOAT32), path)
    assert found == forecast_ram(path, [(1, 1, 8, 8)], base_bytes=5)
    assert net.training
    if recipe is not None:
        assert found.weights < forecast_module(net, x).weights


def test_float_biases_beside_int8_count_and_others_do_not(tmp_path: Path) -> None:
    """Each is quantized while the file is loaded, by five nodes more."""

    def graph(bias: bool, recipe: Recipe) -> int:
        torch.manual_seed(0)
        convolutions = [torch.nn.Conv2d(4, 4, 3, bias=bias) for _ in range(3)]
        net = torch.nn.Sequential(*convolutions).eval()
        return forecast_module(net, torch.rand(1, 4, 9, 9), recipe=recipe).graph

    static, weights = Recipe(default=Scheme.STATIC8), Recipe(default=Scheme.WEIGHT8, smallest=1)
    assert graph(True, static) - graph(False, static) == ram._FIRST_BIAS + 3 * ram._BIAS
    assert graph(True, weights) == graph(False, weights)
