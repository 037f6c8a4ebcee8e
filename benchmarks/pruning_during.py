"""Pruning while training: does memory fall? A small net on real digits: dense, shrunk on a schedule, and only masked.

    python -m benchmarks.pruning_during

Each arm trains the same net from the same weights on the same batches (seeds 0, 1, 2), with AdamW under a cosine. The
shrunk and the masked arm follow the same cubic schedule and the same ranking; the masked one sets weights to zero after
each step and keeps every tensor, as mask-based pruners do. `peak` is the highest level of torch's CPU allocator during
one real training step, parameters, gradients, optimizer state, batch and activations included. Accuracy is on the
1,000 digits that no arm trains on, at the end, after the last step; nothing was chosen by it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cpu_truth import RESULTS, machine
from enxuto.architectures import digits_cnn
from enxuto.compressing.pruning import Cubic, Importance, Ranking, Scope, Shrinking, prunable
from enxuto.compressing.pruning.importance import magnitude
from enxuto.compressing.pruning.selection import ordered
from enxuto.compressing.pruning.soundness import mask
from enxuto.records import write_atomically
from enxuto.tracing.worlds import Stage
from enxuto.units import format_bytes
from enxuto.verifying.memory import measured_peaks
from examples.digits import load_digits

RESULT = RESULTS / "pruning_during.json"
BATCH, EPOCHS, RATE = 64, 12, 3e-3
TRAINING = 4000
SEEDS = (0, 1, 2)
RATIO = 0.5
MOST_MEMORY_RATIO, MOST_POINTS = 0.60, 1.0
_BAR = 40  # characters


class Arm(Enum):
    """How the net is trained."""

    DENSE = "dense"
    SHRUNK = "shrunk"
    MASKED = "masked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one step held: the allocator's peak, and bytes of optimizer state and of weights after it."""

    step: int
    peak: int
    state: int
    weights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm under one seed: `right` of `tested` digits, the curve, seconds of all steps."""

    arm: str
    seed: int
    right: int
    tested: int
    seconds: float
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How long a run is, and when units go: from the end of the first sixth to two thirds of all steps."""

    epochs: int = EPOCHS
    ratio: float = RATIO

    def schedule(self, steps: int) -> Cubic:
        """The cubic schedule over a run of this many steps."""
        start, end = max(1, steps // 6), steps * 2 // 3
        return Cubic(ratio=self.ratio, start=start, end=end, every=max(1, (end - start) // 12))


Digits = tuple[Tensor, Tensor]


def train(arm: Arm, seed: int, training: Digits, testing: Digits, run: Run) -> Row:
    """Train one arm, and measure its steps."""
    torch.manual_seed(seed)
    model = digits_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    batches = list(_batches(training, seed, run.epochs))
    schedule = run.schedule(len(batches))
    after_step = _pruner(arm, model, optimizer, schedule)
    watched = {1, 2, *range(0, len(batches), max(1, len(batches) // 24)), schedule.end + 1, len(batches)}
    slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    curve, begun, looked = [], time.perf_counter(), 0.0
    for number, batch in enumerate(batches, start=1):

        def step(batch: Digits = batch) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            return loss

        if number in watched:
            start = time.perf_counter()
            peak = measured_peaks(Stage(model, optimizer, batch), lambda: nullcontext(step), steps=1).steady
            looked += time.perf_counter() - start
        else:
            step()
        after_step()
        slope.step()
        if number in watched:
            curve.append(_point(number, peak, model, optimizer))
    seconds = time.perf_counter() - begun - looked
    with torch.no_grad():
        right = int((model.eval()(testing[0]).argmax(1) == testing[1]).sum())
    return Row(
        arm=arm.value, seed=seed, right=right, tested=len(testing[1]), seconds=seconds, curve=tuple(curve)
    )


def _batches(training: Digits, seed: int, epochs: int) -> Iterator[Digits]:
    """Whole batches in a new order for each epoch, the same for every arm."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = training
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield images[rows], labels[rows]


def _pruner(
    arm: Arm, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Cubic
) -> Callable[[], object]:
    """What an arm does after each step."""
    example = torch.zeros(1, 1, 28, 28)
    ranking = Ranking(importance=Importance.MAGNITUDE, scope=Scope.GLOBAL)
    if arm is Arm.SHRUNK:
        return Shrinking(model, optimizer, schedule, example, ranking=ranking).step
    return _Masking(model, schedule, ranking, example) if arm is Arm.MASKED else lambda: None


class _Masking:
    """The same schedule and ranking, with zeros instead of removals: units at zero rank lowest, so they stay out."""

    def __init__(self, model: nn.Module, schedule: Cubic, ranking: Ranking, example: Tensor) -> None:
        self.model, self.schedule, self.ranking = model, schedule, ranking
        self.groups = prunable(model, example).groups
        self.gone: dict[str, tuple[int, ...]] = {}
        self.steps = 0

    def __call__(self) -> None:
        self.steps += 1
        if self.schedule.is_due(self.steps):
            order = ordered(
                self.groups,
                {group.name: magnitude(self.model, group) for group in self.groups},
                importance=self.ranking.importance,
                scope=self.ranking.scope,
                most=self.ranking.most,
            )
            units = sum(group.units for group in self.groups)
            self.gone = dict(order.first(round(self.schedule.gone_at(self.steps) * units)))
        mask(self.model, self.groups, self.gone)


def _point(step: int, peak: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Point:
    state = [value for kept in optimizer.state.values() for value in kept.values() if value.dim()]
    return Point(
        step=step,
        peak=peak,
        state=sum(value.untyped_storage().nbytes() for value in state),
        weights=sum(parameter.untyped_storage().nbytes() for parameter in model.parameters()),
    )


def run_all(digits: Digits, run: Run, seeds: tuple[int, ...] = SEEDS) -> list[Row]:
    """Every arm under every seed; prints each as it ends."""
    images, labels = digits
    training, testing = (images[:TRAINING], labels[:TRAINING]), (images[TRAINING:], labels[TRAINING:])
    rows = []
    for seed in seeds:
        for arm in Arm:
            rows.append(train(arm, seed, training, testing, run))
            print(
                f"  seed {seed} {arm.value:7} {100 * rows[-1].right / rows[-1].tested:.1f} % "
                f"{rows[-1].seconds:.0f} s"
            )
    return rows


def show(rows: list[Row]) -> bool:
    """Print the table, the curves and the bar; whether it is met."""
    found = {arm: [row for row in rows if row.arm == arm.value] for arm in Arm}
    dense = found[Arm.DENSE]
    highest = max(point.peak for row in dense for point in row.curve)
    last = {arm: statistics.mean(row.curve[-1].peak for row in kept) for arm, kept in found.items()}
    print(
        f"\n{'':8}{'peak at the end':>16}{'of dense':>10}{'optimizer state':>17}{'weights':>12}{'right':>9}{'time':>7}"
    )
    points = {}
    for arm, kept in found.items():
        points[arm] = statistics.mean(100 * row.right / row.tested for row in kept)
        seconds = [row.seconds / plain.seconds for row, plain in zip(kept, dense, strict=True)]
        print(
            f"{arm.value:8}{format_bytes(round(last[arm])):>16}{last[arm] / last[Arm.DENSE]:>10.1%}"
            f"{format_bytes(round(statistics.mean(r.curve[-1].state for r in kept))):>17}"
            f"{format_bytes(round(statistics.mean(r.curve[-1].weights for r in kept))):>12}"
            f"{points[arm]:>7.2f} %{statistics.median(seconds):>7.2f}"
        )
    print("\npeak of a step over the run, seed 0; each # is 1/40 of dense's highest")
    for arm, kept in found.items():
        for point in kept[0].curve if arm is Arm.SHRUNK else (kept[0].curve[1], kept[0].curve[-1]):
            bar = "#" * round(_BAR * point.peak / highest)
            print(f"  {arm.value:7}{point.step:>6} {bar:<{_BAR}} {format_bytes(point.peak)}")
    memory, lost = last[Arm.SHRUNK] / last[Arm.DENSE], points[Arm.DENSE] - points[Arm.SHRUNK]
    met = memory <= MOST_MEMORY_RATIO and lost <= MOST_POINTS
    print(
        f"\nbar: at most {MOST_MEMORY_RATIO:.0%} of dense's memory at the end for at most {MOST_POINTS:.0f} point: "
        f"{memory:.1%}, {lost:+.2f} points lost: {'met' if met else 'NOT met'}"
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and accuracy of pruning while training.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    run = Run(epochs=parser.parse_args().epochs)
    torch.set_num_threads(1)
    rows = run_all(load_digits(), run)
    met = show(rows)
    content = {"machine": machine(), "run": asdict(run), "rows": [asdict(row) for row in rows]}
    write_atomically(RESULT, json.dumps(content, indent=1).encode())
    print(f"wrote {RESULT}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
