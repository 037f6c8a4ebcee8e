"""What a user would pick instead: each tool as its own documentation uses it, judged in onnxruntime.

    python -m benchmarks.baselines                            every net and baseline that has no row yet
    python -m benchmarks.baselines --nets vgg_style --only onnxruntime nncf
    ENXUTO_NNCF_PYTHON=/path/to/python                        the environment that NNCF is installed in

Every baseline turns a trained net into an ONNX file. Its row says the bytes of the file, plain and gzipped, and how
many of the 10,000 test pictures it names right, and of those that only it (`helped`) or only the float32 net (`hurt`)
does. Calibration and fine-tuning see the 55,000 training pictures only. Rows are kept in
`benchmarks/results/baselines.json` under a hash of the weights, the data, the settings and the versions, so that a
run that was cut off goes on; the files are kept under the same names in the temporary folder.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cpu_truth import machine
from benchmarks.nets import NETS, fashion, trained
from benchmarks.nets.train import Recipe, Training, augment
from enxuto.compressing.distilling import Distillation, distil
from enxuto.compressing.runtimes.onnx_runtime import int8_saturates
from enxuto.errors import UsageError
from enxuto.records import write_atomically
from enxuto.samples import Samples

RESULTS = Path(__file__).parent / "results" / "baselines.json"
ARTEFACTS = Path(tempfile.gettempdir()) / "enxuto_baselines"
CALIBRATION = 512  # pictures
FINE_TUNING = Recipe(epochs=3, peak_rate=0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a baseline may see.

    Args:
        calibrate: pictures whose ranges a quantizer reads.
        learn: labelled pictures to fine-tune on.
    """

    calibrate: Samples
    learn: Samples

    @property
    def example(self) -> Tensor:
        """Two pictures, for exporters."""
        return self.calibrate.inputs[0][:2]


class Baseline(Protocol):
    """One way to make a net smaller; its settings are the fields of its frozen dataclass."""

    #: The packages that do the work: their versions belong to a row.
    packages: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """What a table calls it."""
        ...

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Write the smaller net as an ONNX file; `net` is left as it was."""
        ...


@dataclass(frozen=True, slots=True)
class Float32:
    """The net as it is."""

    name: ClassVar[str] = "float32"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript")

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Export."""
        export_onnx(net, data.example, path)


@dataclass(frozen=True, slots=True)
class OnnxruntimeInt8:
    """`quantize_static` after `quant_pre_process`: QDQ, int8 weights and activations, ranges by minimum and maximum.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Its documentation asks for a reduced range on processors whose kernels saturate, and so does torchao's.

    Args:
        per_channel: a scale for each output channel of a weight; False is onnxruntime's default.
    """

    per_channel: bool = True
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "onnxruntime")

    @property
    def name(self) -> str:
        """By the granularity of its scales."""
        return f"onnxruntime int8 {'per channel' if self.per_channel else 'per tensor'}"

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Export, then quantize the file."""
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.onnx"
            export_onnx(net, data.example, plain)
            self.quantize(plain, data.calibrate, path)

    def quantize(self, plain: Path, calibrate: Samples, path: Path) -> None:
        """Quantize an ONNX file into another."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(plain), str(prepared))
            quantize_static(
                str(prepared),
                str(path),
                _Reader(prepared, calibrate),
                quant_format=QuantFormat.QDQ,
                per_channel=self.per_channel,
                reduce_range=int8_saturates(),
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )


class _Reader:
    """One picture at a time, as onnxruntime's `CalibrationDataReader` asks for them."""

    def __init__(self, model: Path, samples: Samples) -> None:
        import onnx

        name = onnx.load(str(model)).graph.input[0].name
        self._feeds = iter([{name: picture[None]} for picture in samples.inputs[0].numpy()])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@dataclass(frozen=True, slots=True)
