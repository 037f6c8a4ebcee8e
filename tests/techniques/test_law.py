"""The law of levers on fuzzed sets of modules: simulated equals traced again, at every birth, to the byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from enxuto import Timeline, Workload, trace
from enxuto.records import Action, Checkpoint, MicroBatches, OptimizerInBackward
from enxuto.techniques import Lives, Refused
from enxuto.techniques.checkpointing import Candidate, calls_by_path, find, outermost
from enxuto.testing import check_timeline
from enxuto.testing.techniques import check_technique
from tests.techniques.nets import NETS, plain

#: Fuzzed sets a net; 216 in all.
SETS = {
    "gpt": 36,
    "llama": 30,
    "lstm": 24,
    "vit": 36,
    "unet": 30,
    "squeezenet": 24,
    "resnet18": 18,
    "mobilenet": 8,
    "resnet50": 10,
}
CHUNK = 6


def fuzzed(name: str, seed: int) -> tuple[Action, ...]:
    """A set of checkpoints of every kind that do not overlap: single, grouped, selective, with parts inside."""
    rng = random.Random(f"{name} {seed}")
    candidates = _found(name)
    chosen: list[Candidate] = []
    for candidate in rng.sample(candidates, min(len(candidates), rng.randint(1, 24))):
        if not any(_overlap(candidate, other) for other in chosen):
            chosen.append(candidate)
    return tuple(action for c in chosen for action in (c.action, *c.inside))


@cache
def _found(name: str) -> list[Candidate]:
    return find(plain(name)).candidates


def _overlap(a: Candidate, b: Candidate) -> bool:
    return any(r.enter < s.exit and s.enter < r.exit for r in a.regions for s in b.regions)


@pytest.mark.parametrize(
    ("name", "chunk"), [(name, chunk) for name, sets in SETS.items() for chunk in range(0, sets, CHUNK)]
)
def test_fuzzed_checkpoints_are_simulated_to_the_byte(name: str, chunk: int) -> None:
    """One of each chunk in the second step of AdamW, the others in the first of SGD, which is traced sooner."""
    for seed in range(chunk, min(chunk + CHUNK, SETS[name])):
        actions = fuzzed(name, seed)
        assert actions
        if seed == chunk:
            check_timeline(check_technique(NETS[name], actions, plain=plain(name)))
        else:
            check_timeline(check_technique(_brief(name), actions, plain=_plain_brief(name), steps=1))


def _brief(name: str) -> Workload:
    return replace(NETS[name], optimizer=partial(torch.optim.SGD, lr=0.1))


@cache
def _plain_brief(name: str) -> Timeline:
    return trace(_brief(name), calibrate=False, steps=1)


@pytest.mark.parametrize("name", ["gpt", "vit", "resnet18", "lstm", "unet"])
def test_modules_at_random_nested_in_each_other(name: str) -> None:
    """Any modules, also inside one another: what is refused is refused before, the rest is exact."""
    rng = random.Random(name)
    lives = Lives(plain(name))
    paths = [path for path in calls_by_path(plain(name)) if path]
    exact = 0
    for _ in range(5):
        actions: list[Checkpoint] = []
        for path in rng.sample(paths, min(len(paths), 6)):
            action = Checkpoint(modules=(path,), random=True)
            try:
                outermost(lives, [*actions, action])
            except Refused:
                continue
            actions.append(action)
        if actions:
            check_technique(NETS[name], actions, plain=plain(name))
            exact += 1
    assert exact


@pytest.mark.parametrize("name", ["gpt", "resnet18", "unet", "lstm"])
def test_the_optimizer_in_the_backward(name: str) -> None:
    simulated = check_technique(NETS[name], [OptimizerInBackward()], plain=plain(name))
    check_timeline(simulated)


@pytest.mark.parametrize(("name", "pieces"), [("gpt", 2), ("vit", 3), ("llama", 4), ("squeezenet", 2)])
def test_micro_batches_uneven_ones_too(name: str, pieces: int) -> None:
    check_timeline(check_technique(NETS[name], [MicroBatches(pieces=pieces)], plain=plain(name)))


def _mixed(first: Action, name: str) -> Sequence[Action]:
    return [first, Checkpoint(modules=("h.1" if name == "gpt" else "blocks.1",), random=True)]


@pytest.mark.parametrize("name", ["gpt", "vit"])
@pytest.mark.parametrize("first", [MicroBatches(pieces=2), OptimizerInBackward()])
def test_checkpoints_on_other_bases(first: Action, name: str) -> None:
    check_timeline(check_technique(NETS[name], _mixed(first, name), plain=plain(name)))
