"""What the recomputation benchmark says is what ran: peaks, FLOPs, gradients, and torch's wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.allocator import true_peaks
from benchmarks.measurement import beyond_noise, measured, rounding_noise, worst_difference
from benchmarks.recompute import NETS, Row, baselines, budgets, cheapest
from enxuto import Workload

ROOT = Path(__file__).resolve().parents[1]
WIDTH, DEPTH, BATCH = 64, 4, 32


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH))


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(block() for _ in range(DEPTH)))


def square(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch).square().mean()
    return loss


def checkpointed(model: nn.Sequential, every: int) -> nn.Sequential:
    for each in [*model][::every]:
        each.forward = partial(checkpoint, each.forward, use_reentrant=False)  # type: ignore[method-assign]
    return model


BATCHED = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(0))


def test_the_two_peaks_are_the_step_s() -> None:
    found = measured(stack(), square, BATCHED)
    work = Workload(
        model=stack, batch=lambda n=None: BATCHED, loss=square, optimizer=partial(torch.optim.AdamW, lr=1e-3)
    )
    truth = true_peaks(work)
    last_loss = 4  # of the step before, which `true_peaks` still holds
    assert max(found.peak, found.optimizer_peak) == truth.steady - last_loss
    assert found.static < min(found.peak, found.optimizer_peak)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_checkpoint_repeats_all_but_its_last_product(every: int) -> None:
    plain = measured(stack(), square, BATCHED)
    found = measured(checkpointed(stack(), every), square, BATCHED)
    repeated = len(range(0, DEPTH, every))
    assert found.flops - plain.flops == repeated * 2 * BATCH * WIDTH * WIDTH
    assert found.peak < plain.peak
    assert worst_difference(found.gradients, plain.gradients) == 0.0


def test_a_checkpoint_that_forgets_the_dropout_is_seen() -> None:
    model = stack()
    for each in model:
        each.forward = partial(checkpoint, each.forward, use_reentrant=False, preserve_rng_state=False)  # type: ignore[method-assign]
    found = measured(model, square, BATCHED)
    assert worst_difference(found.gradients, measured(stack(), square, BATCHED).gradients) > 0.1


def test_statistics_that_moved_twice_are_seen() -> None:
    def normed() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)))

    plain = measured(normed(), square, BATCHED)
    found = measured(checkpointed(normed(), 1), square, BATCHED)
    assert worst_difference(found.gradients, plain.gradients) == 0.0
    assert worst_difference(found.buffers, plain.buffers) == 1.0  # one batch tracked, counted twice


def test_attention_counts_on_the_cpu() -> None:
    def attend(model: nn.Module, batch: Any) -> Tensor:
        q = model(batch).view(1, 2, 16, 8)
        return nn.functional.scaled_dot_product_attention(q, q, q).sum()

    found = measured(nn.Linear(16, 16, bias=False), attend, torch.randn(16, 16))
    linear = 2 * 2 * 16 * 16 * 16  # forward, and the gradient of the weight: the batch needs none
    product = 2 * 2 * 16 * 16 * 8  # of queries and keys, or of scores and values: 2 heads
    assert found.flops == linear + 2 * product + 5 * product


def test_noise_tells_rounding_from_wrong() -> None:
    plain = measured(stack(), square, BATCHED)
    noise = rounding_noise(stack(), square, BATCHED, plain)
    assert len(noise) == len(plain.gradients)
    assert 0 < max(noise) < 1e-4

    with torch.no_grad():
        rounded = tuple(gradient.double().mul(1 + 1e-6).float() for gradient in plain.gradients)
    assert 0 < beyond_noise(rounded, plain.gradients, noise) < 10
    off_by_a_thousandth = (*plain.gradients[:-1], plain.gradients[-1] * 1.001)
    assert beyond_noise(off_by_a_thousandth, plain.gradients, noise) > 100


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_s_gradients_cost_its_forward_twice(convolution: Any, groups: int) -> None:
    images = torch.randn(2, 8, 6, 6, requires_grad=True)
    model = convolution(8, 8, kernel_size=3, stride=2, padding=1, groups=groups)
    pixels = 3 * 3 if convolution is nn.Conv2d else 6 * 6  # of the smaller side
    forward = 2 * (2 * pixels) * (3 * 3) * (8 * 8 // groups)  # 2 FLOPs, images, kernel, pairs of channels
    assert measured(model, square, images).flops == 3 * forward


@pytest.mark.parametrize(
    ("value", "difference"),
    [([1.0, 2.0], 0.0), ([1.0, 2.5], 0.25), ([float("nan"), 2.0], float("inf"))],
)
def test_worst_difference(value: list[float], difference: float) -> None:
    assert worst_difference((torch.tensor(value),), (torch.tensor([1.0, 2.0]),)) == difference


def test_a_missing_gradient_is_infinitely_far_off() -> None:
    assert worst_difference((), (torch.ones(1),)) == float("inf")


def test_budgets_go_evenly_from_full_to_floor() -> None:
    found = budgets(1000, 100)
    assert len(found) == 20
    assert (found[0], found[-1]) == (1000, 100)
    assert {a - b for a, b in pairwise(found)} <= {47, 48}


def test_the_cheapest_row_is_right_before_it_is_cheap() -> None:
    row = Row(net="", parameters="", torch="", cpu="", method="m", setting="", peak=5, flops=10)
    wrong = replace(row, gradients=0.5, beyond_noise=1e5)
    dear = replace(row, extra_flops=4)
    large = replace(row, peak=9)
    assert cheapest([wrong, dear, large], "m", 8) is dear
    assert cheapest([wrong, large], "m", 8) is wrong
    assert cheapest([large], "m", 8) is None
    assert cheapest([replace(row, failed="why")], "m", 8) is None


@pytest.mark.parametrize("name", NETS)
def test_every_baseline_has_a_key_of_its_own(name: str) -> None:
    rows = baselines(name)
    assert len({row.key for row in rows}) == len(rows)
    assert len(rows) >= 6 + 44 * NETS[name].swept


SWEEP = """
import copy, json, torch
from torch import nn
from benchmarks.measurement import measured, worst_difference
from benchmarks.memory_budget import sweep
torch.set_num_threads(1)
model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5)) for _ in range(3)))
batch = torch.randn(32, 64)
loss = lambda model, batch: model(batch).square().mean()
plain = measured(copy.deepcopy(model), loss, batch)
def measure(compiled):
    found = measured(compiled, loss, batch)
    return {"off": worst_difference(found.gradients, plain.gradients), "extra": found.flops - plain.flops}
report = lambda setting, answer: print(json.dumps([setting, answer]), flush=True)
sweep(model, [("dp", 1.0), ("greedy", 1.0), ("dp", 0.0), ("nobody", 0.5)], measure=measure, report=report)
"""


@pytest.mark.slow
def test_a_sweep_captures_once_and_sees_wrong_gradients() -> None:
    done = subprocess.run([sys.executable, "-c", SWEEP], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answers = {tuple(setting): answer for setting, answer in map(json.loads, done.stdout.splitlines())}
    assert answers["dp", 1.0]["off"] < 1e-4
    assert answers["dp", 1.0]["extra"] == 0
    assert answers["greedy", 1.0] == answers["dp", 1.0]
    assert answers["dp", 0.0]["off"] > 0.1
    assert answers["dp", 0.0]["extra"] == 3 * 2 * 32 * 64 * 64  # each ReLU's gradient needs its product
    assert "nobody" in answers["nobody", 0.5]["failed"]
