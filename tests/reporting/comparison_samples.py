"""Comparisons made by hand, for the tests of how they are drawn."""

from __future__ import annotations

from enxuto.comparing.dominance import with_dominated
from enxuto.records import (
    Basis,
    ComparedNet,
    Comparison,
    Figure,
    NetFigures,
    Published,
    Quartiles,
    RuntimeFigures,
    Scenario,
)

MIB = 2**20
HOSTILE = "<script>alert(1)</script>[red]\x1b[31m"


def figures(training: int, *, file: int = 4, largest: int | None = None) -> NetFigures:
    """Figures in MiB, the rest in proportion."""
    return NetFigures(
        parameters=file * MIB // 4,
        file_bytes=file * MIB,
        int8_bytes=file * MIB // 4,
        macs=10**8 * file,
        inference_peak=(file + 3) * MIB,
        folded_peak=(file + 2) * MIB,
        inference_seconds=0.001 * file,
        training_peak=training * MIB,
        saved_per_item=MIB,
        largest_batch=largest,
    )


def net(target: str, training: int, top1: float | None = None, *, file: int = 4) -> ComparedNet:
    """A row, with a published accuracy where one is given."""
    known = None
    if top1 is not None:
        known = Published(top1=top1, weights=f"weights of {target}", source="https://example.org/weights")
    return ComparedNet(
        target=target, figures=figures(training, file=file), published=known, latency_ratio=file / 4
    )


def comparison(
    *nets: ComparedNet,
    scenario: Scenario = Scenario.TRAINING,
    own: str = "",
    budget: int | None = None,
) -> Comparison:
    """The rows in the order given, dominated ones marked."""
    speed = Figure(value=3e10, unit="flop/s", basis=Basis.MEASURED, source="a product")
    return Comparison(
        scenario=scenario,
        batch=8,
        inference_batch=1,
        size=96,
        classes=10,
        optimizer="sgd",
        budget=budget,
        reference=nets[0].target,
        nets=with_dominated(nets, scenario),
        torch="2.13.0",
        machine="a CPU",
        speeds=(speed,),
        own=own,
    )


def usual() -> Comparison:
    """Two nets on the front, one behind, one that failed with a hostile text."""
    return comparison(
        net("zoo:small", 32, 58.0),
        net("zoo:middle", 48, 69.0, file=9),
        net("zoo:worse", 52, 67.0, file=10),
        ComparedNet(target=f"file.py:{HOSTILE}", failed=f"no such net {HOSTILE}"),
    )


def in_runtime() -> RuntimeFigures:
    """What a runtime took."""
    ratio = Quartiles(lower=0.9, median=1.25, upper=1.5, runs=30)
    return RuntimeFigures(
        runtime="onnxruntime", file_bytes=MIB, predicted_ram=9 * MIB, ram=10 * MIB, latency_ratio=ratio
    )
