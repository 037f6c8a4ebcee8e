"""The CPU as a Device, and its rules for a Timeline of CPU tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil

from ..records import Allocator, Basis, Device, Figure, Timeline
from .scratch import ScratchTable, machine, needs_measuring, with_scratch


def cpu_device() -> Device:
    """This machine's CPU. Speeds are not measured yet and say so."""
    memory = psutil.virtual_memory()
    return Device(
        name=machine()["cpu"],
        usable=Figure(value=memory.available, unit="B", basis=Basis.MEASURED, source="available now, by the kernel"),
        context=Figure(value=0, unit="B", basis=Basis.ASSUMED, source="torch's libraries are not counted"),
        flops_per_second=Figure(value=0, unit="flop/s", basis=Basis.ASSUMED, source="not measured"),
        bytes_per_second=Figure(value=0, unit="B/s", basis=Basis.ASSUMED, source="not measured"),
        allocator=Allocator.HOST,
        rules=("kernel scratch by measured table", "outputs at the size real kernels give them"),
    )


def cpu_scratch(
    timelines: Sequence[Timeline],
    table: ScratchTable | None,
    *,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[Timeline]:
    """Timelines with the CPU's kernel scratch and corrected outputs.

    Args:
        timelines: steps of one trace; they share their signatures.
        table: where scratch is looked up; None is this machine's own.
        calibrate: measure what the table lacks; else such calls count 0 and `facts.scratch` says so.
        progress: called with a line of text now and then.
    """
    table = ScratchTable.of_this_machine() if table is None else table
    signatures = dict.fromkeys(s for timeline in timelines for s in timeline.signatures)
    missing = table.missing(filter(needs_measuring, signatures))
    if missing and calibrate:
        say = progress or (lambda line: None)
        total = len(missing)
        say(f"measuring kernel scratch once for this machine: {total} op calls")
        table.measure(missing, lambda done: say(f"measuring kernel scratch: {done} of {total} op calls"))
    described = [with_scratch(timeline, table) for timeline in timelines]
    if calibrate or not missing:
        return described
    assumed = "assumed 0" if not table.rows else "partly assumed"
    return [replace(t, facts=replace(t.facts, scratch=assumed)) for t in described]
