"""From a fat net to a lean one: what the move saves in the file and in training, and what it costs in quality.

    python -m benchmarks.migrate                from the start, or from the last epoch that was finished

The teacher is `vgg_style`, the student `squeezenet_style` (`benchmarks/nets/models.py`). It learns twice, from the same
first weights, in the same order, augmentation and number of epochs: taught by the teacher, and alone. 55,000 of the
60,000 pictures train; nothing is chosen by any others; the 10,000 test pictures certify both students, two looks
planned, as onnxruntime runs their files. Training peaks are dry traces of a step of 128 pictures; beside them those
of a net whose file is leaner still.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import enxuto as ex
from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.nets import FOLDER, NETS, fashion, trained
from benchmarks.nets.models import PICTURE, squeezenet_style
from benchmarks.nets.train import accuracy, augment
from enxuto.compressing.distilling import Distillation, distil
from enxuto.compressing.judging import as_executed
from enxuto.compressing.runtimes import runtime
from enxuto.records import Certificate, write_atomically
from enxuto.verifying import certify

RESULT = RESULTS / "migrate.json"
WEIGHTS = FOLDER / "squeezenet_style.safetensors"
TEACHER = "vgg_style"
TAUGHT, ALONE = "taught", "alone"
LOOKS = 2  # at the test pictures: both students, fixed ahead
BATCH = 128

SETTINGS = Distillation(epochs=20, batch=BATCH, rate=4e-3, decay=0.02, labels=0.3)
RUNS = {TAUGHT: SETTINGS, ALONE: replace(SETTINGS, labels=1.0)}

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a net takes: parameters, bytes of its float32 .onnx file, bytes at the peak of a training step."""

    net: str
    parameters: int
    file: int
    sgd: int
    adamw: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student after its training: accuracies are shares, seconds those of the CPU."""

    run: str
    accuracy: float
    held_out_accuracy: float
    drop: float
    upper_drop: float
    decision: str
    cpu_seconds: float
    epochs: list[dict[str, float]]


def size_of(name: str, build: Callable[[], nn.Module], net: nn.Module, folder: Path) -> Size:
    """The sizes of a net, whose trained state `net` is exported to `folder`."""
    return Size(
        net=name,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        file=exported(name, net, folder).stat().st_size,
        **{key: training_peak(build, optimizer) for key, optimizer in OPTIMIZERS.items()},
    )


def training_peak(build: Callable[[], nn.Module], optimizer: Callable[[Any], torch.optim.Optimizer]) -> int:
    """Bytes at the peak of a step of 128 pictures, from a dry trace."""
    work = ex.Workload(
        model=build,
        batch=lambda n=BATCH: (torch.rand(n, *PICTURE), torch.randint(10, (n,))),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=optimizer,
        batch_size=BATCH,
    )
    return ex.trace(work).peak


def exported(name: str, net: nn.Module, folder: Path) -> Path:
    """The net's float32 file for onnxruntime."""
    path = folder / f"{name}.onnx"
    runtime().export(net.eval(), (torch.zeros(1, *PICTURE),), path)
    return path


def learnt(run: str, folder: Path) -> tuple[nn.Module, list[dict[str, float]]]:
    """A student of this run, and its log; goes on where it was cut off."""
    learn, _ = fashion.split(fashion.train())
    torch.manual_seed(SETTINGS.seed)
    # channels last is a third faster here, and the same arithmetic for all
    student, teacher = (
        net.to(memory_format=torch.channels_last) for net in (squeezenet_style(), trained(TEACHER))
    )
    clock = _Clock(folder / f"{run}.seconds.json", run)
    found = distil(
        teacher,
        student,
        learn,
        RUNS[run],
        checkpoint=folder / f"{run}.pt",
        change=lambda pictures: augment(pictures, torch.default_generator),
        progress=clock,
    )
    log = [
        {**asdict(losses), "cpu_seconds": seconds}
        for losses, seconds in zip(found.epochs, clock.epochs, strict=True)
    ]
    return student, log


class _Clock:
    """CPU seconds of every epoch, in a file beside the checkpoint."""

    def __init__(self, path: Path, run: str) -> None:
        self.epochs: list[float] = json.loads(path.read_text()) if path.exists() else []
        self._path, self._run, self._began = path, run, time.process_time()

    def __call__(self, line: str) -> None:
        now = time.process_time()
        self.epochs.append(round(now - self._began, 1))
        self._began = now
        write_atomically(self._path, json.dumps(self.epochs).encode())
        print(f"{self._run}: {line}, {self.epochs[-1]} s", flush=True)


def judged(run: str, student: nn.Module, log: list[dict[str, float]], folder: Path) -> Student:
    """A student certified against its teacher, as onnxruntime executes it."""
    _, held_out = fashion.split(fashion.train())
    certificate: Certificate = certify(
        trained(TEACHER),
        as_executed(exported(run, student, folder)),
        fashion.test(),
        tolerance=0.01,
        looks=LOOKS,
    )
    return Student(
        run=run,
        accuracy=certificate.candidate.metric,
        held_out_accuracy=accuracy(student, held_out),
        drop=certificate.judgement.drop,
        upper_drop=certificate.judgement.upper,
        decision=certificate.decision.value,
        cpu_seconds=round(sum(epoch["cpu_seconds"] for epoch in log), 1),
        epochs=log,
    )


def line(student: Student) -> str:
    """A student as text."""
    quality = f"{student.accuracy:.2%}, {student.drop:+.2%}, at most {student.upper_drop:.2%} lost"
    return f"{student.run:7} {quality}: {student.decision}; {student.cpu_seconds:.0f} s of CPU"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "enxuto-migrate"
    )
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    students, nets = [], {}
    for run in RUNS:
        nets[run], log = learnt(run, folder)
        students.append(judged(run, nets[run], log, folder))
        print(line(students[-1]), flush=True)
    sizes = [size_of("squeezenet_style", squeezenet_style, nets[TAUGHT], folder)]
    sizes += [size_of(name, NETS[name], trained(name), folder) for name in NETS]
    for size in sizes:
        print(
            f"{size.net:16} {size.file:9,} B, {size.sgd / 2**20:6.1f} / {size.adamw / 2**20:6.1f} MiB",
            flush=True,
        )
    _keep(nets[TAUGHT], students, sizes)
    return 0 if students[0].decision == "accepted" else 1


def _keep(taught: nn.Module, students: list[Student], sizes: list[Size]) -> None:
    from safetensors.torch import save

    weights = {key: value.contiguous() for key, value in taught.state_dict().items()}
    write_atomically(WEIGHTS, save(weights))
    content = {
        "machine": machine(),
        "teacher": TEACHER,
        "looks": LOOKS,
        "settings": asdict(SETTINGS),
        "sizes": [asdict(size) for size in sizes],
        "students": [asdict(student) for student in students],
    }
    write_atomically(RESULT, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
