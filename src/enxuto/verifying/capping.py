"""The check under a real cap: the untouched step dies under a limit that the plan lives under."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ..records import Check, Outcome, Plan
from ..techniques.host_allocator import environment
from ..units import format_bytes
from .caps import Cap, CapRun, process_base, run_capped
from .gradients import not_checked

_CHILD = "enxuto.verifying.capped_step"
_STEPS = 3
_TIMEOUT = 1800.0
#: What a process takes beyond its base and its tensors, measured (see `process_base`) and rounded up.
MARGINS = {Cap.CGROUP_V1: 16 * 2**20, Cap.CGROUP_V2: 16 * 2**20, Cap.RLIMIT_DATA: 64 * 2**20}
_MODULES = {"timm": ("timm",), "hf": ("transformers",)}


def check_cap(plan: Plan, target: str | None, *, wanted: bool, progress: Callable[[str], None]) -> Check:
    """Check "cap": expected and got are the limit and the peak of the plan's whole process, in bytes.

    The limit is what a process takes before any work, the promised peak, and a margin. What the target's own file
    imports counts against the margin.
    """
    if not wanted or target is None:
        asked = (
            "a child process needs the TARGET string of the workload (target=)" if wanted else "not asked for"
        )
        return _not_run(asked)
    env = _environment()
    how = run_capped([sys.executable, "-c", ""], limit=2**30, timeout=60.0, env=env)
    if how.how is Cap.NONE:
        return _not_run(how.reason)
    margin = MARGINS[how.how]
    if plan.before.peak <= plan.after.peak + 2 * margin:
        return _not_run(
            f"the plan frees {format_bytes(plan.before.peak - plan.after.peak)}, too little to be told apart "
            f"from what a process takes besides (2 × {format_bytes(margin)})"
        )
    progress(f"running under a limit of the kernel ({how.how})")
    imports = (_CHILD, *_MODULES.get(target.partition(":")[0], ()))
    limit = process_base(imports, env=env, how=how.how) + plan.after.peak + margin
    with tempfile.TemporaryDirectory(prefix="enxuto-") as folder:
        path = Path(folder) / "plan.json"
        path.write_bytes(plan.to_json())
        plain, planned = (
            run_capped(_command(target, which), limit=limit, timeout=_TIMEOUT, env=env, how=how.how)
            for which in ("-", str(path))
        )
    return judged(limit, plain, planned)


def judged(limit: int, plain: CapRun, planned: CapRun) -> Check:
    """What the two runs under one limit say together."""
    said = f"under {plain.how} at {format_bytes(limit)}: the plan {_fate(planned)}, the untouched step {_fate(plain)}"
    decided = planned.finished or planned.died_of_memory
    proved = plain.died_of_memory or plain.finished
    if not (decided and proved):
        outcome = Outcome.NOT_CHECKED
    else:
        outcome = Outcome.PASSED if planned.finished and plain.died_of_memory else Outcome.FAILED
    return Check(
        name="cap",
        expected=limit,
        got=planned.peak or 0,
        tolerance=0,
        unit="B",
        outcome=outcome,
        how=f"{_STEPS} steps each in a process of its own {said}",
    )


def _fate(run: CapRun) -> str:
    if run.finished:
        return "finished"
    *_, last = ["", *run.output.strip().splitlines()]
    return f"did not ({run.reason}{'' if run.died_of_memory else ': ' + last[:120]})"


def _command(target: str, plan: str) -> list[str]:
    return [sys.executable, "-m", _CHILD, target, plan, str(_STEPS)]


def _environment() -> dict[str, str]:
    """This process's own, with fixed thresholds and the threads that torch has here."""
    threads = str(torch.get_num_threads())
    return {**os.environ, **environment("thresholds"), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _not_run(reason: str) -> Check:
    return not_checked("cap", reason, unit="B")
