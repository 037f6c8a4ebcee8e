"""onnxruntime's files: optimized ahead, weights outside; and the settings that reach a session."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from enxuto._torch_private import onnx_registry_read_once
from enxuto.errors import UsageError
from enxuto.records import OnnxRuntimeFlags, OptimizationLevel

pytest.importorskip("onnxruntime", reason="the compress extra is not installed")
from torch.onnx._internal.exporter._registration import ONNXRegistry as Registry

from enxuto.compressing.runtimes import onnx_runtime
from enxuto.compressing.runtimes.onnx_runtime import (
    OnnxRuntime,
    int8_saturates,
    open_session,
    with_external_data,
)
from tests.compressing.chains import onnx, write_convolutions

EVERY = [
    OnnxRuntimeFlags(level=level, ahead=ahead, external_data=outside, prepacking=packed, arena=packed)
    for level in OptimizationLevel
    for ahead in (False, True)
    for outside in (False, True)
    for packed in (False, True)
]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return write_convolutions(tmp_path / "chain.onnx", layers=3, channels=32)


def test_every_setting_computes_the_same(chain: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 32, 4, 4)).astype(np.float32)
    (expected,) = OnnxRuntime().load(chain)(x)
    for index, flags in enumerate(EVERY):
        path = tmp_path / f"{index}.onnx"
        OnnxRuntime().prepare(chain, flags, path)
        (found,) = OnnxRuntime().load(path, flags)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=str(flags))


def test_weights_go_outside_and_are_counted(chain: Path, tmp_path: Path) -> None:
    written = with_external_data(chain, tmp_path / "out.onnx")
    graph, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    weights = 3 * 32 * 32 * 9 * 4
    assert data.stat().st_size >= weights
    assert graph.stat().st_size < 2_000
    assert written.file_bytes == graph.stat().st_size + data.stat().st_size
    assert OnnxRuntime().files(graph) == (graph, data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain.onnx", "out.onnx", "out.onnx.data"]


def test_the_digest_sees_the_weights_outside(chain: Path, tmp_path: Path) -> None:
    before = with_external_data(chain, tmp_path / "out.onnx")
    data = tmp_path / "out.onnx.data"
    content = bytearray(data.read_bytes())
    content[7] ^= 1
    data.write_bytes(content)
    assert OnnxRuntime().describe(tmp_path / "out.onnx").sha256 != before.sha256


def test_ahead_at_level_all_is_blocked_and_belongs_to_one_kind_of_cpu(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ahead.onnx"
    flags = OnnxRuntimeFlags(ahead=True)
    OnnxRuntime().prepare(chain, flags, path)
    assert "com.microsoft.nchwc" in {node.domain for node in onnx.load(path).graph.node}
    monkeypatch.setattr(onnx_runtime, "vector_width", lambda: "another cpu")
    with pytest.raises(UsageError, match="was optimized ahead for a CPU with"):
        OnnxRuntime().load(path, flags)


def test_ahead_at_level_extended_runs_anywhere(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ahead.onnx"
    flags = OnnxRuntimeFlags(ahead=True, level=OptimizationLevel.EXTENDED)
    OnnxRuntime().prepare(chain, flags, path)
    assert "com.microsoft.nchwc" not in {node.domain for node in onnx.load(path).graph.node}
    monkeypatch.setattr(onnx_runtime, "vector_width", lambda: "another cpu")
    taken = OnnxRuntime().describe(path).inputs[0]
    x = np.ones([size if isinstance(size, int) else 2 for size in taken.shape], np.float32)
    (found,), (expected,) = OnnxRuntime().load(path, flags)(x), OnnxRuntime().load(chain)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "level", "entry"),
    [
        (OnnxRuntimeFlags(), "ORT_ENABLE_ALL", "0"),
        (OnnxRuntimeFlags(level=OptimizationLevel.BASIC, prepacking=False), "ORT_ENABLE_BASIC", "1"),
        (OnnxRuntimeFlags(ahead=True), "ORT_DISABLE_ALL", "0"),
    ],
)
def test_the_settings_reach_the_session(chain: Path, flags: OnnxRuntimeFlags, level: str, entry: str) -> None:
    options = open_session(chain, flags).get_session_options()
    assert options.graph_optimization_level.name == level
    assert options.get_session_config_entry("session.disable_prepacking") == entry
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (flags.arena, flags.memory_pattern)
    assert options.intra_op_num_threads == 1


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError, match="onnxruntime cannot load"):
        OnnxRuntime().load(tmp_path / "no.onnx")
    with pytest.raises(UsageError, match="is no ONNX model"):
        OnnxRuntime().describe(tmp_path / "no.onnx")


def test_a_registry_that_was_read_once_exports_the_same() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),))

    def exported() -> bytes:
        written = torch.onnx.export(program, dynamo=True, verbose=False)
        assert written is not None
        return written.model_proto.SerializeToString(deterministic=True)

    before, plain = Registry.__dict__["from_torchlib"], exported()
    with onnx_registry_read_once():
        assert exported() == exported() == plain
        assert Registry.__dict__["from_torchlib"] is not before
    assert Registry.__dict__["from_torchlib"] is before


def test_saturating_kernels_are_known_by_what_they_compute() -> None:
    """Seven bits never saturate; eight do where the processor has no instruction that adds to 32 bits at once."""
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.exists():
        pytest.skip("x86 on Linux")
    words = set(flags.read_text().split())
    exact = words & {"avx512_vnni", "avx_vnni"}
    assert int8_saturates() is (not exact and bool(words & {"avx2", "avx512bw"}))
