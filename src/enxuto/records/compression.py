"""Compressed: what a network became for deployment, every candidate on the way, and the certificate of the chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from . import codec, display
from .artefact import Flags, Quartiles
from .certificate import Certificate
from .recipe import Recipe


class Repair(Enum):
    """What is done to a network before its weights are rounded, cheapest first."""

    EQUALISE = "equalised"  # ranges of consecutive layers made alike
    CORRECT = "biases corrected"  # biases make up for rounded weights
    RECONSTRUCT = "rounding reconstructed"  # each layer rounded so that its output stays
    FINE_TUNE = "fine-tuned under rounding"


class CutKind(Enum):
    """How a network gets fewer numbers, and what is counted meanwhile."""

    PARAMETERS = "parameters"  # units are pruned until so many parameters are left
    MACS = "MACs"  # units are pruned until so many multiply-accumulates of one sample are left
    LOW_RANK = "low rank"  # large layers become two thin ones, until so many parameters are left


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One step of making a network smaller; the original teaches what is left of it.

    Attributes:
        kind: how.
        kept_ratio: what is left of what the kind counts, as a share of the original's.
    """

    kind: CutKind
    kept_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the artefact may take; 0 is no limit. Bytes, but for a ratio and a drop.

    Attributes:
        file: of the artefact.
        gzip: of the artefact compressed at level 9, as a download travels.
        ram: peak of its process above the runtime's own.
        latency_ratio: median time of a run as a multiple of the original's in the same runtime.
        max_drop: of the metric, in its units: 0.01 is one point of accuracy.
    """

    file: int = 0
    gzip: int = 0
    ram: int = 0
    latency_ratio: float = 0.0
    max_drop: float = 0.01

    @property
    def any(self) -> bool:
        """Whether anything but the drop is limited."""
        return bool(self.file or self.gzip or self.ram or self.latency_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a candidate is made from the original: these settings, the data and the seed give the same file.

    Attributes:
        cuts: one after the other; empty: the network is whole.
        repairs: in the order in which they are done.
        recipe: how each weight is stored and computed with.
    """

    cuts: tuple[Cut, ...]
    repairs: tuple[Repair, ...]
    recipe: Recipe

    @property
    def kept_ratio(self) -> float:
        """What the last cut left, as a share; 1: the network is whole."""
        return self.cuts[-1].kept_ratio if self.cuts else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One artefact, measured in its runtime; quality on the samples that choose.

    Attributes:
        settings: how it was made; None is the original, as the runtime takes it.
        parameters: numbers that it holds.
        file_bytes, gzip_bytes: of the artefact.
        weight_bytes: of its weights alone; the rest of the file is graph, scales and names.
        covered_ratio: share of the original's weight bytes that are quantized.
        ram_bytes: peak above the runtime's own; 0: not measured.
        latency: as a multiple of the original's; None: not measured.
        flags: the runtime's settings under which both hold.
        metric, drop, upper_drop: on the choosing samples; the last is a one-sided 95 % bound.
        agreement, kl: with the original's outputs there, without labels; None where outputs are no classes.
        refused: why it was not chosen; empty for the chosen one and the original.
        sha256: of the artefact.
    """

    settings: Settings | None
    parameters: int
    file_bytes: int
    gzip_bytes: int
    weight_bytes: int
    covered_ratio: float
    ram_bytes: int
    latency: Quartiles | None
    flags: Flags
    metric: float
    drop: float
    upper_drop: float
    agreement: float | None
    kl: float | None
    refused: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNeed:
    """A layer quantized alone: how far the outputs move, and the weights that this is paid for.

    `kl` is in nats; of outputs that are numbers and no classes, noise as a share of the signal.
    """

    layer: str
    weights: int
    kl: float


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """The answer of `compress`.

    Attributes:
        workload: what was compressed.
        runtime: where the artefact runs.
        limits: what was asked for.
        metric: its name.
        candidates: the original first, then in the order in which they were made.
        chosen: index of the artefact; -1 where nothing keeps the limits.
        certificate: of the chosen, on samples that chose nothing; None where nothing was chosen, or not certified.
        layers: by falling sensitivity.
        samples: how many calibrated, chose and certified.
        notes: what else has to be known.
        seconds: that the search took.
    """

    kind: ClassVar[str] = "compressed"
    version: ClassVar[int] = 1

    workload: str
    runtime: str
    limits: Limits
    metric: str
    candidates: tuple[Candidate, ...]
    chosen: int
    certificate: Certificate | None
    layers: tuple[LayerNeed, ...]
    samples: tuple[int, int, int]
    notes: tuple[str, ...]
    seconds: float

    @property
    def original(self) -> Candidate:
        """The network as it was, in the same runtime."""
        return self.candidates[0]

    @property
    def artefact(self) -> Candidate | None:
        """The chosen candidate."""
        return self.candidates[self.chosen] if self.chosen >= 0 else None

    @property
    def pareto(self) -> tuple[int, ...]:
        """Candidates (indices) that no other beats in both file size and drop, by rising size."""
        order = sorted(
            range(len(self.candidates)),
            key=lambda i: (self.candidates[i].file_bytes, self.candidates[i].drop),
        )
        best: list[int] = []
        for index in order:
            if not best or self.candidates[index].drop < self.candidates[best[-1]].drop:
                best.append(index)
        return tuple(best)

    def _repr_html_(self) -> str | None:
        return display.html(self)
