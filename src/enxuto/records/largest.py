"""LargestBatch: the largest batch size within a budget, with the traces that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import codec, display
from .timeline import Facts, World


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPeak:
    """The most bytes alive at once in any step of a trace at one batch size."""

    batch_size: int
    peak: int


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class LargestBatch:
    """The largest batch size whose traced peak is within a budget: peak <= budget < next_peak, in bytes.

    `batch_size` is 0 where no batch fits, and so is its `peak`. `next_size` is the size that was traced and does
    not fit: one more, or 2 where the work cannot run at 1 (`notes` says why). `predicted` is the peak that two
    smaller traces gave for `batch_size` before it was traced; None where they do not match. `fixed` and
    `per_item` are the line through the two traced peaks around the answer, or nearest to it. `facts` are those
    of the trace at `batch_size`, or at `next_size` where nothing fits; `traces` are all that were made.
    """

    kind: ClassVar[str] = "largest_batch"
    version: ClassVar[int] = 1

    world: World
    facts: Facts
    budget: int
    batch_size: int
    predicted: int | None
    peak: int
    next_size: int
    next_peak: int
    fixed: int
    per_item: int
    traces: tuple[TracedPeak, ...]
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether any batch is within the budget."""
        return self.batch_size > 0

    def to_json(self) -> bytes:
        """This LargestBatch as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> LargestBatch:
        """Read a LargestBatch; raises RecordError for anything else."""
        found: LargestBatch = codec.from_json(text, expect=cls)
        return found

    def _repr_html_(self) -> str | None:
        return display.html(self)
