"""Coverage: which bytes of a stored network were quantized, which were not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from . import codec


class CoverageKind(Enum):
    """What a stored tensor is, and so why it has the bits that it has."""

    QUANTIZED = "quantized"  # a weight in fewer bits
    SCALE = "scale"  # scales and zero points of quantized weights and activations
    BIAS = "bias"  # added once for each output: few bytes, and its error is not averaged out
    NORM = "norm"  # scale, shift and statistics of a norm
    INDEX = "index"  # integers that are no weights: shapes, axes
    EXCLUDED = "excluded"  # the recipe keeps this node as it is
    SMALL = "small"  # too few elements to be worth a scale and a node
    UNSUPPORTED = "unsupported"  # no recipe quantizes what reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRow:
    """One stored tensor: its bytes, how many values they hold in how many bits, and what they are."""

    name: str
    op: str
    kind: CoverageKind
    bits: int
    elements: int
    nbytes: int


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Every stored tensor of a file; `weight_bytes + overhead_bytes == file_bytes`, to the byte."""

    kind: ClassVar[str] = "coverage"
    version: ClassVar[int] = 1

    rows: tuple[CoverageRow, ...]
    file_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(row.nbytes for row in self.rows)

    @property
    def overhead_bytes(self) -> int:
        """What the file holds beside tensors: nodes, names, shapes, metadata."""
        return self.file_bytes - self.weight_bytes

    @property
    def quantized_ratio(self) -> float:
        """The share of weight values (not scales, not indices) that is stored in fewer bits."""
        weights = [row for row in self.rows if row.kind not in (CoverageKind.SCALE, CoverageKind.INDEX)]
        total = sum(row.elements for row in weights)
        return (
            sum(row.elements for row in weights if row.kind is CoverageKind.QUANTIZED) / total
            if total
            else 0.0
        )

    def bytes_of(self, kind: CoverageKind) -> int:
        """Bytes of the tensors of one kind; over all kinds they sum to `weight_bytes`."""
        return sum(row.nbytes for row in self.rows if row.kind is kind)

    def to_json(self) -> bytes:
        """This coverage as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Coverage:
        """Read a coverage; raises RecordError for anything else."""
        coverage: Coverage = codec.from_json(text, expect=cls)
        return coverage
