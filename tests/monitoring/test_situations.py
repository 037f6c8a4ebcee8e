"""Each situation: a failing script that is diagnosed, its fixed twin that is silent; the page that explains it.

Where a situation needs a GPU, time or workers that grow for minutes, a synthetic record stands for the script.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from enxuto.monitoring import SITUATIONS, diagnose
from enxuto.records import UNKNOWN, Failure, ModelFacts, Recording, Source, Step, StepKind, Steps
from tests.monitoring.watched import SCRIPTS, run_script

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
    found = diagnose(workers([400 * MIB + 3 * MIB * n for n in range(60)])).causes
    assert [cause.id for cause in found] == ["M12"]
    assert found[0].per_step == 3 * MIB
    assert ids(workers([400 * MIB + min(n, 8) * 20 * MIB for n in range(60)])) == []  # they start, then stay
    assert ids(workers([400 * MIB + (n % 7) * 5 * MIB for n in range(60)])) == []


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


def test_nothing_is_said_of_a_run_without_anything() -> None:
    diagnosis = diagnose(recording())
    assert diagnosis.causes == ()
    assert diagnosis.silent == tuple(SITUATIONS)
    assert recording().peak == UNKNOWN
