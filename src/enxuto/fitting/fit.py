"""`fit`: the cheapest way to run a training step within a budget of bytes, applied and proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch.optim import Optimizer

from ..applying import applied_workload, apply
from ..devices import ScratchTable, cpu_device
from ..errors import EnxutoError, UsageError
from ..planning import Base, Planner, Speeds
from ..predicting import Scaling, mismatch
from ..records import (
    Action,
    Budget,
    Check,
    EarlyRelease,
    Fitted,
    FrozenBatchNorm,
    MicroBatches,
    Numerics,
    Offload,
    OneKernelStep,
    OptimizerInBackward,
    Outcome,
    Plan,
    Refusal,
    SingleTensorStep,
    SmallerBatch,
    Timeline,
    Verdict,
)
from ..techniques import (
    Refused,
    batch_norm,
    early_release,
    first_difference,
    micro_batches,
    optimizer_in_backward,
    optimizer_step,
)
from ..tracing import trace
from ..units import parse_bytes
from ..verifying import verify
from ..workload import Workload

_MOST_PIECES = 16
_DRAWN = 400  # instants of a curve that a picture shows


def fit(
    work: Workload,
    budget: str | int | Budget,
    *,
    measure: bool = True,
    scratch: ScratchTable | None = None,
    calibrate: bool = True,
    exact: bool = True,
    target: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fitted:
    """Fit a training step into a budget.

    Args:
        work: what is trained; it is built anew, live objects are never involved.
        budget: text ("2 GiB"), bytes, or a `Budget` with what else is allowed or fixed.
        measure: run the step for real, plain and under the plan, and compare; False is a dry answer.
        scratch, calibrate: as in `trace`.
        exact: solve exactly too where there are few enough choices.
        target: how a child process finds the work (`file.py:name`), for a run under a real memory limit.
        progress: called with a line of text as the work goes on.

    Returns:
        A Fitted with `.plan` and `.verdict`. A budget that cannot be met is a plan with status INFEASIBLE, not
        an exception.

    Raises:
        UsageError: the work does not train, or the budget is not understood.
        UserCodeError: the workload's own code raised.
    """
    return Fit(work, scratch=scratch, calibrate=calibrate, exact=exact, progress=progress).within(
        budget, measure=measure, target=target
    )


@dataclass(slots=True, eq=False)
class Fit:
    """One work, traced and searched once, and fitted into any number of budgets."""

    work: Workload
    scratch: ScratchTable | None = None
    calibrate: bool = True
    exact: bool = True
    lossy: bool = False
    progress: Callable[[str], None] | None = None
    _planner: Planner | None = None

    def __post_init__(self) -> None:
        """One table for all traces, which are compared to the byte: another process may fill the machine's."""
        if self.scratch is None:
            self.scratch = ScratchTable.of_this_machine()

    def within(
        self, budget: str | int | Budget, *, measure: bool = True, target: str | None = None
    ) -> Fitted:
        """The plan for a budget, traced again and, with `measure`, run for real."""
        asked = _budget(budget)
        if Numerics.LOSSY in asked.allow and not self.lossy:
            self.lossy, self._planner = True, None
        plan = self.planner().plan(asked)
        promised = self.planner().timeline(plan)
        plain = self.planner().bases[0].timeline
        checks = [self._traced_again(plan, promised), *self._checks(plan, measure, target)]
        verdict = Verdict(workload=self.work.name, torch=plan.torch, checks=tuple(checks))
        return Fitted(plan=plan, verdict=verdict, before_curve=_drawn(plain), after_curve=_drawn(promised))

    def again(self, plan: Plan, *, measure: bool = True, target: str | None = None) -> Fitted:
        """A saved plan on this work: traced again, compared with its promise and, with `measure`, run.

        Raises:
            UsageError: the plan names modules that this work does not have.
        """
        plain, traced = self._traced(self.work), self._traced(applied_workload(self.work, plan.actions))
        same = traced.peak == plan.after.peak
        checks = [
            _dry_check(plan, traced.peak, same, "the step with the saved plan applied, traced again dry")
        ]
        checks += self._checks(plan, measure, target)
        verdict = Verdict(workload=self.work.name, torch=traced.facts.torch, checks=tuple(checks))
        return Fitted(plan=plan, verdict=verdict, before_curve=_drawn(plain), after_curve=_drawn(traced))

    def planner(self) -> Planner:
        """The planner over every base of this work."""
        if self._planner is None:
            bases, refused = self._bases()
            self._planner = Planner(
                bases,
                refused,
                Speeds.of(cpu_device(measure=self.calibrate)),
                exact=self.exact,
                progress=self.progress,
            )
        return self._planner

    def _traced(self, work: Workload) -> Timeline:
        return trace(
            work, scratch=self.scratch, calibrate=self.calibrate, find_holders=False, progress=self.progress
        )

    def _bases(self) -> tuple[list[Base], list[Refusal]]:
        work = self.work
        if not work.training:
            raise UsageError(
                f"{work.name} is inference: fit plans training steps; `enxuto explain` shows what no_grad saves"
            )
        plain = self._traced(work)
        if plain.facts.deaths != "natural":
            raise UsageError(
                f"{work.name} cannot run dry ({plain.facts.dry_refused}), and a plan needs a dry trace"
            )
        bases = [Base(actions=(), timeline=plain)]
        # the copies would lie in the memory that is budgeted (`techniques.offloading`)
        refused = [
            _refusal(Offload(module=""), "this device's memory is the host's own: nothing would be gained")
        ]
        for action, simulate in (
            (EarlyRelease(), early_release.simulate),
            (OptimizerInBackward(), optimizer_in_backward.simulate),
        ):
            try:
                bases.append(Base(actions=(action,), timeline=simulate(plain)))
            except Refused as reason:
                refused.append(_refusal(action, str(reason)))
        fused = self._retraced(OneKernelStep(), optimizer_step.check, refused)
        single = self._retraced(SingleTensorStep(), optimizer_step.check_foreach, refused)
        steps: list[tuple[Action, Timeline]] = []
        steps += [] if fused is None else [(OneKernelStep(), fused)]
        steps += [] if single is None else [(SingleTensorStep(), single)]
        bases += [Base(actions=(action,), timeline=timeline) for action, timeline in steps]
        bases += self._in_pieces([((), plain), *(((a,), t) for a, t in steps)], refused)
        if self.lossy:
            bases += self._frozen(refused)
            bases += self._smaller(refused)
        return bases, refused

    def _frozen(self, refused: list[Refusal]) -> list[Base]:
        """Batch norms frozen, so that the batch can run in pieces."""
        action = FrozenBatchNorm()
        try:
            batch_norm.check(self.work.model())
            frozen = self._traced(applied_workload(self.work, (action,)))
        except (Refused, EnxutoError) as reason:
            refused.append(_refusal(action, str(reason)))
            return []
        return self._in_pieces([((action,), frozen)], refused)

    def _retraced(
        self, action: Action, check: Callable[[Optimizer], None], refused: list[Refusal]
    ) -> Timeline | None:
        """The step with another way to update, traced anew; None where there is none."""
        try:
            assert self.work.optimizer is not None  # checked: this work trains
            check(self.work.optimizer(self.work.model().parameters()))
            return self._traced(applied_workload(self.work, (action,)))
        except Refused as reason:
            refused.append(_refusal(action, str(reason)))
        except EnxutoError as error:
            refused.append(_refusal(action, f"it cannot be traced: {error}"))
        return None

    def _in_pieces(
        self, steps_of: Sequence[tuple[tuple[Action, ...], Timeline]], refused: list[Refusal]
    ) -> list[Base]:
        """The batch in pieces, on each of some bases (actions, timeline of the whole batch)."""
        size = self.work.batch_size
        action = MicroBatches(pieces=2)
        if self.work.step is not None or size is None or size < 2:
            reason = (
                "the loop is the user's own" if self.work.step is not None else "the batch size is not known"
            )
            refused.append(_refusal(action, reason if size is None or self.work.step else "the batch is 1"))
            return []
        bases: list[Base] = []
        for pieces in [2**i for i in range(1, 5) if 2**i <= min(size, _MOST_PIECES)]:
            sizes = micro_batches.sizes_of(size, pieces)
            try:
                for kind, whole in steps_of:
                    micro_batches.check(whole)
                    work = applied_workload(self.work, kind)
                    steps = {n: self._traced(work.at_batch(n)) for n in set(sizes)}
                    _check_in_batch(whole, steps[max(sizes)])
                    simulated = micro_batches.simulate(whole, [steps[n] for n in sizes])
                    bases.append(Base(actions=(*kind, MicroBatches(pieces=pieces)), timeline=simulated))
            except (Refused, EnxutoError) as reason:
                refused.append(_refusal(action, str(reason)))
                break
        return bases

    def _smaller(self, refused: list[Refusal]) -> list[Base]:
        bases: list[Base] = []
        size = self.work.batch_size
        while size is not None and size > 1 and len(bases) < 4:
            size //= 2
            # gradients of smaller batches are noisier: the rate falls with the batch (Goyal et al., 2017)
            action = SmallerBatch(size=size, rate=size / (self.work.batch_size or size))
            try:
                bases.append(Base(actions=(action,), timeline=self._traced(self.work.at_batch(size))))
            except EnxutoError as error:
                refused.append(_refusal(action, str(error)))
                break
        return bases

    def _traced_again(self, plan: Plan, promised: Timeline) -> Check:
        """The plan applied and traced dry: any difference from the replay is a bug of ours."""
        traced = self._traced(applied_workload(self.work, plan.actions))
        difference = first_difference(promised, traced)
        same = not difference and promised.peak == plan.after.peak
        return _dry_check(
            plan,
            traced.peak,
            same,
            difference or "the step with the plan applied, traced again dry: every birth compared",
        )

    def _checks(self, plan: Plan, measure: bool, target: str | None) -> Sequence[Check]:
        if measure and plan.fits:
            cap = target is not None
            return verify(plan, self.work, apply=apply, cap=cap, target=target, progress=self.progress).checks
        why = "not asked for" if plan.fits else "no plan fits, so nothing was run"
        return [_not_checked(name, why) for name in ("memory", "gradients", "undo", "cap", "speed")]


