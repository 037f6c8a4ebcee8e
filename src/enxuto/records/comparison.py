"""Comparison: nets side by side in one scenario of the user's own, and which of them no other beats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from . import codec, display
from .artefact import Quartiles
from .device import Figure


class Scenario(Enum):
    """What a net is wanted for, which decides what is small."""

    FILE = "file"
    INFERENCE_RAM = "inference-ram"
    TRAINING = "training"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Top-1 accuracy on ImageNet-1k in percent, of weights that were published; `source` is a URL."""

    top1: float
    weights: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetFigures:
    """What a net takes; predicted, since nothing ran.

    Attributes:
        parameters: how many numbers are trained or could be.
        file_bytes: of its state dict as it is.
        int8_bytes: of a file with batch norms folded, weights of linear layers and convolutions in int8 with a
            scale of 4 B for each output channel, biases in 4 B, the rest as it is. Graph and names are not in it.
        macs: multiply-adds of one sample's forward.
        inference_peak: the most bytes alive at once in eager inference, weights, inputs and scratch included.
        folded_peak: the same with batch norms folded; None where it is not known what follows what.
        inference_seconds: of one forward, by the time model; only ratios of it mean anything.
        training_peak: the most bytes alive at once in any step at the batch size; None without an optimizer.
        saved_per_item: bytes kept for the backward for each further sample of a batch.
        largest_batch: the largest whose traced peak is within the budget; 0 where none is, None where not asked.
        scratch: how far kernel scratch is measured, as in `Facts.scratch`.
        notes: what else has to be known of these figures.
    """

    parameters: int
    file_bytes: int
    int8_bytes: int
    macs: int
    inference_peak: int
    folded_peak: int | None
    inference_seconds: float
    training_peak: int | None = None
    saved_per_item: int | None = None
    largest_batch: int | None = None
    scratch: str = "measured"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFigures:
    """A net in a runtime: the file and memory above the runtime's own, predicted and measured; latency measured.

    `latency_ratio` is a multiple of the comparison's reference, over interleaved pairs of runs.
    """

    runtime: str
    file_bytes: int
    predicted_ram: int
    ram: int
    latency_ratio: Quartiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedNet:
    """A row: a net's figures, or in `failed` why there are none.

    `latency_ratio` is predicted, as a multiple of the comparison's reference. `dominated_by` is the TARGET of a net
    that is at least as good in everything that was compared and better in something, "" where there is none.
    """

    target: str
    figures: NetFigures | None = None
    failed: str = ""
    latency_ratio: float | None = None
    measured: RuntimeFigures | None = None
    published: Published | None = None
    dominated_by: str = ""


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Nets sorted by what the scenario asks for, the smallest first; those that failed stand last.

    Attributes:
        scenario: what they are sorted by.
        batch: samples of a training step.
        inference_batch: samples of a forward.
        size, classes, optimizer: as asked for; None is each net's own.
        budget: bytes, or None.
        reference: the TARGET whose latency is 1; "" where every net failed.
        own: the user's own net, where others are suggested beside it.
        nets: the rows.
        torch: its version.
        machine: the CPU that kernel scratch belongs to.
        speeds: what the time model rests on: flop/s, then bytes/s.
        notes: what else has to be known.
    """

    kind: ClassVar[str] = "comparison"
    version: ClassVar[int] = 1

    scenario: Scenario
    batch: int
    inference_batch: int
    size: int | None
    classes: int | None
    optimizer: str | None
    budget: int | None
    reference: str
    nets: tuple[ComparedNet, ...]
    torch: str
    machine: str
    speeds: tuple[Figure, ...] = ()
    own: str = ""
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> tuple[ComparedNet, ...]:
        """The nets that no other dominates."""
        return tuple(net for net in self.nets if net.figures and not net.dominated_by)

    def needs(self, net: ComparedNet) -> float | None:
        """What the scenario asks for, in bytes or as a ratio; None where it is not known."""
        return needs(self.scenario, net)

    def fits(self, net: ComparedNet) -> bool | None:
        """Whether what the scenario asks for is within the budget; None without one, or where it has no bytes."""
        needed = self.needs(net)
        if self.budget is None or needed is None or self.scenario is Scenario.LATENCY:
            return None
        return needed <= self.budget

    def to_json(self) -> bytes:
        """This Comparison as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Comparison:
        """Read a Comparison; raises RecordError for anything else."""
        found: Comparison = codec.from_json(text, expect=cls)
        return found

    def _repr_html_(self) -> str | None:
        return display.html(self)


def needs(scenario: Scenario, net: ComparedNet) -> float | None:
    """What a scenario asks of a net: bytes, or a latency ratio, measured where it was; None where not known."""
    figures = net.figures
    if figures is None:
        return None
    if scenario is Scenario.LATENCY:
        return net.measured.latency_ratio.median if net.measured else net.latency_ratio
    by_scenario: dict[Scenario, int | None] = {
        Scenario.FILE: figures.file_bytes,
        Scenario.INFERENCE_RAM: figures.inference_peak,
        Scenario.TRAINING: figures.training_peak,
    }
    return by_scenario[scenario]
