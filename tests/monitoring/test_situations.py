"""Each situation: a failing script that is diagnosed, its fixed twin that is silent; the page that explains it.

Where a situation needs a GPU, time or workers that grow for minutes, a synthetic record stands for the script.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from enxuto.monitoring import SITUATIONS, diagnose
from enxuto.monitoring.datasets import kept_objects
from enxuto.records import UNKNOWN, Failure, ModelFacts, Recording, Source, Step, StepKind, Steps
from tests.monitoring.watched import SCRIPTS, run_script, run_watched

SYNTHETIC = ("M07", "M08", "M12", "M18")
RUN = sorted(set(SITUATIONS) - set(SYNTHETIC))

MIB = 2**20


@pytest.mark.parametrize("situation", RUN)
def test_the_failing_script_is_diagnosed(situation: str) -> None:
    seen = run_script(f"{situation.lower()}_bad")
    ids = [cause.id for cause in seen.recording.causes]
    assert situation in ids
    assert [each for each in seen.said if "stopped watching" in each] == []


@pytest.mark.parametrize("situation", RUN)
def test_its_fixed_twin_is_silent(situation: str) -> None:
    seen = run_script(f"{situation.lower()}_good")
    assert seen.recording.causes == ()
    assert seen.error == ""
    assert seen.said == ()


def test_every_situation_has_its_pair() -> None:
    files = {path.stem for path in SCRIPTS.glob("*.py")}
    assert files == {f"{id.lower()}_{which}" for id in RUN for which in ("bad", "good")}
    assert [f"M{number:02}" for number in range(1, 21)] == list(SITUATIONS)


def test_what_a_script_tells_in_detail() -> None:
    cause = run_script("m03_bad").recording.causes[0]
    assert cause.owner == "val_hist"
    assert cause.site is not None
    assert (cause.site.file, cause.site.line) == ("tests/monitoring/scripts/m03_bad.py", 16)
    # what the graph of one loss keeps: the batch (32×64), the ReLU's result (32×128), the log-softmax (32×10),
    # the targets (8 B each), the sum of the weights (4 B); and the loss itself
    assert cause.per_step == 4 * 32 * (64 + 128 + 10) + 8 * 32 + 4 + 4


def recording(**parts: object) -> Recording:
    """A run without anything, but for these parts."""
    empty = Recording(source=Source(name="train.py", torch="2"), steps=Steps.of([]))
    return replace(empty, **parts)


def failure(**parts: int) -> Failure:
    """A refused allocation of 512 MiB on a device of 16 GiB with 12 GiB live."""
    usual = {
        "asked": 512 * MIB,
        "alive": 12 * 1024 * MIB,
        "reserved": 15 * 1024 * MIB,
        "free": 100 * MIB,
        "largest": 180 * MIB,
        "pieces": 311,
        "device": 16 * 1024 * MIB,
        "driver": 15 * 1024 * MIB + 500 * MIB,
        "context": 500 * MIB,
    }
    return Failure(
        step=9, updates=8, kind=StepKind.UPDATE, message="CUDA out of memory", **{**usual, **parts}
    )


def ids(made: Recording) -> list[str]:
    return [cause.id for cause in diagnose(made).causes]


def test_fragmentation_is_told_from_too_little() -> None:
    assert ids(recording(failures=(failure(),))) == ["M07"]
    assert ids(recording(failures=(failure(largest=600 * MIB),))) == []
    assert ids(recording(failures=(failure(alive=15 * 1024 * MIB - 300 * MIB),))) == []


def test_other_processes_on_the_device() -> None:
    crowded = failure(driver=16 * 1024 * MIB, reserved=9 * 1024 * MIB, alive=9 * 1024 * MIB)
    found = diagnose(recording(failures=(crowded,))).causes
    assert [cause.id for cause in found] == ["M08"]
    assert found[0].frees == 7 * 1024 * MIB - 500 * MIB
    alone = failure(driver=9 * 1024 * MIB + 500 * MIB, reserved=9 * 1024 * MIB, alive=9 * 1024 * MIB)
    assert ids(recording(failures=(alone,))) == []


def workers(levels: list[int]) -> Recording:
    rows = [
        Step(step=n, covers=1, kind=StepKind.UPDATE, seconds=1.0, workers=level)
        for n, level in enumerate(levels, 1)
    ]
    return recording(steps=Steps.of(rows))


def test_workers_that_grow() -> None:
    found = diagnose(workers([400 * MIB + 5 * MIB * n for n in range(60)])).causes
    assert [cause.id for cause in found] == ["M12"]
    assert found[0].per_step == 5 * MIB
    assert ids(workers([400 * MIB + min(n, 8) * 20 * MIB for n in range(60)])) == []  # they start, then stay
    assert ids(workers([400 * MIB + 40 * MIB * (n // 10) for n in range(60)])) == [
        "M12"
    ]  # asked now and then
    assert ids(workers([400 * MIB + 90 * MIB * (n // 30) for n in range(60)])) == []  # one jump
    assert ids(workers([400 * MIB + n * MIB for n in range(60)])) == []  # copies of the parent's pages
    assert ids(workers([400 * MIB + (n % 7) * 5 * MIB for n in range(60)])) == []


class Samples(Dataset):
    """Points, as Python objects or as one array."""

    def __init__(self, samples: object) -> None:
        self.samples = samples
        self.names = ["x", "y"]

    def __len__(self) -> int:
        return 40_000


def test_workers_that_copy_python_objects() -> None:
    samples = [{"x": i / 7, "y": i % 10} for i in range(40_000)]
    loaders = [
        DataLoader(ConcatDataset([Samples(samples)]), num_workers=2),
        DataLoader(Samples([0] * 5_000)),  # no workers: nobody copies
        DataLoader(Samples(np.zeros((40_000, 2))), num_workers=2),
    ]
    objects = kept_objects()
    del loaders
    assert [(each.owner, each.container, each.element, each.count) for each in objects] == [
        ("Samples.samples", "list", "dict", 40_000)
    ]
    assert objects[0].nbytes == pytest.approx(
        sys.getsizeof(samples) + sum(map(_python_bytes, samples)), rel=0.01
    )
    slow = workers([400 * MIB + MIB * n // 12 for n in range(60)])
    assert ids(slow) == []
    (cause,) = diagnose(replace(slow, objects=objects)).causes
    assert (cause.id, cause.owner) == ("M12", "Samples.samples")
    assert ids(replace(workers([400 * MIB + MIB * min(n, 8) for n in range(60)]), objects=objects)) == []


def _python_bytes(sample: dict[str, float]) -> int:
    return sys.getsizeof(sample) + sum(map(sys.getsizeof, (*sample.keys(), *sample.values())))


@pytest.mark.parametrize(("seconds", "found"), [(3.0, ["M18"]), (1.1, []), (0.4, [])])
def test_a_quantized_model_that_is_slower(seconds: float, found: list[str]) -> None:
    usual = ModelFacts(name="Net", nbytes=100, elements=25, calls=10, seconds=1.0)
    small = ModelFacts(
        name="Net#2",
        nbytes=25,
        elements=0,
        quantized=25,
        calls=10,
        seconds=seconds,
        compared=640,
        agreed=640,
        twin="Net",
    )
    assert ids(recording(models=(usual, small))) == found


HEAD = """
import copy, io
import torch
from torch import nn
torch.manual_seed(0)
def train(net, optimizer, size, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = net(torch.randn(size, 64))
        (hidden[-1] if isinstance(hidden, list) else hidden.exp()).mean().backward()
        optimizer.step()
        TIDY
def fresh():
    net = nn.Linear(64, 1024)
    return net, torch.optim.Adam(net.parameters(), fused=True)
class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
    def forward(self, x):
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]).tanh())
        return outputs
