"""Is the dry trace true? Peaks of dry and real traces against what torch's own CPU allocator reported.

    python -m benchmarks.cpu_truth                         every workload with SGD and AdamW
    python -m benchmarks.cpu_truth --only gpt_b8 lstm_b32  some of them
    python -m benchmarks.cpu_truth --target mine.py:work   a Workload of your own as well

Columns, bytes of the third (steady) step: `allocator` is the truth, the profiler's allocation events replayed;
`dry` and `real` are our traces; `meta` is the dry trace on meta tensors; `MemTracker` is torch's own tracker in
FakeTensorMode. On six workloads the kernel has its say too: peak RSS of a fresh process, less its own base.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

import enxuto as ex
from benchmarks.allocator import run_step, true_peaks
from benchmarks.workloads import OPTIMIZERS, WORKLOADS
from enxuto._torch_private import DryMode

RESULTS = Path(__file__).parent / "results"
RSS_WORKLOADS = ("resnet18_b16", "mobilenet_v2_b16", "unet_b2", "gpt_b8", "vit_b8", "lstm_b32")


@dataclass(frozen=True)
class Row:
    """One workload with one optimizer: bytes, and what could not be had as text."""

    workload: str
    optimizer: str
    allocator: int
    dry: int
    real: int
    meta: int | str
    memtracker: int | str
    kernel: int | None
    scratch: str
    dry_refused: str
    seconds: float

    def error(self, column: str) -> float | None:
        """Signed relative error of a column in percent, None where it has no number."""
        value = getattr(self, column)
        return None if not isinstance(value, int) else 100 * (value - self.allocator) / self.allocator


def main() -> int:
    options = _options()
    names = options.only or list(WORKLOADS)
    optimizers = options.optimizers or list(OPTIMIZERS)
    rows: list[Row] = []
    print(
        f"{'workload':30} {'opt':6} {'allocator':>12} {'dry':>9} {'real':>9} {'meta':>9} "
        f"{'MemTracker':>10} {'kernel':>8}"
    )
    for target in options.target:
        rows.append(_measure(target, "own", lambda target=target: ex.resolve(target), kernel=False))
        _print_row(rows[-1])
    for name in names:
        for optimizer in optimizers:
            kernel = name in RSS_WORKLOADS and not options.no_kernel
            rows.append(
                _measure(
                    name, optimizer, lambda n=name, o=optimizer: WORKLOADS[n](OPTIMIZERS[o]), kernel=kernel
                )
            )
            _print_row(rows[-1])
    summary = {column: summarise(rows, column) for column in ("dry", "real", "meta", "memtracker", "kernel")}
    for column, figures in summary.items():
        print(f"{column:11}", "  ".join(f"{key} {value}" for key, value in figures.items()))
    if not (options.only or options.target or options.optimizers):
        write_results("cpu_truth.json", {"rows": [asdict(row) for row in rows], "summary": summary})
    return 0


def summarise(rows: list[Row], column: str) -> dict[str, Any]:
    """Median, p90 and worst absolute error in percent, the signed mean, and how many were equal to the byte."""
    errors = [e for row in rows if (e := row.error(column)) is not None]
    if not errors:
        return {"n": 0}
    sizes = sorted(map(abs, errors))
    return {
        "n": len(errors),
        "failed": len([row for row in rows if isinstance(getattr(row, column), str)]),
        "equal": sum(e == 0 for e in errors),
        "median_percent": round(statistics.median(sizes), 4),
        "p90_percent": round(sizes[int(0.9 * (len(sizes) - 1))], 4),
        "max_percent": round(sizes[-1], 4),
        "bias_percent": round(statistics.fmean(errors), 4),
    }


def write_results(name: str, content: dict[str, Any]) -> None:
    """Keep a benchmark's figures with what they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
    print(f"wrote benchmarks/results/{name}")


def machine() -> dict[str, Any]:
    """Versions and hardware, as every result file states them."""
    from enxuto.devices.scratch import machine as cpu

    return {
        **cpu(),
        "python": platform.python_version(),
        "system": platform.system(),
        "enxuto": ex.__version__,
        "cores": os.cpu_count(),
    }


