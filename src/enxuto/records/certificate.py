"""Certificate: a candidate's quality beside the original's, with every number that the decision rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import msgspec

from ..errors import RecordError
from . import bounds, codec, display
from .verdict import Outcome


class Decision(Enum):
    """What the samples say about the drop."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDABLE = "undecidable"


class Counts(msgspec.Struct, frozen=True, kw_only=True, tag="counts"):
    """Samples that are right or wrong: of n, `hurt` only the original got right, `helped` only the candidate."""

    least: ClassVar[int] = 1

    n: int
    hurt: int
    helped: int

    @property
    def drop(self) -> float:
        """The share of samples lost."""
        return (self.hurt - self.helped) / self.n

    @property
    def discordance(self) -> float:
        """The share of samples on which the two differ in being right."""
        return (self.hurt + self.helped) / self.n

    def upper(self, error: float) -> float:
        """The largest true drop left possible, one-sided at `error`."""
        return bounds.upper_drop(self.hurt, self.helped, self.n, error)

    def lower(self, error: float) -> float:
        """The smallest true drop left possible, one-sided at `error`."""
        return -bounds.upper_drop(self.helped, self.hurt, self.n, error)

    def needed(self, drop: float, tolerance: float, error: float) -> int:
        """The samples that tell this true drop apart from the tolerance, at the discordance seen."""
        return bounds.needed_samples(self.discordance, tolerance, drop=drop, error=error)

    def check(self) -> None:
        """Raise a ValueError for counts that no n samples can have."""
        if self.n < 1 or min(self.hurt, self.helped) < 0 or self.hurt + self.helped > self.n:
            raise ValueError(f"{self.hurt} hurt and {self.helped} helped are no counts of {self.n} samples")


class Scores(msgspec.Struct, frozen=True, kw_only=True, tag="scores"):
    """Differences of n per-sample scores, "worse" positive: mean, standard deviation (n - 1), skewness (of n)."""

    least: ClassVar[int] = bounds.LEAST_SCORES

    n: int
    mean: float
    deviation: float
    skewness: float

    @property
    def drop(self) -> float:
        """The mean difference, in the metric's units."""
        return self.mean

    def upper(self, error: float) -> float:
        """The largest true mean difference left possible, one-sided at `error`."""
        return bounds.upper_mean(self.mean, self.deviation, self.skewness, self.n, error)

    def lower(self, error: float) -> float:
        """The smallest true mean difference left possible, one-sided at `error`."""
        return -bounds.upper_mean(-self.mean, self.deviation, -self.skewness, self.n, error)

    def needed(self, drop: float, tolerance: float, error: float) -> int:
        """The samples that tell this true drop apart from the tolerance, at the deviation seen."""
        return max(bounds.needed_scores(self.deviation, abs(tolerance - drop), error), self.n + 1)

    def check(self) -> None:
        """Raise a ValueError for moments that no n numbers can have."""
        finite = all(map(math.isfinite, (self.mean, self.deviation, self.skewness)))
        # the skewness of n numbers is at most (n - 2) / √(n - 1) (Kirby, Water Resources Research 10, 1974)
        if self.n < 2 or not finite or self.deviation < 0 or self.skewness**2 > self.n:
            raise ValueError(f"these are no moments of {self.n} differences")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from the evidence: the drop, its two one-sided bounds, the decision.

    Attributes:
        drop: as seen on the samples.
        lower, upper: each holds the true drop on its side, but for the error of the look.
        decision: ACCEPTED where `upper` is at most the tolerance; REJECTED where `lower` is above it; else, and
            with fewer samples than a bound takes, UNDECIDABLE.
        needed_n: where UNDECIDABLE, how many samples would accept (at 80 % power) a candidate as discordant as
            this one and without any drop; where there are that many already, how many would decide if the drop
            seen were the true one; None if that is the tolerance itself, which no number of samples decides.
    """

    drop: float
    lower: float
    upper: float
    decision: Decision
    needed_n: int | None = None


def judge(evidence: Counts | Scores, *, tolerance: float, error: float) -> Judgement:
    """The judgement that follows from the evidence, with one look's error. The same numbers give the same one."""
    upper, lower = evidence.upper(error), evidence.lower(error)
    if evidence.n < evidence.least:
        decision = Decision.UNDECIDABLE
    elif upper <= tolerance:
        decision = Decision.ACCEPTED
    else:
        decision = Decision.REJECTED if lower > tolerance else Decision.UNDECIDABLE
    undecided = decision is Decision.UNDECIDABLE
    return Judgement(
        drop=evidence.drop,
        lower=lower,
        upper=upper,
        decision=decision,
        needed_n=_needed(evidence, tolerance, error) if undecided else None,
    )


