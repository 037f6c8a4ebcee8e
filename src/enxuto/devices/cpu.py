"""The CPU as a Device, and what its kernels take besides the tensors that a trace sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from ..records import Allocator, Basis, Device, Figure
from .calibration import OpMemory
from .scratch import ScratchTable, machine, needs_measuring
from .speeds import cpu_speeds


def cpu_device(*, measure: bool = False) -> Device:
    """This machine's CPU; with `measure`, its speeds are measured where they are not known yet."""
    memory = psutil.virtual_memory()
    flops, moved = cpu_speeds(measure=measure)
    return Device(
        name=machine()["cpu"],
        usable=Figure(
            value=memory.available, unit="B", basis=Basis.MEASURED, source="available now, by the kernel"
        ),
        context=Figure(value=0, unit="B", basis=Basis.ASSUMED, source="torch's libraries are not counted"),
        flops_per_second=flops,
        bytes_per_second=moved,
        allocator=Allocator.HOST,
        rules=("kernel scratch by measured table", "outputs at the size real kernels give them"),
    )


@dataclass(frozen=True, slots=True)
class OpMemories:
    """What the ops of a trace take beside their visible outputs; `unknown` calls could not be measured."""

    of_signature: tuple[OpMemory | None, ...]
    unknown: int

    @property
    def basis(self) -> str:
        """How far the figures are measured, in the words of `Facts.scratch`."""
        if not self.unknown:
            return "measured"
        return "partly assumed" if any(self.of_signature) else "assumed 0"


def cpu_op_memories(
    signatures: Sequence[str],
    table: ScratchTable | None = None,
    *,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> OpMemories:
    """Kernel scratch and true output sizes of op calls on this CPU.

    Args:
        signatures: the op calls of a trace.
        table: where they are looked up; None is this machine's own table.
        calibrate: measure what the table lacks; else such calls are unknown and count as 0.
        progress: called with a line of text now and then.
    """
    table = ScratchTable.of_this_machine() if table is None else table
    wanted = [needs_measuring(signature) for signature in signatures]
    missing = table.missing(s for s, want in zip(signatures, wanted, strict=True) if want)
    if missing and calibrate:
        say = progress or (lambda line: None)
        total = len(missing)
        say(f"measuring kernel scratch once for this machine: {total} op calls")
        table.measure(missing, lambda done: say(f"measuring kernel scratch: {done} of {total} op calls"))
    rows = tuple(table.look_up(s) if want else None for s, want in zip(signatures, wanted, strict=True))
    unknown = sum(want and row is None for want, row in zip(wanted, rows, strict=True))
    return OpMemories(rows, unknown)