class TorchaoStatic:
    """torchao's PT2E with its quantizer for x86: uint8 activations, int8 weights per channel.

    https://docs.pytorch.org/ao/stable/pt2e_quantization/index.html
    """

    name: ClassVar[str] = "torchao PT2E int8"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "torchao")

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Capture, prepare, calibrate, convert, export as Q/DQ nodes."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        quantizer = X86InductorQuantizer()
        quantizer.set_global(get_default_x86_inductor_quantization_config(reduce_range=int8_saturates()))
        captured = torch.export.export(net, (data.example,), dynamic_shapes=ANY_BATCH).module()
        prepared = prepare_pt2e(captured, quantizer)
        with torch.no_grad():
            for batch in data.calibrate.batches(64):
                prepared(*batch.inputs)
        export_onnx(convert_pt2e(prepared), data.example, path)


@dataclass(frozen=True, slots=True)
class TorchaoWeightOnly:
    """torchao's `quantize_` with int8 weights; it takes linear layers and leaves convolutions."""

    name: ClassVar[str] = "torchao int8 weight-only"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "torchao")

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Quantize a copy, export."""
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        smaller = copy.deepcopy(net)
        quantize_(smaller, Int8WeightOnlyConfig())
        export_onnx(smaller, data.example, path)


@dataclass(frozen=True, slots=True)
class NncfInt8:
    """`nncf.quantize` on the ONNX file, with its defaults, in the environment that ENXUTO_NNCF_PYTHON names."""

    name: ClassVar[str] = "nncf int8"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript")

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Export, then quantize in a process of that environment."""
        python = os.environ.get("ENXUTO_NNCF_PYTHON", sys.executable)
        with tempfile.TemporaryDirectory() as folder:
            plain, pictures = Path(folder) / "plain.onnx", Path(folder) / "pictures.npy"
            export_onnx(net, data.example, plain)
            np.save(pictures, data.calibrate.inputs[0].numpy())
            child = Path(__file__).with_name("nncf_child.py")
            ran = subprocess.run([python, child, plain, pictures, path], capture_output=True, text=True)
        if ran.returncode:
            raise UsageError(f"nncf under {python}: {ran.stderr.strip().splitlines()[-1]}")


@dataclass(frozen=True, slots=True)
class UniformPruning:
    """torch-pruning: the same share of channels off every layer by L2 norm, then fine-tuned with the labels.

    Args:
        ratio: share of channels that go, in every layer but the last.
        recipe: the fine-tuning; a Distillation is taught by the float32 net, as ours is.
        int8: quantize the result as `OnnxruntimeInt8` does.
    """

    ratio: float
    recipe: Recipe | Distillation = FINE_TUNING
    int8: bool = False
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnxscript", "onnxruntime", "torch-pruning")

    @property
    def name(self) -> str:
        """By the share that goes, and what is not as usual."""
        taught = f", {self.recipe.epochs} epochs as ours" if isinstance(self.recipe, Distillation) else ""
        return f"torch-pruning {self.ratio:.0%}{taught}{' + onnxruntime int8' if self.int8 else ''}"

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        """Prune and fine-tune a copy, export; int8 begins from the kept file of the float one, if there is one."""
        if self.int8:
            plain = artefact(net, replace(self, int8=False), data, folder=path.parent)
            OnnxruntimeInt8().quantize(plain, data.calibrate, path)
            return
        export_onnx(self._fine_tuned(net, data).eval(), data.example, path)

    def _fine_tuned(self, net: nn.Module, data: Data) -> nn.Module:
        smaller = self.pruned(net, data.example)
        if isinstance(self.recipe, Distillation):
            distil(net, smaller, data.learn, self.recipe, change=augmented)
            return smaller
        training = Training(smaller, self.recipe)
        while not training.finished:
            training.log.append({"loss": training.run_epoch(data.learn)})
        return training.model

    def pruned(self, net: nn.Module, example: Tensor) -> nn.Module:
        """A copy of the net with the channels gone, not yet fine-tuned."""
        import torch_pruning

        smaller = copy.deepcopy(net)
        last = [module for module in smaller.modules() if isinstance(module, nn.Linear)][-1]
        torch_pruning.pruner.BasePruner(
            smaller,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=self.ratio,
            ignored_layers=[last],
        ).step()
        return smaller