def _needed(evidence: Counts | Scores, tolerance: float, error: float) -> int | None:
    without_drop = evidence.needed(0.0, tolerance, error)
    if without_drop > evidence.n + 1:
        return without_drop
    return None if evidence.drop == tolerance else evidence.needed(evidence.drop, tolerance, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDrop:
    """One class's samples and its drop; a point estimate, certified of nothing by itself."""

    label: int
    n: int
    hurt: int
    helped: int

    @property
    def drop(self) -> float:
        """The share of this class's samples lost."""
        return (self.hurt - self.helped) / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One of the two models: its metric, and what was run to get it.

    Attributes:
        metric: mean of the per-sample scores.
        scores: SHA-256 of the per-sample scores, in the order of the samples.
        runtime: what executed it, with its version.
        files: names of the artefact's files; empty where it is a live object.
        sha256: of the files' bytes, one after the other.
        nbytes: of the files together.
    """

    metric: float
    scores: str
    runtime: str
    files: tuple[str, ...] = ()
    sha256: str = ""
    nbytes: int = 0


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Paired non-inferiority of a candidate: the same samples through both models, and the bound of the drop.

    Attributes:
        metric, higher_is_better: what was scored, and its direction.
        tolerance: the drop that is tolerated: a share for counts (0.01 is one point), else in the metric's units.
        confidence: of all looks at these samples together.
        look: which look at these samples this was, from 1; 0 where nobody counted beyond the number planned.
        planned: how many there were to be, fixed ahead; 0 if that was open. `error` follows from these three.
        evidence: what was counted; all of `judgement` follows from it.
        worst_class: the class that lost most, where samples are right or wrong and have a class.
        data: fingerprint of the samples.
        versions: of what ran, such as "torch 2.13.0".
    """

    kind: ClassVar[str] = "certificate"
    version: ClassVar[int] = 1

    metric: str
    higher_is_better: bool
    tolerance: float
    confidence: float
    look: int
    planned: int
    evidence: Counts | Scores
    judgement: Judgement
    original: Judged
    candidate: Judged
    data: str
    versions: tuple[str, ...] = ()
    worst_class: ClassDrop | None = None

    @property
    def decision(self) -> Decision:
        """ACCEPTED, REJECTED or UNDECIDABLE."""
        return self.judgement.decision

    @property
    def accepted(self) -> bool:
        """Whether the bound of the drop is within the tolerance."""
        return self.decision is Decision.ACCEPTED

    @property
    def error(self) -> float:
        """What this look may spend of 1 - confidence."""
        return bounds.error_of_look(1 - self.confidence, self.look, self.planned)

    def recompute(self) -> Judgement:
        """The judgement, computed again from the evidence alone.

        Raises:
            RecordError: the numbers contradict each other, or something else follows from them.
            MissingDependency: the evidence is of scores, and there is no scipy.
        """
        try:
            self._check()
        except ValueError as error:
            raise RecordError(f"this certificate contradicts itself: {error}") from None
        found = judge(self.evidence, tolerance=self.tolerance, error=self.error)
        if not _same(found, self.judgement):
            raise RecordError(
                f"this certificate does not follow from its own numbers: it says {_said(self.judgement)}, "
                f"and they give {_said(found)}"
            )
        return found

    def _check(self) -> None:
        self.evidence.check()
        if not (self.tolerance > 0 and 0 < self.confidence < 1):
            raise ValueError("its tolerance or confidence is out of range")
        if min(self.look, self.planned) < 0 or (self.look > self.planned if self.planned else self.look < 1):
            raise ValueError(f"it is look {self.look} of {self.planned}")
        lost = self.original.metric - self.candidate.metric
        lost = lost if self.higher_is_better else -lost
        if not math.isclose(lost, self.evidence.drop, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(f"the two metrics differ by {lost:.6g} and the drop is {self.evidence.drop:.6g}")
        if worst := self.worst_class:
            Counts(n=worst.n, hurt=worst.hurt, helped=worst.helped).check()

    def _repr_html_(self) -> str | None:
        return display.html(self)


def _same(found: Judgement, said: Judgement) -> bool:
    numbers = ((found.drop, said.drop), (found.lower, said.lower), (found.upper, said.upper))
    # another machine's square roots may differ in their last bits
    close = all(math.isclose(*pair, rel_tol=1e-9, abs_tol=1e-12) for pair in numbers)
    return close and found.decision is said.decision and found.needed_n == said.needed_n


def _said(judgement: Judgement) -> str:
    return f"{judgement.decision.value} with a drop of at most {judgement.upper:.6g}"


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """The looks that were taken at some samples, in their order; what a ledger keeps.

    Attributes:
        data: fingerprint of the samples.
        confidence, planned: as in `Certificate`, the same for every look.
        seen: what each look saw, as a hash of both models' scores. To see the same again is no further look.
    """

    kind: ClassVar[str] = "looks"
    version: ClassVar[int] = 1

    data: str
    confidence: float
    planned: int
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """One check of a certificate, and in a sentence what was found."""

    name: str
    outcome: Outcome
    found: str


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """A certificate that was looked at again: what still holds of it, what does not, and what was not checked."""

    kind: ClassVar[str] = "recheck"
    version: ClassVar[int] = 1

    certificate: Certificate
    checks: tuple[Rechecked, ...]

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome is not Outcome.FAILED for check in self.checks)

    def _repr_html_(self) -> str | None:
        return display.html(self)
