"""How fast is the planner, and how far from the optimum? Replays a second, seconds to a plan, gaps.

    python -m benchmarks.planner_speed

`replays a second`: peaks of random sets of checkpoints, exactly replayed one after the other on one core. `plan`:
from a traced step to the cheapest plan halfway between its peak and the lowest (candidates found, searched, written).
Seconds are of this process's CPU time, so a busy machine changes them little; wall-clock seconds stand beside them.

The gap: at each of 20 budgets from the peak to the floor, how many more seconds (predicted, in percent of the plain
step's) the greedy answer and the whole search take than the lower bound that HiGHS or full enumeration proves. Where
no solver proves anything the bound is 0, and the gap says so by being large.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import nn

from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.workloads import classify, images, maps, next_token, tokens
from enxuto.architectures import gpt, mobilenet_v2, resnet18, resnet50, unet, vit_small
from enxuto.planning import Base, Planner, Speeds, explore, op_seconds
from enxuto.planning.replay import Replay
from enxuto.records import Budget, Timeline, write_atomically
from enxuto.techniques import Candidate
from enxuto.techniques.checkpointing import find
from enxuto.tracing import trace
from enxuto.workload import Workload

SETS = 4000
BUDGETS = 20


class Chain(nn.Module):
    """A residual chain of small layers: 2,500 ops in forward and backward."""

    def __init__(self, depth: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One net: the size of its step and of the choice, and what planning took."""

    net: str
    ops: int
    blocks: int
    saves: int
    candidates: int
    replays_per_second: float
    replayed: int
    plan_cpu_seconds: float
    plan_seconds: float
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One net's gaps over budgets, in percent of the plain step's predicted seconds; `proved`: at how many budgets
    the whole search met the bound."""

    net: str
    options: int
    budgets: int
    proved: int
    greedy_median: float
    greedy_worst: float
    search_median: float
    search_worst: float


def steps() -> dict[str, Callable[[], Timeline]]:
    """The traced step of each net, by name."""

    def traced(build: Callable[[], nn.Module], batch: Callable[..., object], loss: object) -> Timeline:
        adamw = partial(torch.optim.AdamW, lr=1e-3)
        return trace(
            Workload(model=build, batch=batch, loss=loss, optimizer=adamw, batch_size=4), calibrate=False
        )

    def at_4(batch: Callable[[int], object]) -> Callable[..., object]:
        return lambda n=None: batch(n or 4)

    text = at_4(tokens(256, 8192))
    nets: dict[str, tuple[Callable[[], nn.Module], Callable[..., object], object]] = {
        f"gpt{depth}": (partial(gpt, depth=depth), text, next_token) for depth in (8, 12, 24, 48)
    }
    nets["chain"] = (Chain, at_4(lambda n: torch.zeros(256 * n, 64)), lambda model, x: model(x).sum())
    nets["resnet18"] = (resnet18, at_4(images(64, 10)), classify)
    nets["resnet50"] = (resnet50, at_4(images(128, 1000)), classify)
    nets["vit_small"] = (vit_small, at_4(images(224, 1000)), classify)
    nets["unet"] = (unet, at_4(maps(128, 2)), classify)
    nets["mobilenet_v2"] = (mobilenet_v2, at_4(images(128, 1000)), classify)
    return {name: partial(traced, *parts) for name, parts in nets.items()}


def speed_of(name: str, step: Timeline) -> Row:
    """What planning a traced step takes."""
    candidates = find(step).candidates
    plan_began, cpu_began = time.monotonic(), time.process_time()
    planner = Planner([Base(actions=(), timeline=step)])
    floor = min(point.peak for searched in planner.searched() for point in searched.explored.points)
    plan = planner.plan(Budget(bytes=(step.peak + floor) // 2))
    cpu, wall = time.process_time() - cpu_began, time.monotonic() - plan_began
    return Row(
        net=name,
        ops=len(step.ops),
        blocks=len(step.blocks),
        saves=len(step.saves),
        candidates=len(candidates),
        replays_per_second=round(replays_per_second(step, candidates)),
        replayed=sum(searched.explored.replays for searched in planner.searched()),
        plan_cpu_seconds=round(cpu, 2),
        plan_seconds=round(wall, 2),
        status=plan.status.value,
    )


def replays_per_second(step: Timeline, candidates: list[Candidate]) -> float:
    """Exact peaks of random sets of candidates that do not overlap, for each second of CPU time."""
    rng = np.random.default_rng(0)
    replay = Replay(step, [candidate.edit for candidate in candidates])
    sets = [_disjoint(candidates, rng) for _ in range(SETS)]
    began = time.process_time()
    for chosen in sets:
        replay.peak(chosen)
    return SETS / (time.process_time() - began)


def _disjoint(candidates: list[Candidate], rng: np.random.Generator) -> list[int]:
    """A random set of candidates that do not drop one save twice, up to a random number of them."""
    if not candidates:
        return []
    chosen: list[int] = []
    dropped: set[int] = set()
    for index in rng.permutation(len(candidates))[: rng.integers(1, len(candidates) + 1)].tolist():
        saves = set(candidates[index].edit.dropped.tolist())
        if not saves & dropped:
            chosen.append(index)
            dropped |= saves
    return chosen


def gap_of(name: str, step: Timeline) -> Gap:
    """Greedy and whole search beside the proved bound."""
    seconds, candidates = op_seconds(step, Speeds()), find(step).candidates
    greedy = explore(step, candidates, seconds, exact=False)
    whole = explore(step, candidates, seconds, exact=True)
    plain, floor = float(seconds.sum()), whole.points[-1].peak
    behind_greedy, behind = [], []
    for budget in np.linspace(step.peak, floor, BUDGETS).astype(int).tolist():
        least, best, quick = whole.bound(budget), whole.within(budget), greedy.within(budget)
        assert best is not None  # the floor is its own
        behind.append(100 * (best.seconds - least) / plain)
        if quick is not None:
            behind_greedy.append(100 * (quick.seconds - least) / plain)
    return Gap(
        net=name,
        options=len(candidates),
        budgets=BUDGETS,
        proved=sum(gap <= 1e-6 for gap in behind),
        greedy_median=round(median(behind_greedy), 3),
        greedy_worst=round(max(behind_greedy), 3),
        search_median=round(median(behind), 3),
        search_worst=round(max(behind), 3),
    )


def main() -> int:
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    header = f"{'':14}{'ops':>6}{'blocks':>8}{'choices':>8}{'replays/s':>11}{'replayed':>10}"
    print(header + f"{'plan, CPU s':>13}{'wall s':>8}")
    rows, gaps = [], []
    for name, step_of in steps().items():
        step = step_of()
        row = speed_of(name, step)
        rows.append(row)
        counts = f"{row.net:14}{row.ops:6}{row.blocks:8}{row.candidates:8}{row.replays_per_second:11,.0f}"
        print(
            f"{counts}{row.replayed:10,}{row.plan_cpu_seconds:13.2f}{row.plan_seconds:8.2f}  {row.status}",
            flush=True,
        )
        if name not in ("gpt48", "chain"):
            gaps.append(gap_of(name, step))
    print("\ngap to the proved bound, % of the plain step's seconds (median, worst over 20 budgets)")
    for gap in gaps:
        greedy = f"greedy {gap.greedy_median:7.3f} {gap.greedy_worst:7.3f}"
        search = f"search {gap.search_median:7.3f} {gap.search_worst:7.3f}"
        print(
            f"{gap.net:14}{gap.options:5} options  {greedy}   {search}   met at {gap.proved} of {gap.budgets}"
        )
    content = {"machine": machine(), "rows": [asdict(r) for r in rows], "gaps": [asdict(g) for g in gaps]}
    write_atomically(RESULTS / "planner_speed.json", (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
