"""A few steps of a TARGET, as it is or as a plan has it, for a process that a memory limit is put on.

`python -m enxuto.verifying.capped_step TARGET PLAN.json|- STEPS`; `-` is the untouched step.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from ..records import Plan
from ..targets import resolve
from ..techniques.host_allocator import set_mallopt
from .runs import Promise, Untouched, seeded


def main(target: str, plan_path: str, steps: int) -> None:
    """Build the workload, run its steps and say so; the host allocator's thresholds are set before anything."""
    set_mallopt(arena_max=1)
    work = resolve(target)
    if plan_path == "-":
        with seeded():
            model = work.model()
            optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
            batch = work.batch()
        entered = nullcontext(Untouched(work, model, optimizer))
        with entered as run:
            for _ in range(steps):
                run.step(batch)
    else:
        plan = Plan.from_json(Path(plan_path).read_bytes())
        promise = Promise(plan=plan, work=work)
        stage = promise.planned_stage()
        with promise.applied(stage) as applied:
            for _ in range(steps):
                applied.step(stage.batch)
    print(f"ran {steps} steps")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
