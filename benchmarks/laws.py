"""The law of every lever on 200 fuzzed cases each: simulated equals traced again, at every birth, to the byte.

    python -m benchmarks.laws                     every lever
    python -m benchmarks.laws --only offload --cases 20

Cases are spread over nine nets. `checkpoint`: random sets, single, grouped, selective and nested. The other levers come
with a random set of checkpoints on top in every second case: `optimizer-in-backward` with several optimizers,
`micro-batches` at random batch sizes and numbers of pieces (the last is often smaller), `early-release` in a loop that
drops gradients late, `offload` of random modules. A case that a lever refuses is drawn again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.cpu_truth import RESULTS, machine
from enxuto.records import Action, EarlyRelease, MicroBatches, OptimizerInBackward, Timeline, write_atomically
from enxuto.techniques import Refused
from enxuto.techniques.checkpointing import find
from enxuto.testing.techniques import check_technique
from enxuto.tracing import trace
from enxuto.workload import Workload
from tests.techniques import test_law, test_offloading
from tests.techniques.nets import NETS, plain

RESULT = RESULTS / "laws.json"
WITHOUT_BATCH_NORM = ("gpt", "llama", "lstm", "vit", "squeezenet")
OPTIMIZERS: tuple[Callable[..., Optimizer], ...] = (
    partial(torch.optim.SGD, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    partial(torch.optim.AdamW, lr=1e-3),
    partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
    partial(torch.optim.RMSprop, lr=1e-3, centered=True),
    partial(torch.optim.Adagrad, lr=1e-3),
)
Case = tuple[Workload, Sequence[Action], Timeline]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One lever: cases that were exact, those that were not with their first difference, and refusals drawn again."""

    lever: str
    nets: int
    cases: int
    exact: int
    refused: int
    differences: tuple[str, ...]
    seconds: float


def checkpoint(name: str, seed: int) -> Case:
    return NETS[name], test_law.fuzzed(name, 10_000 + seed), plain(name)


def offload(name: str, seed: int) -> Case:
    actions = test_offloading.fuzzed(name, 10_000 + seed)
    if not actions:
        raise Refused("nothing could go")
    return NETS[name], actions, plain(name)


def in_backward(name: str, seed: int) -> Case:
    work = replace(NETS[name], optimizer=OPTIMIZERS[seed % len(OPTIMIZERS)])
    step = _traced(name, seed % len(OPTIMIZERS))
    return work, [OptimizerInBackward(), *_on_top(name, seed)], step


def micro_batches(name: str, seed: int) -> Case:
    if name not in WITHOUT_BATCH_NORM:
        raise Refused("batch norm")
    rng = random.Random(seed)
    size = rng.randint(2, 7)
    step = _at_batch(name, size)
    pieces = [MicroBatches(pieces=rng.randint(2, size))]
    return NETS[name].at_batch(size), [*pieces, *_on_top(name, seed)], step


def early_release(name: str, seed: int) -> Case:
    work = replace(NETS[name], step=_late)
    return work, [EarlyRelease(), *_on_top(name, seed)], _traced_late(name)


LEVERS: dict[str, Callable[[str, int], Case]] = {
    "checkpoint": checkpoint,
    "offload": offload,
    "optimizer-in-backward": in_backward,
    "micro-batches": micro_batches,
    "early-release": early_release,
}


def _on_top(name: str, seed: int) -> Sequence[Action]:
    return test_law.fuzzed(name, 20_000 + seed) if seed % 2 else ()


def _late(model: nn.Module, optimizer: Any, batch: Any) -> Any:
    """A loop that keeps the last gradients through the forward."""
    loss = _LOSSES[type(model).__name__](model, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


_LOSSES: dict[str, Any] = {}


@cache
def _traced(name: str, optimizer: int) -> Timeline:
    return trace(
        replace(NETS[name], optimizer=OPTIMIZERS[optimizer]), calibrate=False, steps=2, find_holders=False
    )


@cache
def _traced_late(name: str) -> Timeline:
    return trace(replace(NETS[name], step=_late), calibrate=False, steps=2, find_holders=False)


@cache
def _at_batch(name: str, size: int) -> Timeline:
    return trace(NETS[name].at_batch(size), calibrate=False, steps=2, find_holders=False)


def row_of(lever: str, cases: int) -> Row:
    """Check one lever on so many cases."""
    began, exact, refused, seed = time.process_time(), 0, 0, 0
    differences: list[str] = []
    nets: set[str] = set()
    names = [*NETS]
    while exact + len(differences) < cases:
        name, seed = names[seed % len(names)], seed + 1
        try:
            work, actions, step = LEVERS[lever](name, seed)
            check_technique(work, actions, plain=step)
        except Refused:
            refused += 1
            continue
        except AssertionError as error:
            differences.append(f"{name}, seed {seed}: {error}")
        else:
            exact += 1
        nets.add(name)
    return Row(
        lever=lever,
        nets=len(nets),
        cases=cases,
        exact=exact,
        refused=refused,
        differences=tuple(differences),
        seconds=round(time.process_time() - began, 1),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=sorted(LEVERS), default=[*LEVERS])
    parser.add_argument("--cases", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["ENXUTO_CACHE"] = (
            empty  # scratch counts 0 everywhere: a table that knows half of it would not do
        )
        return checked(options)


def checked(options: argparse.Namespace) -> int:
    """Check the levers asked for; 1 where one broke its law."""
    for name, work in NETS.items():
        _LOSSES[type(work.model()).__name__] = work.loss
        assert find(plain(name)).candidates
    broken = False
    for lever in options.only:
        row = row_of(lever, options.cases)
        broken |= bool(row.differences)
        said = f"{row.exact} of {row.cases} exact on {row.nets} nets, {row.refused} refused"
        print(f"{lever:24}{said}, {row.seconds:.0f} CPU s", *row.differences, sep="\n  ", flush=True)
        keep(row)
    return 1 if broken else 0


def keep(row: Row) -> None:
    """Write a row down beside those of the other levers."""
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    others = [known for known in rows if known["lever"] != row.lever]
    content = {"machine": machine(), "rows": sorted([*others, asdict(row)], key=lambda each: each["lever"])}
    write_atomically(RESULT, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
