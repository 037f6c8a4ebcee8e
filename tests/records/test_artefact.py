"""Artefact, RuntimeCost and LatencyRatio: their JSON, and what their figures add up to."""

from __future__ import annotations

from typing import Any

import pytest

from enxuto.records import (
    Artefact,
    Flags,
    LatencyRatio,
    OnnxRuntimeFlags,
    OptimizationLevel,
    PeakBasis,
    Quartiles,
    RuntimeCost,
    TensorSignature,
    ThreadFlags,
    from_json,
    to_json,
)

QUARTILES = Quartiles(lower=0.9, median=1.0, upper=1.25, runs=30)
FLAGS = OnnxRuntimeFlags(level=OptimizationLevel.EXTENDED, ahead=True, memory_pattern=False, threads=2)


def cost(flags: Flags = FLAGS, *, load: int = 9_000, run: int = 7_000) -> RuntimeCost:
    return RuntimeCost(
        artefact="ab" * 32,
        runtime="onnxruntime",
        flags=flags,
        base_bytes=2_000,
        standing_bytes=5_000,
        load_peak_bytes=load,
        run_peak_bytes=run,
        latency=QUARTILES,
        versions=(("onnxruntime", "1.32.0"),),
        basis=PeakBasis.KERNEL,
    )


def artefact() -> Artefact:
    return Artefact(
        runtime="onnxruntime",
        file="net.onnx",
        file_bytes=100,
        gzip_bytes=90,
        sha256="cd" * 32,
        formats=(("opset ai.onnx", "20"),),
        inputs=(TensorSignature(name="x", dtype="float32", shape=("batch", 3, 8, 8)),),
        outputs=(TensorSignature(name="y", dtype="float32", shape=("batch", 10)),),
    )


def ratio() -> LatencyRatio:
    return LatencyRatio(
        candidate="ab" * 32,
        reference="cd" * 32,
        candidate_flags=FLAGS,
        reference_flags=ThreadFlags(threads=2),
        ratio=QUARTILES,
        versions=(("onnxruntime", "1.32.0"),),
    )


@pytest.mark.parametrize("record", [cost(), cost(ThreadFlags(threads=3)), artefact(), ratio()])
def test_json_gives_the_same_record_back(record: Any) -> None:
    again = from_json(to_json(record), expect=type(record))
    assert again == record
    assert type(getattr(again, "flags", None)) is type(getattr(record, "flags", None))


@pytest.mark.parametrize(("load", "run", "peak"), [(9_000, 7_000, 9_000), (5_000, 8_000, 8_000)])
def test_the_peak_is_the_higher_of_loading_and_running_and_the_base_comes_off(
    load: int, run: int, peak: int
) -> None:
    found = cost(load=load, run=run)
    assert found.peak_bytes == peak
    assert found.above_base_bytes == peak - 2_000