def _dry_check(plan: Plan, peak: int, same: bool, how: str) -> Check:
    return Check(
        name="dry trace",
        expected=float(plan.after.peak),
        got=float(peak),
        tolerance=0.0,
        unit="B",
        outcome=Outcome.PASSED if same else Outcome.FAILED,
        how=how,
    )


def _budget(budget: str | int | Budget) -> Budget:
    if isinstance(budget, Budget):
        asked = budget
    else:
        asked = Budget(bytes=parse_bytes(budget) if isinstance(budget, str) else budget)
    if asked.bytes < 1:
        raise UsageError(f"a budget must be at least 1 byte, not {asked.bytes}")
    return asked


def _check_in_batch(whole: Timeline, piece: Timeline) -> None:
    """Refuse a work in which memory grows faster than the batch: its items see each other.

    Raises:
        Refused: naming the op.
    """
    if whole.facts.batch_size == piece.facts.batch_size or mismatch(whole, piece):
        return
    superlinear = Scaling(piece, whole).superlinear
    if superlinear:
        raise Refused(f"items of the batch see each other ({superlinear[0].op}): a loss within the batch")


def _drawn(timeline: Timeline) -> tuple[int, ...]:
    """The curve as the most bytes in each of equally long stretches."""
    curve = timeline.curve
    edges = np.linspace(0, len(curve), min(_DRAWN, len(curve)) + 1).astype(int)
    return tuple(int(curve[a:b].max()) for a, b in pairwise(edges.tolist()) if b > a)


def _refusal(action: Action, reason: str) -> Refusal:
    return Refusal(lever=str(type(action).__struct_config__.tag), reason=reason)


def _not_checked(name: str, why: str) -> Check:
    return Check(
        name=name, expected=0.0, got=0.0, tolerance=0.0, unit="", outcome=Outcome.NOT_CHECKED, how=why
    )
