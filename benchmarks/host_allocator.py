"""What does the host allocator add to a training step on the CPU, and what does it cost to stop it?

    python -m benchmarks.host_allocator                      four nets, every setting
    python -m benchmarks.host_allocator --only gpt_b8        some of them

`allocator` is the truth: the highest bytes that torch's own CPU allocator held in three steps with AdamW. Every
other figure is from a fresh process that runs the same three steps plainly: the kernel's peak of anonymous
resident memory, less what the process held after one step of a tiny net (libraries, threads, late imports), so the
difference is what the host allocator keeps beyond the tensors, and some MiB of kernels' own code and caches.
Seconds are of processor time, all threads and the kernel's share included, of the shorter of the last two steps: they
count the page faults and are not disturbed by what else runs. Settings take turns; each cell is a median, with
the range, and the wall seconds, beside it in the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import enxuto as ex
from benchmarks.allocator import run_step, true_peaks
from benchmarks.workloads import OPTIMIZERS, WORKLOADS
from enxuto.records import write_atomically
from enxuto.techniques.host_allocator import environment, set_mallopt

NETS = ("resnet18_b16", "gpt_b8", "mobilenet_v2_b16", "unet_b2")
STEPS = 3
IN_PROCESS = "mallopt"  # set by the process itself instead of by its environment
SETTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "default": lambda: environment("default"),
    "thresholds": lambda: environment("thresholds"),
    IN_PROCESS: dict,
    "jemalloc": lambda: environment("jemalloc"),
    "jemalloc, eager": lambda: environment("jemalloc") | {"MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"},
}


def main() -> int:
    options = _options()
    rows: list[dict[str, Any]] = []
    print(f"{'net':18} {'allocator':>10}" + "".join(f" {name:>24}" for name in SETTINGS))
    for net in options.only or NETS:
        truth = _in_a_process(net, "truth", {})
        cells = _measure(net, options.repeats)
        rows.append({"net": net, "allocator": truth["peak"], "settings": cells})
        _print_row(rows[-1])
    if not options.only:
        from benchmarks.cpu_truth import RESULTS, machine  # imports what the children do without

        content = {"machine": machine(), "steps": STEPS, "repeats": options.repeats, "rows": rows}
        write_atomically(RESULTS / "host_allocator.json", (json.dumps(content, indent=1) + "\n").encode())
        print("wrote benchmarks/results/host_allocator.json")
    return 0


def _measure(net: str, repeats: int) -> dict[str, dict[str, Any]]:
    """A net under every setting, in turns, so that a busy machine disturbs all of them alike."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(repeats):
        for name in SETTINGS:
            found[name].append(_attempt(net, name))
    return {name: _summary(runs) for name, runs in found.items()}


def _attempt(net: str, setting: str) -> dict[str, Any]:
    """One run, or in one line why there is none."""
    try:
        return _in_a_process(net, setting, SETTINGS[setting]())
    except (ex.EnxutoError, RuntimeError) as error:
        return {"failed": str(error)}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0]}
    found: dict[str, Any] = {}
    for key, digits in (("peak", None), ("cpu_seconds", 3), ("wall_seconds", 3)):
        values = [run[key] for run in runs]
        found[key] = round(statistics.median(values), digits)
        found[f"{key}_range"] = [round(min(values), digits), round(max(values), digits)]
    return found


def _in_a_process(net: str, setting: str, variables: dict[str, str]) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.host_allocator", "--child", net, setting],
        env=_plain_environment() | variables,
        capture_output=True,
        text=True,
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        raise RuntimeError(lines[-1][:160] if lines else f"exit {child.returncode}")
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answer


def _plain_environment() -> dict[str, str]:
    """This process's environment without a word on allocators: the default is to be the default."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name not in ("LD_PRELOAD", "GLIBC_TUNABLES")
    }


def _child(net: str, setting: str) -> dict[str, Any]:
    work = WORKLOADS[net](OPTIMIZERS["adamw"])
    if setting == "truth":
        return {"peak": max(true_peaks(work, steps=STEPS).steps)}
    if setting == IN_PROCESS and not (done := set_mallopt()).applied:
        raise RuntimeError(done.reason)
    _warm_up()
    before = _kernel_bytes(["RssAnon"])
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    _, *steady = _timed_steps(work)
    peak = _kernel_bytes(["VmHWM"]) - _kernel_bytes(["RssFile", "RssShmem"]) - before
    cpu, wall = map(min, zip(*steady, strict=True))
    return {"peak": peak, "cpu_seconds": cpu, "wall_seconds": wall}


def _timed_steps(work: ex.Workload) -> Iterator[tuple[float, float]]:
    """Processor and wall seconds of each step."""
    model = work.model()
    optimizer = work.optimizer(model.parameters()) if work.optimizer else None
    batch = work.batch()
    for _ in range(STEPS):
        cpu, wall = time.process_time(), time.perf_counter()
        run_step(work, model, optimizer, batch)
        yield time.process_time() - cpu, time.perf_counter() - wall


def _warm_up() -> None:
    """One step of a tiny net: threads start, and torch loads what it loads late."""
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 8))
    optimizer = torch.optim.AdamW(net.parameters())
    loss = torch.nn.functional.cross_entropy(net(torch.randn(2, 3, 8, 8)), torch.tensor([1, 2]))
    loss.backward()
    optimizer.step()


def _kernel_bytes(names: list[str]) -> int:
    """The sum of some lines of `/proc/self/status`, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
    return sum(found[name] for name in names)


def _print_row(row: dict[str, Any]) -> None:
    truth = row["allocator"]
    print(f"{row['net']:18} {ex.units.format_bytes(truth):>10}", end="")
    for cell in row["settings"].values():
        if "failed" in cell:
            print(f" {'failed: ' + cell['failed'][:16]:>24}", end="")
            continue
        share = 100 * (cell["peak"] - truth) / truth
        print(
            f" {ex.units.format_bytes(cell['peak']):>10} {share:+6.1f}% {cell['cpu_seconds']:5.2f}s", end=""
        )
    print(flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(*options.child)))
        sys.exit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
