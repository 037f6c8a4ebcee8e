"""Explanation: the receipt of a peak, and the difference of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import codec, display
from .timeline import Category, Facts, Phase, PhaseSpan, Site, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Bytes of one category at the peak, in how many blocks."""

    category: Category
    nbytes: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShare:
    """Bytes of one module at the peak in one category; the path is empty outside every module."""

    module: str
    category: Category
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A group of blocks alive at the peak that share module, source line and reason."""

    module: str
    category: Category
    op: str
    site: Site | None
    nbytes: int
    blocks: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShare:
    """Bytes at the peak that one line of the user's source allocated."""

    site: Site
    nbytes: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """When the peak is reached: tick, phase, the op running, its module, source line and autograd node."""

    tick: int
    phase: Phase
    op: str
    module: str
    node: str
    site: Site | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryCurve:
    """Bytes alive by category at the sampled ticks of a `CurveSample`."""

    category: Category
    nbytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSample:
    """The memory curve at chosen ticks (the peak and every bucket's maximum among them), with what ran there."""

    ticks: tuple[int, ...]
    categories: tuple[CategoryCurve, ...]
    labels: tuple[str, ...]  # op, module and source line, one per tick
    phases: tuple[PhaseSpan, ...]
    total_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Advice that was computed on this trace: what, and the bytes that it is about."""

    id: str
    text: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The peak of the same work under another condition, traced the same way."""

    label: str
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Bytes that one module keeps at the end of a generation, and what each further token adds."""

    module: str
    nbytes: int
    per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """Work of one phase: ops run, floating-point operations, the highest memory reached in it."""

    phase: Phase
    ops: int
    flops: int
    peak: int


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where the bytes at the peak are, who owns them and why they are alive: Σ shares + unexplained = peak."""

    kind: ClassVar[str] = "explanation"
    version: ClassVar[int] = 1

    world: World
    facts: Facts
    peak: int
    instant: Instant
    shares: tuple[Share, ...]
    unexplained: int
    modules: tuple[ModuleShare, ...]
    sites: tuple[SiteShare, ...]
    owners: tuple[Owner, ...]
    phases: tuple[PhaseCost, ...]
    curve: CurveSample
    alternatives: tuple[Alternative, ...] = ()
    growth: tuple[Growth, ...] = ()
    findings: tuple[Finding, ...] = ()

    def share(self, category: Category) -> int:
        """Bytes of a category at the peak."""
        return sum(share.nbytes for share in self.shares if share.category is category)

    def to_json(self) -> bytes:
        """This Explanation as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Explanation:
        """Read an Explanation; raises RecordError for anything else."""
        explanation: Explanation = codec.from_json(text, expect=cls)
        return explanation

    def _repr_html_(self) -> str | None:
        return display.html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of a difference: bytes at the peak before and after."""

    label: str
    before: int
    after: int


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two Explanations compared: the peaks, and the rows by category and by module that changed."""

    kind: ClassVar[str] = "difference"
    version: ClassVar[int] = 1

    before: str
    after: str
    peak: Change
    categories: tuple[Change, ...]
    modules: tuple[Change, ...]

    def to_json(self) -> bytes:
        """This Difference as versioned JSON."""
        return codec.to_json(self)

    def _repr_html_(self) -> str | None:
        return display.html(self)
