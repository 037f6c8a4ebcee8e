"""What watching costs and how true it is: time ratios of interleaved pairs, and recorded peaks beside the allocator's.

    python -m benchmarks.watch [--pairs N]

Watched and plain steps alternate within one process, on one thread; the ratio of each pair's processor time is
taken and the median of the ratios reported, with quartiles, and the ratio of the sums, in which the recorded steps
count in full. The default level is `enxuto.watch` as it is; the first
steps, which are recorded at any cost, are run before and reported by themselves. The census is measured on the same
step with a leak in it, from the moment that growth is seen.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from enxuto.monitoring import watch
from enxuto.records import How
from enxuto.targets import resolve
from enxuto.verifying.memory import true_peaks

RESULTS = Path(__file__).parent / "results" / "watch.json"
NETS = {
    "ResNet-18, batch 4, 64 px": "zoo:resnet18?batch=4&size=64",
    "GPT, batch 1, 32 tokens": "zoo:gpt?batch=1&length=32",
}
_BLOCK = 40  # steps in a row that are watched, and then as many that are not


def stepped(work: Any) -> Callable[[], Any]:
    """A training step of a workload on live objects."""
    model = work.model()
    optimizer = work.optimizer(model.parameters())
    batch = work.batch()

    def step() -> Any:
        optimizer.zero_grad()
        loss = work.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return step


def seconds(step: Callable[[], Any], times: int) -> float:
    """The processor's time for so many steps: one thread, so that a busy machine counts little."""
    began = time.process_time()
    for _ in range(times):
        step()
    return time.process_time() - began


def overhead(step: Callable[[], Any], *, pairs: int, block: int, warm: int) -> dict[str, Any]:
    """Ratios of watched to plain blocks of steps; the watch goes on from block to block."""
    run = watch(name="benchmark", say=print)
    ratios, plains, watcheds = [], [], []
    with run:
        first = seconds(step, warm)
        for pair in range(pairs):
            first_watched = (
                pair % 2 == 1
            )  # the order alternates, so that a drift of the machine's speed cancels
            if first_watched:
                watched = seconds(step, block)
            run.pause()
            plain = seconds(step, block)
            run.resume()
            if not first_watched:
                watched = seconds(step, block)
            plains.append(plain)
            watcheds.append(watched)
            ratios.append(watched / plain)
    low, middle, high = statistics.quantiles(ratios, n=4)
    recording = run.recording
    return {
        "ratio": round(middle, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "ratio_of_sums": round(sum(watcheds) / sum(plains), 4),
        "pairs": pairs,
        "steps_a_block": block,
        "plain_seconds": round(statistics.median(plains) / block, 4),
        "first_steps": {"n": warm, "seconds": round(first, 3)},
        "recorded": sum(step.step > warm for step in recording.recorded),
        "recorded_cost_seconds": round(statistics.median(s.cost for s in recording.recorded), 4),
    }


def truth(target: str) -> dict[str, Any]:
    """The recorded peak of step 3 beside the allocator's own."""
    work = resolve(target)
    allocator = true_peaks(work).steady
    gc.collect()
    step = stepped(work)
    with watch(name="truth", say=print) as run:
        for _ in range(4):
            step()
    recorded = next(row for row in run.recording.steps if row.step == 3)
    assert recorded.peak_how is How.RECORDED
    return {
        "recorded": recorded.peak,
        "allocator": allocator,
        "difference_percent": round(100 * (recorded.peak - allocator) / allocator, 3),
    }


def default_level(target: str, *, pairs: int, block: int) -> dict[str, Any]:
    """The cost on a step in which nothing is wrong."""
    gc.collect()  # models of an earlier measurement would be counted
    step = stepped(resolve(target))
    seconds(step, 3)
    return overhead(step, pairs=pairs, block=block, warm=26)


def census(target: str, *, pairs: int, block: int) -> dict[str, Any]:
    """The same ratios where the step leaks a little: the census looks for it."""
    gc.collect()
    step = stepped(resolve(target))
    kept: list[Any] = []

    def leaks() -> None:
        kept.append(step().detach().expand(1000).clone())

    result = overhead(leaks, pairs=pairs, block=block, warm=24)
    kept.clear()
    gc.collect()
    return {key: result[key] for key in ("ratio", "quartiles", "ratio_of_sums", "pairs", "recorded")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--block", type=int, default=_BLOCK)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, target in NETS.items():
        row = {
            "peak": truth(target),
            "default": default_level(target, pairs=options.pairs, block=options.block),
            "census": census(target, pairs=max(options.pairs // 2, 3), block=options.block),
        }
        rows[name] = row
        print(name, json.dumps(row, indent=1), flush=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "nets": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
