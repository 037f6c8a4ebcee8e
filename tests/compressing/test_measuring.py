"""Memory and latency in fresh processes: what is counted, and what a child of onnxruntime never imports."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enxuto.errors import EnxutoError, UsageError
from enxuto.records import OnnxRuntimeFlags, PeakBasis, Quartiles

pytest.importorskip("onnxruntime", reason="the compress extra is not installed")
from enxuto.compressing.runtimes import measuring, running
from enxuto.compressing.runtimes.measuring import arrays_of, base_bytes, compare_latency, measure
from enxuto.compressing.runtimes.onnx_runtime import OnnxRuntime, with_external_data
from tests.compressing.chains import write_convolutions, write_matrices

MIB = 2**20
RUNTIME = OnnxRuntime()
UNPACKED = OnnxRuntimeFlags(prepacking=False)


def test_the_peak_net_of_base_grows_by_the_weights(tmp_path: Path) -> None:
    x = np.zeros((1, 1024), np.float32)
    small, large = (
        measure(
            write_matrices(tmp_path / f"{layers}.onnx", layers=layers, width=1024),
            x,
            runtime=RUNTIME,
            flags=UNPACKED,
            runs=2,
        )
        for layers in (2, 10)
    )
    grown = large.above_base_bytes - small.above_base_bytes
    assert grown == pytest.approx(8 * 4 * MIB, rel=0.02)  # eight more matrices of 4 MiB
    assert large.standing_bytes - large.base_bytes == pytest.approx(10 * 4 * MIB, rel=0.02)
    assert large.load_peak_bytes > large.standing_bytes  # one matrix is there twice while it is read
    assert large.flags == UNPACKED
    assert large.artefact == RUNTIME.sha256(tmp_path / "10.onnx")


def test_mapped_weights_come_in_when_they_are_used(tmp_path: Path) -> None:
    write_matrices(tmp_path / "in.onnx", layers=10, width=1024)
    with_external_data(tmp_path / "in.onnx", tmp_path / "out.onnx")
    flags = OnnxRuntimeFlags(prepacking=False, external_data=True)
    cost = measure(
        tmp_path / "out.onnx", np.zeros((1, 1024), np.float32), runtime=RUNTIME, flags=flags, runs=1
    )
    assert cost.load_peak_bytes - cost.base_bytes < 2 * MIB
    assert cost.run_peak_bytes - cost.base_bytes == pytest.approx(40 * MIB, rel=0.03)


def test_a_child_of_onnxruntime_imports_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    ask = measuring._ask
    monkeypatch.setattr(measuring, "_ask", lambda *a, **k: (answers.append(ask(*a, **k)), answers[-1])[1])
    write_matrices(tmp_path / "net.onnx", layers=1, width=8)
    measure(tmp_path / "net.onnx", np.zeros((1, 8), np.float32), runtime=RUNTIME, runs=1)
    assert answers
    assert not any(answer.torch_imported for answer in answers)


def test_the_base_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = base_bytes(RUNTIME)
    assert 0 < first < 64 * MIB
    monkeypatch.setattr(measuring, "_ask", lambda *a, **k: pytest.fail("measured again"))
    assert base_bytes(RUNTIME) == first


def test_what_the_user_set_for_malloc_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = measuring._environment(threads=2)
    assert "MALLOC_ARENA_MAX" not in environment
    assert environment["OMP_NUM_THREADS"] == "2"


def test_a_slower_artefact_has_a_ratio_above_one(tmp_path: Path) -> None:
    """No assertion on seconds: the candidate does a hundred times the work of the reference."""
    x = np.zeros((1, 64, 4, 4), np.float32)
    light = write_convolutions(tmp_path / "light.onnx", layers=1, channels=64)
    heavy = write_convolutions(tmp_path / "heavy.onnx", layers=100, channels=64)
    slower = compare_latency((heavy, None), (light, None), x, runtime=RUNTIME, pairs=9)
    faster = compare_latency((light, None), (heavy, None), x, runtime=RUNTIME, pairs=9)
    assert slower.ratio.lower > 1 > faster.ratio.upper
    assert slower.candidate == faster.reference == RUNTIME.sha256(heavy)
    assert slower.ratio.runs == 9


def test_pairs_take_turns_and_ratios_are_candidate_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    seconds = {"candidate": 3.0, "reference": 2.0}

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def open(self) -> Any:
            return lambda *arrays: order.append(self.name)

    def timed(run: Any, arrays: Any) -> float:
        run(*arrays)
        return seconds[order[-1]]

    monkeypatch.setattr(running, "_seconds", timed)
    monkeypatch.setattr(running, "_arrays", lambda path: ())
    request: Any = type("Request", (), {"candidate": Named("candidate"), "reference": Named("reference")})
    request.inputs, request.warmup, request.runs = "", 0, 4
    assert running.measure_pairs(request) == Quartiles(lower=1.5, median=1.5, upper=1.5, runs=4)
    assert order == ["reference", "candidate", "candidate", "reference"] * 2


def test_quartiles_are_of_the_values() -> None:
    assert running.quartiles(np.arange(5.0)) == Quartiles(lower=1.0, median=2.0, upper=3.0, runs=5)


def test_where_the_kernels_mark_cannot_be_reset_a_sampler_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CLEAR_REFS", tmp_path)  # a folder cannot be written
    water = running.HighWater.best()
    try:
        assert water.basis is PeakBasis.SAMPLED
        before = water.now
        with mmap.mmap(
            -1, 64 * MIB
        ) as block:  # pages of its own: a heap may hand out what is resident already
            block.write(b"1" * (64 * MIB))
            assert water.peak - before > 48 * MIB
    finally:
        water._stop.set()  # type: ignore[union-attr]


def test_a_child_that_fails_gives_its_last_words(tmp_path: Path) -> None:
    write_matrices(tmp_path / "net.onnx", layers=1, width=8)
    with pytest.raises(EnxutoError, match=r"ended with 1: .*Got: 9 Expected: 8"):
        measure(tmp_path / "net.onnx", np.zeros((1, 9), np.float32), runtime=RUNTIME)
    with pytest.raises(UsageError, match="there is no artefact"):
        measure(tmp_path / "none.onnx", np.zeros((1, 9), np.float32), runtime=RUNTIME)


def test_tensors_and_arrays_alike_are_examples() -> None:
    import torch

    one, two = arrays_of((torch.ones(2), np.ones((2, 3))[:, ::2]))
    assert isinstance(one, np.ndarray)
    assert two.flags.c_contiguous
    assert [a.shape for a in arrays_of(torch.ones(2, 2))] == [(2, 2)]
