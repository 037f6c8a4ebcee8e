"""What does a byte of activation memory cost? Peaks and extra FLOPs of recomputation, the baselines side by side.

    python -m benchmarks.recompute                                every net
    python -m benchmarks.recompute --baselines-only --net unet    one of them, without our planner

Every net trains with dropout on. `peak` is the allocator's highest level in forward and backward, parameters,
optimizer state and batch included; the optimizer's own peak stands apart. `extra` is what is computed again, in
percent of the plain step's FLOPs. Gradients and batch norm's statistics after one seeded pass are compared with those
of the untouched net: `identical` to the bit, equal but for `rounding`, or `WRONG`, each with the worst difference of a
gradient in units of its largest value. What is rounding each net says itself: how far its gradients move when its
weights move in their last place (ResNet-50's by a fifth, in some layers). The baselines are none; a
checkpoint (`torch.utils.checkpoint`, not reentrant) around each block, or around every n-th; and on three nets torch's
own `activation_memory_budget`, at 11 budgets with each of its solvers (`ilp` needs scipy). Ours is a plan for each of
20 budgets from the plain step's peak to the lowest that the planner finds.

Each row is measured in a process of its own and kept in results/recompute.json; a later run measures only what is
missing there for this torch, this CPU and these nets. `--fresh` measures everything again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.cpu_truth import RESULTS, machine
from benchmarks.forks import Answer, in_a_fork
from benchmarks.measurement import (
    LossFunction,
    Measured,
    beyond_noise,
    measured,
    rounding_noise,
    worst_difference,
)
from benchmarks.memory_budget import BUDGETS, SOLVERS, Setting, sweep
from benchmarks.workloads import classify, images, maps, next_token, tokens
from enxuto.architectures import gpt, mobilenet_v2, resnet50, unet, vit_small
from enxuto.planning import Speeds, explore, op_seconds
from enxuto.records import PHASE_CODE, Action, Phase, Timeline, write_atomically
from enxuto.techniques import checkpointing
from enxuto.techniques.checkpointing import find
from enxuto.tracing import trace
from enxuto.workload import Workload

RESULT = RESULTS / "recompute.json"
BATCH = 4
METHODS = NONE, EVERY_BLOCK, EVERY_NTH, TORCH, OURS = (
    "none",
    "every block",
    "every n-th block",
    "torch budget",
    "enxuto",
)
STRIDES = (2, 3, 4, 6, 8, 12)
ROUNDING = 100.0
"""Times its own rounding noise that a gradient may be off before it is called wrong: 1.8 at most and 17,000 at least
were measured, with nothing between."""
MOVED = 0.1
"""Relative difference above which batch norm's statistics, or its count of batches, were updated twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A net with dropout, and what it trains on."""

    parameters: str
    build: Callable[[], nn.Module]
    blocks: Callable[[Any], Iterable[nn.Module]]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss: LossFunction
    swept: bool = False

    def ready(self) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """The same weights and the same batch at each call."""
        torch.manual_seed(0)
        return self.build(), self.batch(BATCH)


def _gpt(depth: int, *, swept: bool = False) -> Net:
    return Net(
        parameters=f"batch {BATCH}, 256 tokens, depth {depth}, dropout 0.1",
        build=partial(gpt, depth=depth, dropout=0.1),
        blocks=lambda model: model.h,
        batch=tokens(256, 8192),
        loss=next_token,
        swept=swept,
    )


