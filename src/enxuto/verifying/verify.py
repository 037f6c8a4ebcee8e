"""`verify`: apply a plan for real, and set what was measured beside what was promised."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from ..applying import apply as own_apply
from ..errors import UsageError
from ..records import Check, Outcome, Plan, Verdict, World
from ..tracing.worlds import Stage
from ..units import format_bytes
from ..workload import Workload
from .capping import check_cap
from .gradients import NAMES, check_gradients, not_checked
from .memory import check_memory, device_of, measured_peaks
from .runs import Apply, Promise, Run, seeded
from .undo import check_undo

_PAIRS = 5


def verify(
    plan: Plan,
    work: Workload,
    *,
    apply: Apply = own_apply,
    world: World | str = World.CPU,
    cap: bool = False,
    target: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verdict:
    """Run a workload as it is and as the plan has it, and check every promise of the plan.

    The checks, which are always all there: "memory" (the peak of the third step by torch's own allocator), "loss",
    "gradients", "buffers" and "update" (the same numbers, to the bit or up to rounding), "undo" (everything is as
    before once the plan is left), "speed" (the step's time over that of the untouched one) and "cap" (under a limit of
    the kernel the plan lives and the untouched step dies). What was not run is NOT_CHECKED, and says why.

    Args:
        plan: what was promised, for this workload.
        work: its callables are called anew for each run; the random states of this process stay as they are.
        apply: how a plan is applied.
        world: "cpu" or "cuda": where the steps run. The promise has to be about the same.
        cap: run the plan and the untouched step in processes of their own under a memory limit; needs `target`.
        target: the TARGET string of the same workload, by which a child process finds it.
        progress: called with a line of text as the work goes on.

    Verifying itself holds one model at a time: the two runs follow each other, and what the first computed
    (gradients, buffers, then parameters and optimizer state) waits in host memory. Where the untouched step does not
    fit the device, nothing can be compared with it, and those checks are NOT_CHECKED.

    Raises:
        UsageError: the plan cannot be applied to this workload, or the world is none of real tensors.
    """
    world = World(world)
    if world is World.DRY:
        raise UsageError("verify() runs real steps: world= takes 'cpu' or 'cuda'")
    promise = Promise(plan=plan, work=work, apply=apply, world=world)
    say = progress or (lambda line: None)
    say("measuring the peak of the applied plan")
    checks = [_memory(promise)]
    lacking = _lacking(promise)
    if lacking:
        checks += [not_checked(name, lacking) for name in (*NAMES, "undo", "speed")]
    else:
        say("comparing gradients, buffers and updates with the untouched run")
        checks += check_gradients(promise)
        say("looking whether everything is put back")
        checks.append(check_undo(promise))
        say("timing steps")
        checks.append(_speed(promise))
    checks.append(check_cap(plan, target, wanted=cap, progress=say))
    return Verdict(workload=work.name, torch=str(torch.__version__), checks=tuple(checks))


def _memory(promise: Promise) -> Check:
    stage = promise.planned_stage()
    keeps = promise.work.training or promise.work.step is not None

    @contextmanager
    def entered() -> Iterator[Callable[[], Any]]:
        with promise.applied(stage) as run:
            # a trace lets go of an inference's output as well
            yield lambda: run.step(stage.batch) if keeps else _let_go(run.step(stage.batch))

    with seeded():
        return check_memory(promise.plan, measured_peaks(stage, entered), promise.world)


def _let_go(_: Any) -> None:
    """Nothing: what was given ends here."""


def _lacking(promise: Promise) -> str:
    """Why the untouched step cannot be run here; empty if it can."""
    needed = promise.plan.before.peak
    if promise.world is World.CUDA:
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    else:
        free = psutil.virtual_memory().available
    if needed <= free:
        return ""
    return f"the untouched step needs {format_bytes(needed)}, and {format_bytes(free)} are free here"


def _speed(promise: Promise) -> Check:
    """Median ratio of interleaved steps, plan over plain, on one model; entering the plan is not timed."""
    stage, batch = promise.stage(), promise.planned_stage().batch
    with seeded():
        ratios = [
            _applied_time(promise, stage, batch) / _untouched_time(promise, stage) for _ in range(1 + _PAIRS)
        ]
    got = statistics.median(ratios[1:])  # kernels are chosen, and state is born, in the first
    promised, most = promise.plan.slowdown_ratio, promise.plan.budget.max_slowdown_ratio
    how = f"median of {_PAIRS} pairs of steps, from {min(ratios[1:]):.2f} to {max(ratios[1:]):.2f} times the plain step"
    if not most:
        return Check(
            name="speed",
            expected=promised,
            got=got,
            tolerance=0.0,
            unit="ratio",
            outcome=Outcome.NOT_CHECKED,
            how=f"{how}; not checked: the budget has no max_slowdown_ratio",
        )
    return Check(
        name="speed",
        expected=promised,
        got=got,
        tolerance=max(0.0, most - promised),
        unit="ratio",
        outcome=Outcome.PASSED if got <= most else Outcome.FAILED,
        how=f"{how}; at most {most:.2f} times is allowed",
    )


def _untouched_time(promise: Promise, stage: Stage) -> float:
    with promise.untouched(stage) as run:
        return _time(run, stage.batch, stage)


def _applied_time(promise: Promise, stage: Stage, batch: Any) -> float:
    with promise.applied(stage) as run:
        return _time(run, batch, stage)


def _time(run: Run, batch: Any, stage: Stage) -> float:
    _settle(stage)
    began = time.perf_counter()
    run.step(batch)
    _settle(stage)
    return time.perf_counter() - began


def _settle(stage: Stage) -> None:
    """Wait for a GPU to have done what it was given."""
    if device_of(stage).type == "cuda":
        torch.cuda.synchronize()