def _measure(name: str, optimizer: str, work: Callable[[], ex.Workload], *, kernel: bool) -> Row:
    began = time.perf_counter()
    truth = true_peaks(work())
    gc.collect()
    dry = ex.trace(work())
    real = ex.trace(work(), world="cpu")
    gc.collect()
    return Row(
        workload=name,
        optimizer=optimizer,
        allocator=truth.steady,
        dry=dry.peak,
        real=real.peak,
        meta=_attempt(lambda: _meta_peak(work())),
        memtracker=_attempt(lambda: memtracker_peak(work())),
        kernel=_kernel_peak(name, optimizer) if kernel else None,
        scratch=dry.facts.scratch,
        dry_refused=dry.facts.dry_refused,
        seconds=round(time.perf_counter() - began, 1),
    )


def _attempt(run: Callable[[], int]) -> int | str:
    """A baseline's figure, or in one line why it has none."""
    try:
        return run()
    except Exception as error:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:100] if str(cause).strip() else ''}"


def _meta_peak(work: ex.Workload) -> int:
    timeline = ex.trace(work, dry="meta")
    if timeline.facts.dry_refused:
        raise RuntimeError(timeline.facts.dry_refused)
    return timeline.peak


def memtracker_peak(work: ex.Workload, steps: int = 3) -> int:
    """The peak that torch's MemTracker reports for the steady step in FakeTensorMode."""
    mode = DryMode(allow_non_fake_inputs=True)
    with mode.building():
        model = work.model()
        optimizer = work.optimizer(model.parameters()) if work.optimizer else None
        batch = work.batch()
    with mode:
        for _ in range(steps - 1):
            run_step(work, model, optimizer, batch)
        tracker = MemTracker()
        tracker.track_external(model, *([optimizer] if optimizer else []), *_tensor_leaves(batch))
        with tracker:
            run_step(work, model, optimizer, batch)
    peaks = tracker.get_tracker_snapshot("peak")
    return int(peaks[torch.device("cpu")]["Total"])


def _tensor_leaves(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _kernel_peak(name: str, optimizer: str) -> int | None:
    """Peak anonymous memory of a fresh process in its third step, less what is not the step's own: libraries
    and caches, read as what stands after the step minus the tensors that stand after it."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu_truth", "--kernel-child", name, optimizer],
        env=environment,
        capture_output=True,
        text=True,
    )
    return int(child.stdout.split()[-1]) if child.returncode == 0 else None


def _kernel_child(name: str, optimizer: str) -> None:
    work = WORKLOADS[name](OPTIMIZERS[optimizer])
    model = work.model()
    optim = work.optimizer(model.parameters())
    batch = work.batch()
    for _ in range(2):
        run_step(work, model, optim, batch)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    run_step(work, model, optim, batch)
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )

    def kib(key: str) -> int:
        return int(status[key].split()[0]) * 1024

    from benchmarks.allocator import standing_bytes

    own = kib("RssAnon") - standing_bytes(model, optim, batch)
    print(kib("VmHWM") - kib("RssFile") - kib("RssShmem") - own)


def _print_row(row: Row) -> None:
    def shown(column: str) -> str:
        error = row.error(column)
        return f"{error:+.3f}%" if error is not None else ("-" if getattr(row, column) is None else "failed")

    print(
        f"{row.workload:30} {row.optimizer:6} {row.allocator:>12,} {shown('dry'):>9} {shown('real'):>9} "
        f"{shown('meta'):>9} {shown('memtracker'):>10} {shown('kernel'):>8}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS))
    parser.add_argument(
        "--target", action="append", default=[], help="file.py:name of a Workload of your own"
    )
    parser.add_argument("--no-kernel", action="store_true", help="leave the RSS column out")
    parser.add_argument("--kernel-child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kernel_child:
        _kernel_child(*options.kernel_child)
        sys.exit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