"""

#: The situation, who holds the bytes, the budget, and what is to be replaced in which script to mend it.
PAIRS = {
    "outputs of step 1 in step 2": (
        ("M02", "hidden", "1600 KiB", "TIDY", "del hidden"),
        "net = Outputs(); train(net, torch.optim.SGD(net.parameters()), 512, 3)",
    ),
    "a trial of one step": (
        ("M09", "", "4700 KiB", "256, 1)", "256, 3)"),
        "train(*fresh(), 64, 1); train(*fresh(), 256, 1); train(*fresh(), 256, 4)",
    ),
    "a retry that says what it holds": (
        ("M10", "hidden", "6 MiB", "    train(*fresh(), 32, 2)", "    pass\ntrain(*fresh(), 32, 2)"),
        "try:\n    train(*fresh(), 1024, 1)\nexcept MemoryError:\n    train(*fresh(), 32, 2)",
    ),
    "weights that were loaded": (
        ("M11", "start", "1 GiB", "torch.load(file)", "copy.deepcopy(net.state_dict())"),
        "net, optimizer = fresh(); file = io.BytesIO(); torch.save(net.state_dict(), file); file.seek(0)\n"
        "start = torch.load(file); net.load_state_dict(start); train(net, optimizer, 32, 3)",
    ),
}


@pytest.mark.parametrize("shows", PAIRS)
def test_other_ways_into_a_situation(shows: str) -> None:
    (id, owner, budget, wrong, right), body = PAIRS[shows]
    source = HEAD + body
    assert wrong in source
    bad = run_watched(source.replace("TIDY", "pass"), "/nowhere/pair.py", budget=budget)
    assert [(cause.id, cause.owner) for cause in bad.recording.causes][:1] == [(id, owner)]
    mended = source.replace(wrong, right).replace("TIDY", "pass")
    good = run_watched(mended, "/nowhere/pair.py", budget=budget)
    assert [cause.id for cause in good.recording.causes if cause.id == id] == []


def test_nothing_is_left_in_the_registry_of_what_loads() -> None:
    before = list(torch.serialization._package_registry)
    run_watched(HEAD.replace("TIDY", "pass") + "train(*fresh(), 8, 1)", "/nowhere/pair.py")
    assert torch.serialization._package_registry == before


def test_nothing_is_said_of_a_run_without_anything() -> None:
    diagnosis = diagnose(recording())
    assert diagnosis.causes == ()
    assert diagnosis.silent == tuple(SITUATIONS)
    assert recording().peak == UNKNOWN
