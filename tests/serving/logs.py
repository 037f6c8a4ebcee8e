"""Logs of runs that never were, written by the writer of real ones."""

from __future__ import annotations

from pathlib import Path

from enxuto.records import (
    Category,
    Cause,
    Ending,
    How,
    RecordedStep,
    Share,
    Source,
    Step,
    StepKind,
)
from enxuto.records.log import LogWriter, Rows

MIB = 2**20
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Log:
    """A log that grows."""

    def __init__(self, folder: Path, *, name: str = "train.py", budget: int = 0) -> None:
        self.folder = folder
        source = Source(name=name, torch="2.13", budget=budget, began=1_700_000_000.0)
        self.writer = LogWriter(folder, source, print)
        self.rows = Rows()
        self.steps = 0

    def step(self, peak: int, host: int, workers: int = 0) -> None:
        self.steps += 1
        row = Step(
            step=self.steps,
            covers=1,
            kind=StepKind.UPDATE,
            seconds=0.1,
            peak=peak,
            peak_how=How.RECORDED,
            host=host,
            host_peak=host,
            workers=workers,
        )
        self.writer.step(row)
        if self.rows.add(row):
            self.writer.thin(self.rows)

    def recorded(self, peak: int) -> None:
        shares = (
            Share(category=Category.PARAMETER, nbytes=peak // 4, blocks=2),
            Share(category=Category.SAVED_ACTIVATION, nbytes=peak - peak // 4, blocks=9),
        )
        step = RecordedStep(
            step=1,
            kind=StepKind.UPDATE,
            signature=0,
            seconds=0.1,
            cost=0.1,
            peak=peak,
            end=1,
            shares=shares,
            phases=(),
        )
        self.writer.event("recorded", step)

    def cause(self, evidence: str) -> None:
        self.writer.event(
            "cause", Cause(id="M03", evidence=evidence, fix="keep numbers: losses.append(loss.item())")
        )

    def end(self) -> None:
        self.writer.end(Ending.FINISHED, "", 12.5)
        self.writer.close()


def a_run(folder: Path, steps: int = 30) -> Log:
    """A run with a leak, a budget and a hostile name, which still goes on."""
    log = Log(folder, name=HOSTILE, budget=900 * MIB)
    for number in range(1, steps + 1):
        log.step(500 * MIB + number * 7_654_321, 700 * MIB + number * 8_000_123, workers=number % 2 * 3 * MIB)
    log.recorded(507 * MIB)
    log.cause(f"losses grows by 7.3 MiB a step {HOSTILE}")
    return log
