"""How small does a trained network get at a certified loss of one point at most, beside what one would do instead?

    python -m benchmarks.compress                        every net
    python -m benchmarks.compress --net mobilenet_style  one of them
    python -m benchmarks.compress --fast                 the VGG-style net pruned for time alone, in 32 bits

Three nets trained on Fashion-MNIST (`benchmarks/nets`). 55,000 pictures calibrate and teach, the 5,000 that no training
saw choose, the 10,000 test pictures certify. Every row is judged as onnxruntime runs the file. Baselines are those of
`benchmarks.baselines`, on the same pictures; each row of theirs is a point estimate, ours has a certificate.

Candidates are kept in a folder (`--folder`) as they are made; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.baselines import augmented
from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.nets import NETS, fashion, trained
from enxuto.compressing import Effort, compress
from enxuto.compressing.distilling import Distillation
from enxuto.compressing.judging import as_executed
from enxuto.compressing.pruning import Importance, Limit, Pruning, Size, prune
from enxuto.compressing.runtimes import runtime
from enxuto.compressing.runtimes.measuring import compare_latency
from enxuto.records import (
    Candidate,
    Certificate,
    Compressed,
    Limits,
    Quartiles,
    Scheme,
    write_atomically,
)
from enxuto.samples import Samples, Splits
from enxuto.verifying import certify

LOOKS = 4  # at the test pictures: finalists of the search, and plain 8 bits; each has a quarter of the error
RESULT = RESULTS / "compress.json"
#: Effort by net.
EFFORT = {
    "vgg_style": Effort(step=0.4, least=0.15, distillation=Distillation(epochs=3, rate=2e-3)),
    "resnet_style": Effort(step=0.5, least=0.2, distillation=Distillation(epochs=4, rate=2e-3)),
    "mobilenet_style": Effort(step=0.6, least=0.35, distillation=Distillation(epochs=4, rate=2e-3)),
}
AUGMENTED = {
    "vgg_style"
}  # nets that learn from flipped and shifted pictures; for the others the teacher answers once


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One net: the original and what it became. Bytes; accuracies and bounds on the 10,000 test pictures."""

    net: str
    original_file: int
    original_gzip: int
    file: int
    gzip: int
    weights: int
    parameters_ratio: float
    accuracy: float
    original_accuracy: float
    upper_drop: float
    decision: str
    int8_file: int
    int8_gzip: int
    int8_accuracy: float
    int8_upper_drop: float
    int8_latency_ratio: float
    pruned_latency_ratio: float
    ram_ratio: float
    latency_ratio: float
    candidates: int
    seconds: float


def row_of(name: str, folder: Path) -> tuple[Row, Compressed]:
    """Compress one net and certify it."""
    learn, held_out = fashion.split(fashion.train())
    began = time.monotonic()
    found = compress(
        trained(name),
        Splits(calibrate=learn, choose=held_out, certify=fashion.test()),
        out=folder / name,
        limits=Limits(max_drop=0.01),
        effort=EFFORT[name],
        finalists=LOOKS,
        change=augmented if name in AUGMENTED else None,
        progress=lambda line: print(f"  {time.monotonic() - began:6.0f} s  {line}", flush=True),
    )
    original, artefact, certificate = found.original, found.artefact, found.certificate
    if artefact is None or certificate is None:
        raise SystemExit(f"{name}: nothing was certified")
    int8 = found.candidates[1]
    assert int8.settings is not None
    assert int8.settings.kept_ratio == 1
    plain = int8_certificate(name, folder / name / "search", int8.sha256)
    return (
        Row(
            net=name,
            original_file=original.file_bytes,
            original_gzip=original.gzip_bytes,
            file=artefact.file_bytes,
            gzip=artefact.gzip_bytes,
            weights=artefact.weight_bytes,
            parameters_ratio=artefact.parameters / original.parameters,
            accuracy=certificate.candidate.metric,
            original_accuracy=certificate.original.metric,
            upper_drop=certificate.judgement.upper,
            decision=certificate.decision.value,
            int8_file=int8.file_bytes,
            int8_gzip=int8.gzip_bytes,
            int8_accuracy=plain.candidate.metric,
            int8_upper_drop=plain.judgement.upper,
            int8_latency_ratio=int8.latency.median if int8.latency else 0.0,
            pruned_latency_ratio=pruned_latency(name, artefact, folder / name, learn),
            ram_ratio=original.ram_bytes / artefact.ram_bytes,
            latency_ratio=artefact.latency.median if artefact.latency else 0.0,
            candidates=len(found.candidates),
            seconds=round(found.seconds, 1),
        ),
        found,
    )


