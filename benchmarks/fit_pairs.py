"""`fit` end to end on 24 pairs of net and budget, from generous to impossible: is every promise kept?

    python -m benchmarks.fit_pairs

Each net is fitted into a budget a little below its peak, halfway to the lowest peak that the planner knows, at that
peak, and at half of it, which nothing meets. A promise is kept when the measured peak of a real step, by torch's own
CPU allocator, is within the budget and within 0.5 % of the predicted one, and gradients (or updates) are what the
plan's numerics say. An impossible budget has to be named; its seconds are those of a search from nothing.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.cpu_truth import RESULTS, machine
from enxuto.fitting import Fit
from enxuto.records import Outcome, write_atomically
from enxuto.targets import resolve

TARGETS = (
    "zoo:gpt?batch=8&length=64",
    "zoo:vit_small?batch=4&size=64",
    "zoo:resnet18?batch=8&size=64",
    "zoo:unet?batch=4&size=64",
    "zoo:mobilenet_v2?batch=8&size=64",
    "zoo:lstm?batch=16",
)
WITHIN = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One pair: bytes asked for, promised and measured (0: nothing was run), and how it went."""

    target: str
    kind: str
    plain: int
    budget: int
    promised: int
    measured: int
    status: str
    levers: int
    seconds: float
    failed: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether what was said is so."""
        if self.kind == "impossible":
            return self.status == "infeasible"
        near = abs(self.measured - self.promised) <= WITHIN * self.promised
        return not self.failed and 0 < self.measured <= self.budget and near


def rows_of(target: str) -> list[Row]:
    """The four budgets of one net; the search before the first is timed with the impossible one."""
    began = time.monotonic()
    fitter = Fit(resolve(target))
    impossible = fitter.within(1, measure=False)
    searching = time.monotonic() - began
    plain, floor = impossible.plan.before.peak, impossible.plan.after.peak
    budgets = {
        "generous": max(plain * 95 // 100, floor),
        "middle": (plain + floor) // 2,
        "lowest": floor,
        "impossible": floor // 2,
    }
    return [_row(fitter, target, kind, budget, searching) for kind, budget in budgets.items()]


def _row(fitter: Fit, target: str, kind: str, budget: int, searching: float) -> Row:
    began = time.monotonic()
    fitted = fitter.within(budget, measure=kind != "impossible")
    took = time.monotonic() - began + (searching if kind == "impossible" else 0.0)
    plan, checks = fitted.plan, fitted.verdict.checks
    row = Row(
        target=target,
        kind=kind,
        plain=plan.before.peak,
        budget=budget,
        promised=plan.after.peak,
        measured=int(fitted.verdict["memory"].got) if kind != "impossible" and plan.fits else 0,
        status=plan.status.value,
        levers=len(plan.levers),
        seconds=round(took, 1),
        failed=tuple(check.name for check in checks if check.outcome is Outcome.FAILED),
    )
    print(_line(row), flush=True)
    return row


def _line(row: Row) -> str:
    mib = [f"{nbytes / 2**20:8.2f}" for nbytes in (row.plain, row.budget, row.promised, row.measured)]
    said = "kept" if row.kept else f"BROKEN {', '.join(row.failed)}"
    how = f"{row.status:11}{row.levers:3} levers{row.seconds:7.1f} s"
    return f"{row.target:34}{row.kind:11}{''.join(mib)}  {how}  {said}"


def main() -> int:
    print(f"{'MiB':34}{'budget':11}{'plain':>8}{'budget':>8}{'promise':>8}{'real':>8}")
    rows = [row for target in TARGETS for row in rows_of(target)]
    broken = sum(not row.kept for row in rows)
    print(f"{len(rows)} pairs, {broken} promises broken")
    content = {"machine": machine(), "broken": broken, "rows": [asdict(row) for row in rows]}
    write_atomically(RESULTS / "fit_pairs.json", (json.dumps(content, indent=1) + "\n").encode())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
