"""Plans, verdicts and fitted runs built by hand: every status, every kind of action, hostile names."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from enxuto.records import (
    Action,
    Budget,
    Check,
    Checkpoint,
    Cost,
    EarlyRelease,
    Fitted,
    FrontierPoint,
    HostAllocator,
    InferenceMode,
    Lever,
    MicroBatches,
    Numerics,
    OneKernelStep,
    OptimizerInBackward,
    Outcome,
    Plan,
    Refusal,
    SmallerBatch,
    Status,
    Verdict,
)
from tests.reporting.samples import ESCAPE, HANDLER, HOSTILE, MARKUP, SCRIPT

MIB = 2**20
PLAIN = Cost(peak=3400 * MIB, flops=4_089_000_000_000, seconds=0.42)


def block(index: int) -> Checkpoint:
    """One block that runs again but for its products."""
    return Checkpoint(modules=(f"h.{index}",), keep=(0, 1, 2, 3))


def optimal() -> Plan:
    """A GPT that fits after eleven levers; nine of them are alike. The frontier has twenty points."""
    blocks = [(block(index), Numerics.IDENTICAL, 100, 1.01) for index in range(3, 12)]
    steps: list[tuple[Action, Numerics, int, float]] = [
        (OneKernelStep(), Numerics.ROUNDING, 474, 1.0),
        *blocks,
        (MicroBatches(pieces=2), Numerics.ROUNDING, 212, 1.06),
    ]
    levers = chain(steps, PLAIN.peak)
    after = levers[-1].peak_after
    slowdown = math.prod(lever.slowdown_ratio for lever in levers)
    plan = Plan(
        workload="gpt2, batch size 8, AdamW",
        torch="2.13.0+cpu",
        budget=Budget(bytes=2048 * MIB, max_slowdown_ratio=1.5, fixed=("smaller-batch",)),
        status=Status.OPTIMAL,
        before=PLAIN,
        after=Cost(peak=after, flops=4_500_000_000_000, seconds=PLAIN.seconds * slowdown),
        levers=levers,
        refused=(
            Refusal(lever="offload", reason="copies take ×2.40 of a step, the budget allows ×1.50"),
            Refusal(lever="optimizer-in-backward", reason="gradients are clipped by their norm"),
            Refusal(lever="smaller-batch", reason="fixed by the budget"),
        ),
        frontier=(),
        floor_holds=(),
        solver="HiGHS 1.12 and 5,120 replays",
        gap_ratio=0.0,
        notes=("seconds by the time model of this machine's CPU",),
    )
    return replace(plan, frontier=frontier(plan))


def chain(steps: list[tuple[Action, Numerics, int, float]], peak: int) -> tuple[Lever, ...]:
    """Levers one after the other, each (action, numerics, MiB that it frees, slowdown)."""
    peaks = [peak]
    for _, _, freed, _ in steps:
        peaks.append(peaks[-1] - freed * MIB)
    return tuple(
        Lever(
            action=action,
            title=f"the title of {type(action).__name__}",
            numerics=numerics,
            peak_before=before,
            peak_after=after,
            slowdown_ratio=ratio,
            why="frees the most for each second of what is left",
        )
        for (action, numerics, _, ratio), (before, after) in zip(steps, pairwise(peaks), strict=True)
    )


def frontier(plan: Plan) -> tuple[FrontierPoint, ...]:
    """Twenty plans from the plain step downwards, the plan itself among them; the last one is lossy."""
    points = [
        FrontierPoint(
            peak=PLAIN.peak - 100 * MIB * count,
            slowdown_ratio=1.0 + 0.006 * count,
            numerics=Numerics.IDENTICAL,
            actions=tuple(block(index) for index in range(count)),
        )
        for count in range(12)
    ]
    points.append(
        FrontierPoint(
            peak=plan.after.peak,
            slowdown_ratio=plan.slowdown_ratio,
            numerics=Numerics.ROUNDING,
            actions=plan.actions,
        )
    )
    points += [
        FrontierPoint(
            peak=plan.after.peak - 60 * MIB * count,
            slowdown_ratio=plan.slowdown_ratio + 0.07 * count,
            numerics=Numerics.LOSSY if count == 7 else Numerics.ROUNDING,
            actions=(*plan.actions[:-1], MicroBatches(pieces=2 + count)),
        )
        for count in range(1, 8)
    ]
    return tuple(points)


def feasible() -> Plan:
    """Fits, by every kind of lever that there is; what the levers free one by one is not all."""
    kinds: list[tuple[Action, Numerics, int, float]] = [
        (EarlyRelease(), Numerics.IDENTICAL, 12, 1.0),
        (HostAllocator(kind="jemalloc"), Numerics.IDENTICAL, 8, 0.98),
        (OneKernelStep(), Numerics.ROUNDING, 100, 1.0),
        (OptimizerInBackward(), Numerics.IDENTICAL, 200, 1.01),
        (Checkpoint(modules=("h.0", "h.1", "h.2"), random=True), Numerics.IDENTICAL, 400, 1.05),
        (Checkpoint(modules=("h.3", "h.4", "h.5")), Numerics.IDENTICAL, 300, 1.05),
        (Checkpoint(modules=("h.7.mlp",)), Numerics.IDENTICAL, 90, 1.02),
        (Checkpoint(modules=("h.9.mlp",)), Numerics.IDENTICAL, 80, 1.02),
        (Checkpoint(modules=("h.11.mlp",)), Numerics.IDENTICAL, -5, 1.02),
        (MicroBatches(pieces=4), Numerics.ROUNDING, 300, 1.2),
        (InferenceMode(), Numerics.IDENTICAL, 1, 0.9),
        (SmallerBatch(size=4, rate=0.5), Numerics.LOSSY, 100, 1.3),
    ]
    levers = chain(kinds, PLAIN.peak)
    base = optimal()
    return replace(
        base,
        status=Status.FEASIBLE,
        budget=Budget(bytes=1800 * MIB, allow=tuple(Numerics)),
        levers=levers,
        after=replace(base.after, peak=levers[-1].peak_after - 7 * MIB),
        refused=(),
        frontier=(),
        gap_ratio=0.032,
    )


def infeasible() -> Plan:
    """Nothing fits within the limits; one plan of the frontier would, were it not too slow."""
    base = optimal()
    return replace(
        base,
        status=Status.INFEASIBLE,
        budget=replace(base.budget, bytes=1400 * MIB),
        floor_holds=(
            "474.0 MiB of parameters, 948.0 MiB of AdamW's state",
            "390.8 MiB of gradients, all complete at the last of the backward",
        ),
    )


def nothing() -> Plan:
    """The plain step fits: no lever, no frontier, nothing refused."""
    return replace(
        optimal(),
        budget=Budget(bytes=4096 * MIB),
        after=PLAIN,
        levers=(),
        refused=(),
        frontier=(),
        notes=(),
    )


def hostile() -> Plan:
    """Names that try to be markup, scripts, escape codes and templates in every text of the record."""
    base = infeasible()
    everything = " ".join(HOSTILE)
    levers = tuple(
        replace(
            lever,
            action=Checkpoint(modules=(f"{HOSTILE[place % len(HOSTILE)]}.{place}",))
            if place
            else lever.action,
            title=everything,
            why=f"{everything} {place}",
        )
        for place, lever in enumerate(base.levers)
    )
    return replace(
        base,
        workload=everything,
        torch=MARKUP,
        budget=replace(base.budget, fixed=(SCRIPT, HANDLER)),
        levers=levers,
        refused=tuple(Refusal(lever=name, reason=everything) for name in HOSTILE),
        frontier=(
            *base.frontier[:-1],
            replace(base.frontier[-1], actions=tuple(lever.action for lever in levers)),
        ),
        floor_holds=HOSTILE,
        solver=everything,
        notes=HOSTILE,
    )


def verdict(*, fails: bool = False) -> Verdict:
    """Checks of every outcome and unit."""
    promised = float(optimal().after.peak)
    return Verdict(
        workload="gpt2, batch size 8, AdamW",
        torch="2.13.0+cpu",
        checks=(
            Check(
                name="memory",
                expected=promised,
                got=promised + 6 * MIB,
                tolerance=37 * MIB,
                unit="B",
                outcome=Outcome.PASSED,
                how="one step on real CPU tensors, recorded",
            ),
            Check(
                name="gradients",
                expected=0.0,
                got=3.1e-7,
                tolerance=1e-5,
                unit="relative error",
                outcome=Outcome.PASSED,
                how="both steps from the same weights, batch and random state",
            ),
            Check(
                name="undo",
                expected=0.0,
                got=0.0,
                tolerance=0.0,
                unit="differences",
                outcome=Outcome.PASSED,
                how="forwards, hooks and settings compared before and after",
            ),
            Check(
                name="speed",
                expected=1.16,
                got=1.41 if fails else 1.18,
                tolerance=0.1,
                unit="ratio",
                outcome=Outcome.FAILED if fails else Outcome.PASSED,
                how="median of 20 steps each, in turns",
            ),
            Check(
                name="cap",
                expected=2048.0 * MIB,
                got=0.0,
                tolerance=0.0,
                unit="B",
                outcome=Outcome.NOT_CHECKED,
                how="no memory cgroup may be made here",
            ),
        ),
    )


def fitted() -> Fitted:
    """The optimal plan, verified; the curves rise and fall as those of a step do."""
    plan = optimal()
    rest = 1430 * MIB

    def curve(peak: int, count: int) -> tuple[int, ...]:
        return tuple(
            rest + round((peak - rest) * math.sin(math.pi * place / (count - 1))) for place in range(count)
        )

    return Fitted(
        plan=plan,
        verdict=verdict(),
        before_curve=curve(plan.before.peak, 201),
        after_curve=curve(plan.after.peak + 6 * MIB, 301),
    )


def failed() -> Fitted:
    """A plan whose speed is not what was promised, with no curves and with hostile names."""
    checks = verdict(fails=True).checks
    bad = replace(checks[0], name=f"memory {SCRIPT}", how=f"{MARKUP} {HANDLER} {ESCAPE}")
    return Fitted(
        plan=hostile(), verdict=replace(verdict(), workload=" ".join(HOSTILE), checks=(bad, *checks[1:]))
    )