def pruned_latency(name: str, artefact: Candidate, folder: Path, learn: Samples) -> float:
    """Of the net pruned as far as the chosen one and still in 32 bits, as a multiple of the original's; what its
    weights are makes no difference, so it is not taught again."""
    kept, example = artefact.settings.kept_ratio if artefact.settings else 1.0, learn.first(1).inputs
    if kept == 1:
        return 1.0
    net = trained(name)
    limit = Limit(size=Size.PARAMETERS, at_most=int(kept * sum(p.numel() for p in net.parameters())))
    cut = prune(net, example, Pruning(limit=limit, importance=Importance.FIRST_ORDER), data=learn.first(1024))
    paths = folder / "pruned.onnx", folder / "original.onnx"
    for module, path in zip((cut.model, net), paths, strict=True):
        runtime().export(module, example, path)
    pairs = (paths[0], None), (paths[1], None)
    return compare_latency(*pairs, example, runtime=runtime()).ratio.median


def int8_certificate(name: str, folder: Path, sha256: str) -> Certificate:
    """Of the candidate that is only quantized: one of the LOOKS at the test pictures."""
    ort = runtime()
    path = next(path for path in folder.glob("candidate-*.onnx") if ort.sha256(path) == sha256)
    return certify(trained(name), as_executed(path), fashion.test(), tolerance=0.01, looks=LOOKS)


FAST = 1.5  # times faster than the original, in 32 bits
PAIRS = 200  # of runs by which that is confirmed once more, after the search


@dataclass(frozen=True, slots=True, kw_only=True)
class FastRow:
    """A net pruned until a run takes at most 1 / FAST of the original's; nothing is rounded.

    Latency is that of interleaved pairs of runs, as a multiple of the original's: `searched` chose, `confirmed` was
    measured afterwards; (lower quartile, median, upper quartile).
    """

    net: str
    macs_ratio: float
    parameters_ratio: float
    original_file: int
    file: int
    accuracy: float
    original_accuracy: float
    upper_drop: float
    decision: str
    searched: tuple[float, float, float]
    confirmed: tuple[float, float, float]
    candidates: int
    seconds: float


def fast_row(name: str, folder: Path) -> FastRow:
    """Prune one net for time and certify it."""
    learn, held_out = fashion.split(fashion.train())
    effort = Effort(
        step=0.4,
        least=0.05,
        distillation=Distillation(epochs=4, rate=2e-3),
        schemes=(Scheme.FLOAT32,),
        pairs=60,
    )
    began = time.monotonic()
    found = compress(
        trained(name),
        Splits(calibrate=learn, choose=held_out, certify=fashion.test()),
        out=folder / f"{name}-fast",
        limits=Limits(latency_ratio=1 / FAST, max_drop=0.01),
        effort=effort,
        change=augmented if name in AUGMENTED else None,
        progress=lambda line: print(f"  {time.monotonic() - began:6.0f} s  {line}", flush=True),
    )
    artefact, certificate = found.artefact, found.certificate
    if artefact is None or artefact.settings is None or artefact.latency is None or certificate is None:
        raise SystemExit(f"{name}: nothing fast was certified")
    original = folder / "original.onnx"
    runtime().export(trained(name), learn.first(1).inputs, original)
    pair = (folder / f"{name}-fast" / "model.onnx", None), (original, None)
    confirmed = compare_latency(*pair, learn.first(1).inputs, runtime=runtime(), pairs=PAIRS).ratio
    return FastRow(
        net=name,
        macs_ratio=artefact.settings.kept_ratio,
        parameters_ratio=artefact.parameters / found.original.parameters,
        original_file=found.original.file_bytes,
        file=artefact.file_bytes,
        accuracy=certificate.candidate.metric,
        original_accuracy=certificate.original.metric,
        upper_drop=certificate.judgement.upper,
        decision=certificate.decision.value,
        searched=_quartiles(artefact.latency),
        confirmed=_quartiles(confirmed),
        candidates=len(found.candidates),
        seconds=round(found.seconds, 1),
    )


def _quartiles(of: Quartiles) -> tuple[float, float, float]:
    return (of.lower, of.median, of.upper)


def line(row: Row) -> str:
    """A row as text."""
    sizes = f"{row.original_file:9,} → {row.file:8,} B  {row.original_file / row.file:5.1f}×"
    packed = f"gzip {row.original_gzip:9,} → {row.gzip:8,} B  {row.original_gzip / row.gzip:5.1f}×"
    quality = f"{row.original_accuracy:.2%} → {row.accuracy:.2%}, at most {row.upper_drop:.2%} lost"
    return f"{row.net:16} {sizes}  {packed}  {quality}  RAM {row.ram_ratio:.1f}× time {row.latency_ratio:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=sorted(NETS), default=sorted(NETS))
    parser.add_argument(
        "--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "enxuto-compress"
    )
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": [], "candidates": {}}
    if options.fast:
        fast = fast_row("vgg_style", options.folder)
        print(fast)
        write({**content, "fast": [asdict(fast)]})
        return 0
    for name in options.net:
        print(name)
        row, found = row_of(name, options.folder)
        print(line(row), flush=True)
        content["rows"] = [*(known for known in content["rows"] if known["net"] != name), asdict(row)]
        content["candidates"][name] = json.loads(msgspec.json.encode(found.candidates))
        write(content)
    return 0


def write(content: dict[str, Any]) -> None:
    """Keep the results, with the machine that gave them."""
    text = json.dumps({**content, "machine": machine()}, indent=1)
    write_atomically(RESULT, f"{text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