POST_TRAINING: tuple[Baseline, ...] = (
    Float32(),
    OnnxruntimeInt8(),
    OnnxruntimeInt8(per_channel=False),
    TorchaoStatic(),
    TorchaoWeightOnly(),
    NncfInt8(),
)
PRUNING: tuple[Baseline, ...] = tuple(
    UniformPruning(ratio, int8=int8) for ratio in (0.3, 0.5, 0.7) for int8 in (False, True)
)

#: The fat net again with as much fine-tuning as ours has, of the same kind.
AS_OURS: tuple[Baseline, ...] = tuple(
    UniformPruning(ratio, recipe=Distillation(epochs=8, rate=2e-3), int8=int8)
    for ratio in (0.4, 0.5, 0.6)
    for int8 in (False, True)
)

ANY_BATCH = ({0: torch.export.Dim("batch")},)


def augmented(pictures: Tensor) -> Tensor:
    """A batch mirrored and shifted, by torch's global random numbers."""
    return augment(pictures, torch.default_generator)


def export_onnx(net: nn.Module, example: Tensor, path: Path) -> None:
    """Write a net that takes one tensor as one ONNX file, its batch left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            net,
            (example,),
            str(path),
            dynamo=True,
            dynamic_shapes=ANY_BATCH,
            external_data=False,
            verbose=False,
        )


def logits(path: Path, samples: Samples, *, batch: int = 100) -> np.ndarray:
    """What an ONNX file says of every sample in onnxruntime, on one thread, as [n, kinds]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: b.inputs[0].numpy()})[0] for b in samples.batches(batch)]
    return np.concatenate(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One baseline on one net.

    Args:
        net: its name.
        baseline: what the table calls it.
        settings: of the baseline.
        versions: of the packages that do the work.
        file_bytes: of the ONNX file.
        gzip_bytes: of the same, gzipped at level 9.
        n: test pictures.
        right: of them, named right in onnxruntime.
        hurt: named right by the float32 net only.
        helped: named right by this one only.
        sha256: of the file.
        failed: why there is none; the figures are then 0.
    """

    net: str
    baseline: str
    settings: dict[str, Any]
    versions: dict[str, str]
    file_bytes: int = 0
    gzip_bytes: int = 0
    n: int = 0
    right: int = 0
    hurt: int = 0
    helped: int = 0
    sha256: str = ""
    failed: str = ""

    @property
    def accuracy(self) -> float:
        """Share of the test pictures named right."""
        return self.right / self.n


def key(net: nn.Module, baseline: Baseline, data: Data) -> str:
    """A hash of all that a file depends on: weights, settings, data and versions."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    content = [type(baseline).__name__, asdict(baseline), versions(baseline)]  # type: ignore[call-overload]
    digest.update(json.dumps(content, sort_keys=True).encode())
    digest.update(data.calibrate.fingerprint.encode())
    if isinstance(baseline, UniformPruning):
        digest.update(data.learn.fingerprint.encode())
    return digest.hexdigest()[:24]


def versions(baseline: Baseline) -> dict[str, str]:
    """The version of every package that does the work."""
    found = {package: metadata.version(package) for package in baseline.packages}
    return found | ({"nncf": _nncf_version()} if isinstance(baseline, NncfInt8) else {})


def _nncf_version() -> str:
    python = os.environ.get("ENXUTO_NNCF_PYTHON", sys.executable)
    code = "from importlib.metadata import version; print(version('nncf'))"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return ran.stdout.strip() or "missing"


def artefact(net: nn.Module, baseline: Baseline, data: Data, *, folder: Path = ARTEFACTS) -> Path:
    """The ONNX file of a baseline, written unless `folder` has it already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key(net, baseline, data)}.onnx"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished.onnx")
        baseline.write(net, data, unfinished)
        unfinished.rename(path)
    return path


@dataclass
class Bench:
    """What every baseline is given and judged on, where its file is kept, and the rows found so far."""

    data: Data
    test: Samples
    rows: dict[str, Row] = field(default_factory=dict)
    folder: Path = ARTEFACTS

    def row(self, name: str, net: nn.Module, baseline: Baseline) -> Row:
        """The row of a baseline on a net, from the kept ones or measured now.

        A failure is a row too, tried again the next time; a row that older versions gave makes way.
        """
        own = key(net, baseline, self.data)
        kept = self.rows.get(own)
        if kept is not None and not kept.failed:
            return kept
        found = self._measure(name, net, baseline)
        same = (found.net, found.baseline, found.settings)
        self.rows = {k: r for k, r in self.rows.items() if (r.net, r.baseline, r.settings) != same}
        self.rows[own] = found
        return found

    def _measure(self, name: str, net: nn.Module, baseline: Baseline) -> Row:
        row = Row(
            net=name,
            baseline=baseline.name,
            settings=asdict(baseline),  # type: ignore[call-overload]
            versions=versions(baseline),
        )
        try:
            path = artefact(net, baseline, self.data, folder=self.folder)
            right = self._right(path)
        except Exception as error:  # other people's tools fail in their own ways; the table says so
            return replace(row, failed=f"{type(error).__name__}: {str(error).strip()[:300]}")
        reference = self._right(artefact(net, Float32(), self.data, folder=self.folder))
        content = path.read_bytes()
        return replace(
            row,
            file_bytes=len(content),
            gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
            n=len(right),
            right=int(right.sum()),
            hurt=int((reference & ~right).sum()),
            helped=int((right & ~reference).sum()),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def _right(self, path: Path) -> np.ndarray:
        assert self.test.targets is not None
        found: np.ndarray = logits(path, self.test).argmax(1) == self.test.targets.numpy()
        return found

    def save(self) -> None:
        """Keep the rows."""
        content = {"machine": machine(), "rows": {own: asdict(row) for own, row in self.rows.items()}}
        write_atomically(RESULTS, (json.dumps(content, indent=1) + "\n").encode())


def fashion_bench() -> Bench:
    """The bench of the three nets: 512 training pictures calibrate, 55,000 may be learnt from, 10,000 judge."""
    learn, _ = fashion.split(fashion.train())
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    return Bench(
        data=Data(calibrate=learn.first(CALIBRATION), learn=learn),
        test=fashion.test(),
        rows={own: Row(**row) for own, row in kept.items()},
    )


def chosen(baselines: Sequence[Baseline], words: Sequence[str]) -> list[Baseline]:
    """The baselines whose names have one of the words; all of them where no word is given."""
    return [b for b in baselines if not words or any(word in b.name for word in words)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--only", nargs="+", default=[], help="words of the baselines' names")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = fashion_bench()
    print(f"{'net':16} {'baseline':36} {'file':>9} {'gzip':>9} {'accuracy':>9} {'hurt':>5} {'helped':>6}")
    for name in options.nets:
        net = trained(name)
        for baseline in chosen(baselines_of(name), options.only):
            _print_row(bench.row(name, net, baseline))
            bench.save()
    return 0


def baselines_of(name: str) -> tuple[Baseline, ...]:
    """What stands beside a net."""
    return (*POST_TRAINING, *PRUNING, *(AS_OURS if name == "vgg_style" else ()))


def _print_row(row: Row) -> None:
    if row.failed:
        print(f"{row.net:16} {row.baseline:36} failed: {row.failed}", flush=True)
        return
    print(
        f"{row.net:16} {row.baseline:36} {row.file_bytes:9,} {row.gzip_bytes:9,} {row.accuracy:9.2%} "
        f"{row.hurt:5} {row.helped:6}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