NETS = {
    "resnet50": Net(
        parameters=f"batch {BATCH}, 128 px, dropout 0.1",
        build=partial(resnet50, dropout=0.1),
        blocks=lambda model: [*model.layer1, *model.layer2, *model.layer3, *model.layer4],
        batch=images(128, 1000),
        loss=classify,
        swept=True,
    ),
    "vit_small": Net(
        parameters=f"batch {BATCH}, 224 px, dropout 0.1",
        build=partial(vit_small, dropout=0.1),
        blocks=lambda model: model.blocks,
        batch=images(224, 1000),
        loss=classify,
        swept=True,
    ),
    "gpt8": _gpt(8, swept=True),
    "gpt12": _gpt(12),
    "gpt24": _gpt(24),
    "unet": Net(
        parameters=f"batch {BATCH}, 128 px, dropout 0.1",
        build=partial(unet, dropout=0.1),
        blocks=lambda net: [net.stem, net.down1, net.down2, net.down3, net.up3, net.up2, net.up1],
        batch=maps(128, 2),
        loss=classify,
    ),
    "mobilenet_v2": Net(
        parameters=f"batch {BATCH}, 128 px, dropout 0.2",
        build=mobilenet_v2,
        blocks=lambda net: [*net.features][1:-1],  # between the two plain convolutions
        batch=images(128, 1000),
        loss=classify,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One net under one setting of one method, or why there is no figure.

    Args:
        net, parameters: which net, in which shape.
        torch, cpu: what it ran on.
        method: one of METHODS.
        setting: of the method, as text.
        static, peak, optimizer_peak: bytes, as `Measured` has them.
        flops: of the step; extra_flops: how many more than the plain step's.
        gradients, buffers: worst relative difference from the plain step's; 0.0 is equal to the bit.
        beyond_noise: worst difference of a gradient in units of its rounding noise.
        graphs: what torch's partitioner made, as a digest; rows of equal graphs were measured once.
        failed: the exception in one line; empty where there are figures.
    """

    net: str
    parameters: str
    torch: str
    cpu: str
    method: str
    setting: str
    static: int = 0
    peak: int = 0
    optimizer_peak: int = 0
    flops: int = 0
    extra_flops: int = 0
    gradients: float = 0.0
    buffers: float = 0.0
    beyond_noise: float = 0.0
    graphs: str = ""
    failed: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return self.net, self.parameters, self.torch, self.cpu, self.method, self.setting

    @property
    def extra_percent(self) -> float:
        return 100 * self.extra_flops / (self.flops - self.extra_flops)

    @property
    def wrong(self) -> bool:
        return self.beyond_noise > ROUNDING


class Rows:
    """The rows of earlier runs and of this one; written down after each new row."""

    def __init__(self, *, fresh: bool) -> None:
        self._kept: dict[tuple[str, ...], Row] = {}
        if RESULT.exists() and not fresh:
            stored = [Row(**row) for row in json.loads(RESULT.read_text())["rows"]]
            self._kept = {row.key: row for row in stored}

    def missing(self, wanted: Iterable[Row]) -> list[Row]:
        """Those of the wanted rows that have no figures yet."""
        return [row for row in wanted if row.key not in self._kept or self._kept[row.key].failed]

    def keep(self, row: Row, found: Answer) -> None:
        """Fill a row with what was found, print it and write all rows down."""
        row = replace(row, **found)
        self._kept[row.key] = row
        print(f"{row.net:13}{line(row)}", flush=True)
        content = {"machine": machine(), "rows": [asdict(row) for row in self._kept.values()]}
        write_atomically(RESULT, (json.dumps(content, indent=1) + "\n").encode())

    def of(self, wanted: Iterable[Row]) -> list[Row]:
        """The wanted rows, filled."""
        return [self._kept[row.key] for row in wanted]


def main() -> int:
    options = _options()
    torch.set_num_threads(1)  # a fork would lack the others
    rows = Rows(fresh=options.fresh)
    for name in options.net:
        measure_baselines(name, rows)
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    ours = {name: [] if options.baselines_only else measure_ours(name, rows) for name in options.net}
    for name in options.net:
        print_tables(name, [*rows.of(baselines(name)), *ours[name]])
    return 0


# ---- The baselines -----------------------------------------------------------------------------------------


def baselines(name: str) -> list[Row]:
    """The rows that a net's baselines have, without their figures."""
    net = NETS[name]
    empty = partial(Row, net=name, parameters=net.parameters, torch=torch.__version__, cpu=machine()["cpu"])
    with torch.device("meta"):
        depth = len([*net.blocks(net.build())])
    rows = [empty(method=NONE, setting=""), empty(method=EVERY_BLOCK, setting="")]
    rows += [empty(method=EVERY_NTH, setting=f"n = {n}") for n in STRIDES if n < depth]
    if net.swept:
        settings = [(solver, budget) for solver in SOLVERS for budget in BUDGETS]
        rows += [empty(method=TORCH, setting=f"{solver} {budget}") for solver, budget in settings]
    return rows


def our_plans(name: str, plain: Row) -> dict[str, tuple[Action, ...]]:
    """The planner's plan for each of 20 budgets from the plain step's peak to its own floor, by setting."""
    net = NETS[name]
    work = Workload(
        model=lambda: net.ready()[0],
        batch=lambda n=None: net.batch(n or BATCH),
        loss=net.loss,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        batch_size=BATCH,
        name=name,
    )
    step = without_update(trace(work))
    # what is compared is FLOPs; bytes moved only break ties
    cost = op_seconds(step, Speeds(flops=1.0, bytes=1e3, start=0.0))
    began = time.process_time()
    explored = explore(step, find(step).candidates, cost)
    spent = time.process_time() - began
    floor = explored.points[-1].peak
    print(f"{name}: {explored.replays} plans replayed in {spent:.1f} s; floor {_mib(floor)} MiB")
    plans: dict[str, tuple[Action, ...]] = {}
    for budget in budgets(plain.peak, floor):
        point = explored.within(budget)
        if point is not None:
            actions = explored.actions(point)
            digest = hashlib.sha256(msgspec.json.encode(actions)).hexdigest()[:8]
            plans[f"{len(point.chosen)} regions, {_mib(point.peak)} MiB ({digest})"] = actions
    return plans


def without_update(step: Timeline) -> Timeline:
    """The step with an update that makes no temporaries: forward and backward have its peak."""
    blocks = step.blocks
    update = blocks.phase == PHASE_CODE[Phase.OPTIMIZER]
    return replace(step, blocks=replace(blocks, nbytes=np.where(update, 0, blocks.nbytes)))


def measure_ours(name: str, rows: Rows) -> list[Row]:
    """The planner's rows of a net, those without figures measured, each in a fork."""
    net = NETS[name]
    plans = our_plans(name, rows.of(baselines(name))[0])
    empty = partial(Row, net=name, parameters=net.parameters, torch=torch.__version__, cpu=machine()["cpu"])
    wanted = {setting: empty(method=OURS, setting=setting) for setting in plans}
    missing = rows.missing(wanted.values())
    if missing:
        reference = Reference.of(net)
        for row in missing:
            rows.keep(row, in_a_fork(partial(_planned, net, plans[row.setting], reference)))
    return rows.of(wanted.values())


def _planned(net: Net, actions: Any, reference: Reference) -> Answer:
    model, batch = net.ready()
    with checkpointing.apply(model, actions):
        return figures(model, net.loss, batch, reference)


def measure_baselines(name: str, rows: Rows) -> None:
    """Measure those baselines of a net that have no figures yet, each in a fork."""
    missing = rows.missing(baselines(name))
    if not missing:
        return
    net = NETS[name]
    reference = Reference.of(net)
    for row in missing:
        if row.method != TORCH:
            rows.keep(row, in_a_fork(partial(_checkpointed, net, row, reference)))
    swept = {_setting(row): row for row in missing if row.method == TORCH}
    if swept:
        model, batch = net.ready()
        sweep(
            model,
            swept,
            measure=lambda compiled: figures(compiled, net.loss, batch, reference),
            report=lambda setting, found: rows.keep(swept[setting], found),
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """The plain net's measurement, and how much of its gradients is noise."""

    plain: Measured
    noise: tuple[float, ...]

    @classmethod
    def of(cls, net: Net) -> Reference:
        model, batch = net.ready()
        plain = measured(model, net.loss, batch)
        model, batch = net.ready()
        return cls(plain, rounding_noise(model, net.loss, batch, plain))


def figures(model: nn.Module, loss: LossFunction, batch: Any, reference: Reference) -> Answer:
    """The figures of a row: a fresh net as somebody changed it, beside the plain one."""
    plain = reference.plain
    found = measured(model, loss, batch)
    return {
        "static": found.static,
        "peak": found.peak,
        "optimizer_peak": found.optimizer_peak,
        "flops": found.flops,
        "extra_flops": found.flops - plain.flops,
        "gradients": worst_difference(found.gradients, plain.gradients),
        "beyond_noise": beyond_noise(found.gradients, plain.gradients, reference.noise),
        "buffers": worst_difference(found.buffers, plain.buffers),
    }


def _checkpointed(net: Net, row: Row, reference: Reference) -> Answer:
    model, batch = net.ready()
    if row.method != NONE:
        stride = 1 if row.method == EVERY_BLOCK else int(row.setting.removeprefix("n = "))
        for block in [*net.blocks(model)][::stride]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return figures(model, net.loss, batch, reference)


def _setting(row: Row) -> Setting:
    solver, budget = row.setting.split()
    return solver, float(budget)


# ---- The tables --------------------------------------------------------------------------------------------


def print_tables(name: str, rows: list[Row]) -> None:
    """Every row of a net, then the methods side by side under 20 budgets."""
    plain = rows[0]
    print(
        f"\n{name}: {NETS[name].parameters}; AdamW, torch {plain.torch}\n"
        f"static {_mib(plain.static)} MiB; optimizer's own peak {_mib(plain.optimizer_peak)} MiB\n"
        f"{'method':18}{'setting':36}{'peak MiB':>10}{'extra':>9}  gradients, statistics"
    )
    for row in rows:
        print(line(row))
    print(f"\n{'budget MiB':>10}" + "".join(f"{method:>30}" for method in METHODS))
    for budget in budgets(plain.peak, min(row.peak for row in rows if not (row.failed or row.wrong))):
        cells = (_cell(cheapest(rows, method, budget)) for method in METHODS)
        print(f"{_mib(budget):>10}" + "".join(f"{cell:>30}" for cell in cells))


def line(row: Row) -> str:
    """A row as a line of the table."""
    start = f"{row.method:18}{row.setting:36}"
    if row.failed:
        return f"{start}failed: {row.failed}"
    numerics = _sameness(row) + (", statistics moved" if row.buffers > MOVED else "")
    return f"{start}{_mib(row.peak):>10}{row.extra_percent:>+8.2f}%  {numerics}"


def budgets(full: int, floor: int, count: int = 20) -> list[int]:
    """Evenly spaced bytes from a plain step's peak down to the least that is known to work."""
    return [full - (full - floor) * step // (count - 1) for step in range(count)]


def cheapest(rows: Iterable[Row], method: str, budget: int) -> Row | None:
    """A method's row of fewest FLOPs under a budget: of right gradients if there is one, else of wrong ones."""
    fitting = [r for r in rows if r.method == method and not r.failed and r.peak <= budget]
    return min(fitting, key=lambda row: (row.wrong, row.extra_flops, row.peak), default=None)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{_mib(row.peak)} {row.extra_percent:+.2f}%{' WRONG' if row.wrong else ''}"


def _sameness(row: Row) -> str:
    if row.gradients == 0:
        return "identical"
    return f"{'WRONG' if row.wrong else 'rounding'} {row.gradients:.1e}"


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--baselines-only", action="store_true", help="leave the planner's rows out")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
