"""Verdict: what a plan promised beside what was measured; nothing is missing, "not checked" is a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from . import codec, display
from .plan import Plan


class Outcome(Enum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise: what was expected, what was found, how far they may differ, and how it was found out.

    `expected` and `got` are in `unit` ("B", "relative error", "ratio"); `how` says what was run.
    """

    name: str
    expected: float
    got: float
    tolerance: float
    unit: str
    outcome: Outcome
    how: str


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The checks of an applied plan: memory, gradients, buffers, undo, cap, speed."""

    kind: ClassVar[str] = "verdict"
    version: ClassVar[int] = 1

    workload: str
    torch: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed, and at least one was made."""
        outcomes = {check.outcome for check in self.checks}
        return Outcome.FAILED not in outcomes and Outcome.PASSED in outcomes

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def _repr_html_(self) -> str | None:
        return display.html(self)


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A plan and its verdict, with the curves of the step before and after, sampled for drawing.

    `before_curve` and `after_curve` are bytes alive at equally spaced instants of the two steps.
    """

    kind: ClassVar[str] = "fitted"
    version: ClassVar[int] = 1

    plan: Plan
    verdict: Verdict
    before_curve: tuple[int, ...] = ()
    after_curve: tuple[int, ...] = ()

    def _repr_html_(self) -> str | None:
        return display.html(self)
