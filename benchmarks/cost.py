"""What does a trace cost? Seconds and memory of fresh processes, with torch's MemTracker beside ours.

    python -m benchmarks.cost                    every row (the cold rows measure kernel scratch anew)
    python -m benchmarks.cost --only resnet50    one of them

Each figure comes from a process of its own: `seconds` is wall time from a built Workload to the result, `rss` the
process's highest resident memory in all, imports included. `cold` begins with an empty scratch table, `warm` with
the table that the cold run left, `uncalibrated` measures nothing. The slowdown of real tracing is the median, over
pairs in one process, of a recorded step's time to that of the same step plain.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import enxuto as ex
from benchmarks.cpu_truth import memtracker_peak, write_results

TARGETS = {
    "resnet50": "zoo:resnet50?batch=64",
    "gpt2": "zoo:gpt2?batch=4&length=1023",
    "llama7b": "zoo:llama7b?batch=1&length=2048",
}
SLOWED = {"resnet18": "zoo:resnet18?batch=16&size=128", "gpt": "zoo:gpt?batch=8&length=255"}
PAIRS = 5


def main() -> int:
    options = _options()
    rows: list[dict[str, Any]] = []
    print(f"{'target':10} {'what':14} {'seconds':>8} {'rss':>10} {'peak found':>12}")
    for name in options.only or TARGETS:
        with tempfile.TemporaryDirectory() as cache:
            for what in ("uncalibrated", "cold", "warm", "memtracker"):
                rows.append(_in_a_process(name, what, cache))
                _print_row(rows[-1])
    slowdowns = {} if options.only else {name: _in_a_process(name, "slowdown", "") for name in SLOWED}
    for name, row in slowdowns.items():
        print(
            f"{name:10} a recorded real step takes {row['ratio']:.2f} x a plain one (median of {PAIRS} pairs)"
        )
    if not options.only:
        write_results("cost.json", {"rows": rows, "slowdowns": list(slowdowns.values())})
    return 0


def _in_a_process(name: str, what: str, cache: str) -> dict[str, Any]:
    """The answer of a fresh process, or in one line why it gave none."""
    environment = {**os.environ, "ENXUTO_CACHE": cache} if cache else dict(os.environ)
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", "--child", name, what],
        env=environment,
        capture_output=True,
        text=True,
    )
    row: dict[str, Any] = {"target": name, "what": what}
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        return row | {"failed": lines[-1][:160] if lines else f"exit {child.returncode}"}
    return row | json.loads(child.stdout.splitlines()[-1])


def _child(name: str, what: str) -> dict[str, Any]:
    if what == "slowdown":
        return {"ratio": round(_slowdown(SLOWED[name]), 3)}
    work = ex.resolve(TARGETS[name])
    began = time.perf_counter()
    found: dict[str, Any] = {}
    if what == "memtracker":
        found["peak"] = memtracker_peak(work)
    else:
        explanation = ex.explain(work, calibrate=what != "uncalibrated")
        found["peak"] = explanation.peak
        found["scratch_unknown"] = explanation.facts.scratch_unknown
    seconds = time.perf_counter() - began
    return found | {
        "seconds": round(seconds, 2),
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _slowdown(target: str) -> float:
    """Time of a step under the recorder over that of a plain one, both on real tensors, interleaved."""
    from benchmarks.allocator import run_step
    from enxuto.tracing import Recorder

    work = ex.resolve(target)
    model = work.model()
    optimizer = work.optimizer(model.parameters()) if work.optimizer else None
    batch = work.batch()
    run_step(work, model, optimizer, batch)

    def plain() -> float:
        began = time.perf_counter()
        run_step(work, model, optimizer, batch)
        return time.perf_counter() - began

    def recorded() -> float:
        recorder = Recorder(dry=False)
        recorder.adopt_model(model)
        with recorder:
            return plain()

    recorded()
    return statistics.median(recorded() / plain() for _ in range(PAIRS))


def _print_row(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['target']:10} {row['what']:14} failed: {row['failed']}", flush=True)
        return
    print(
        f"{row['target']:10} {row['what']:14} {row['seconds']:8.1f} {ex.units.format_bytes(row['rss']):>10} "
        f"{ex.units.format_bytes(row['peak']):>12}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(TARGETS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(*options.child)))
        sys.exit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
