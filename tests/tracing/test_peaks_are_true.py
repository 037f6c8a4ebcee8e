"""The headline law: the dry peak and the real trace's peak equal what torch's own allocator reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.allocator import true_peaks
from benchmarks.workloads import OPTIMIZERS, WORKLOADS
from enxuto import Category, trace
from tests.tracing.small_steps import work_of

#: One of each kind; `benchmarks/cpu_truth.py` has all of them with both optimizers.
NETS = [
    ("mobilenet_v2_b16", "sgd"),
    ("lstm_b32", "adamw"),
    ("gpt_checkpointed_b8", "adamw"),
    ("vqvae_b16", "adamw"),
    ("super_resolution_b4", "sgd"),
    ("bert_mlm_b8", "sgd"),
    ("neural_ode_b512", "sgd"),
]


@pytest.mark.parametrize(("net", "optimizer"), NETS)
def test_the_dry_peak_equals_the_allocators_to_the_byte(net: str, optimizer: str) -> None:
    work = WORKLOADS[net](OPTIMIZERS[optimizer])
    assert trace(work).peak == true_peaks(work).steady


def test_the_real_trace_equals_the_allocator_where_a_node_saves_its_own_output() -> None:
    work = WORKLOADS["vqvae_b16"](OPTIMIZERS["sgd"])
    assert trace(work, world="cpu").facts.step_peaks == true_peaks(work).steps


class Tagger(nn.Module):
    """Its peak is the backward of the recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(16, 64, bidirectional=True), nn.Linear(128, 2)

    def forward(self, x: Tensor) -> Any:
        hidden, _ = self.recurrent(x)
        return self.head(hidden)


def test_every_step_is_true_where_the_first_dry_call_gives_one_tensor_for_two_results() -> None:
    work = work_of(Tagger, lambda: torch.randn(4, 2, 16))
    assert trace(work).facts.step_peaks == true_peaks(work).steps


@pytest.mark.parametrize("net", ["gpt_b8", "unet_b2"])
def test_categories_sum_to_the_curve_at_every_tick(net: str) -> None:
    timeline = trace(WORKLOADS[net](OPTIMIZERS["adamw"]))
    assert (sum(timeline.curves().values()) == timeline.curve).all()
    assert timeline.blocks[0].category is Category.PARAMETER


def test_dry_and_real_traces_see_the_same_ops_and_blocks() -> None:
    work = WORKLOADS["gpt_b8"](OPTIMIZERS["adamw"])
    dry, real = trace(work), trace(work, world="cpu")
    assert [dry.text(op.name) for op in dry.ops] == [real.text(op.name) for op in real.ops]
    assert dry.blocks.nbytes.tolist() == real.blocks.nbytes.tolist()
