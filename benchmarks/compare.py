"""Are compared figures true, and how long does a comparison take?

    python -m benchmarks.compare                  every reference net
    python -m benchmarks.compare --only resnet18 vgg16

The truth of a peak is torch's own CPU allocator, replayed, for a real training step (SGD with momentum) and a real
inference, plain and with batch norms folded; beside it stands what `enxuto.compare` predicted without running
anything. Then all nets are compared at 224 px as a user would: once to fill the scratch table of this machine, and
once more, nothing kept but that table, against the clock.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import enxuto as ex
from benchmarks.allocator import true_peaks
from benchmarks.cpu_truth import write_results
from enxuto.compressing.folding import fold_batch_norms
from enxuto.devices.scratch import cache_folder
from enxuto.records import NetFigures

NETS = (
    "efficientnet_lite0",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "resnet18",
    "resnet50",
    "shufflenet_v2",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg16",
)
#: Small batches and pictures for every net, the usual picture for two of them.
CONDITIONS = {
    name: ((4, 96), (4, 224)) if name in ("mobilenet_v3_small", "resnet18") else ((4, 96),) for name in NETS
}
OPTIMIZER = "sgd"
TIMED = {"size": 224, "batch": 16, "optimizer": OPTIMIZER}
BAR_PERCENT, BAR_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peak of one net: what was predicted and what the allocator reported, in bytes."""

    net: str
    what: str
    batch: int
    size: int
    predicted: int
    allocator: int

    @property
    def error_percent(self) -> float:
        """The signed error of the prediction, in percent of the truth."""
        return 100 * (self.predicted - self.allocator) / self.allocator


def main() -> int:
    options = _options()
    rows = [
        row
        for name in options.only or NETS
        for batch, size in CONDITIONS[name]
        for row in _peaks(name, batch, size)
    ]
    worst = max(abs(row.error_percent) for row in rows)
    print(
        f"worst error {worst:.3f} % (bar {BAR_PERCENT:g} %), {sum(r.predicted == r.allocator for r in rows)} equal"
    )
    if options.only:
        return int(worst > BAR_PERCENT)
    seconds, cpu_seconds, found = timed()
    print(f"{len(NETS)} nets compared in {seconds:.1f} s (bar {BAR_SECONDS:g} s), {cpu_seconds:.1f} s of CPU")
    content = {
        "rows": [{**asdict(row), "error_percent": round(row.error_percent, 4)} for row in rows],
        "nets": [_summary(net) for net in found.nets],
        "conditions": TIMED,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "load": [round(each, 1) for each in os.getloadavg()],
    }
    write_results("compare.json", content)
    return int(worst > BAR_PERCENT or seconds > BAR_SECONDS)


def timed() -> tuple[float, float, ex.Comparison]:
    """A comparison of all nets with the scratch table warm and no answers kept: seconds, those of CPU, the figures.

    On a machine that is busy with other work the seconds say little, those of CPU more: they are over all
    processes, so that an idle machine of two cores needs half of them.
    """
    targets = [f"zoo:{name}" for name in NETS]
    ex.compare(targets, **TIMED, progress=_say)
    shutil.rmtree(cache_folder() / "compare", ignore_errors=True)
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    found = ex.compare(targets, **TIMED, progress=_say)
    return time.perf_counter() - began, _cpu_seconds() - cpu_began, found


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _peaks(name: str, batch: int, size: int) -> list[Row]:
    """The three peaks of a net, each beside its truth."""
    found = ex.compare([f"zoo:{name}"], batch=batch, inference_batch=batch, size=size, optimizer=OPTIMIZER)
    figures = found.nets[0].figures
    assert figures is not None, found.nets[0].failed
    target = f"zoo:{name}?batch={batch}&size={size}"
    train = ex.resolve(f"{target}&optimizer={OPTIMIZER}")
    inference = ex.resolve(target, inference=True)
    folded = replace(inference, model=lambda: fold_batch_norms(inference.model()).model)
    truths: dict[str, tuple[Callable[[NetFigures], int | None], int]] = {
        "training": (lambda f: f.training_peak, max(_allocator(train))),
        "inference": (lambda f: f.inference_peak, _allocator(inference)[-1]),
        "folded": (lambda f: f.folded_peak, _allocator(folded)[-1]),
    }
    rows = []
    for what, (read, truth) in truths.items():
        predicted = read(figures)
        assert predicted is not None
        rows.append(Row(net=name, what=what, batch=batch, size=size, predicted=predicted, allocator=truth))
        row = rows[-1]
        print(
            f"{name:24} {what:10} {batch:3} x {size:3} px {row.predicted:>13,} {row.allocator:>13,} "
            f"{row.error_percent:+.3f} %",
            flush=True,
        )
    return rows


def _allocator(work: ex.Workload) -> tuple[int, ...]:
    gc.collect()
    return true_peaks(work).steps


def _summary(net: Any) -> dict[str, Any]:
    figures = net.figures
    return {
        "target": net.target,
        "parameters": figures.parameters,
        "macs": figures.macs,
        "file_bytes": figures.file_bytes,
        "int8_bytes": figures.int8_bytes,
        "inference_peak": figures.inference_peak,
        "folded_peak": figures.folded_peak,
        "training_peak": figures.training_peak,
        "saved_per_item": figures.saved_per_item,
        "latency_ratio": round(net.latency_ratio, 3),
        "top1": net.published.top1 if net.published else None,
        "dominated_by": net.dominated_by,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETS, metavar="NET")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
