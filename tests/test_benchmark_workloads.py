"""Every benchmark workload can be built and trained without memory, under FakeTensorMode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from workloads import OPTIMIZERS, WORKLOADS

SGD = OPTIMIZERS["sgd"]
UNUSED = {"stochastic_depth_b16": "blocks.", "wavenet_b2": "residuals.7."}  # parameters a step may leave out
OWN_STEPS = [name for name, build in WORKLOADS.items() if build(SGD).step is not None]


class DryMode(FakeTensorMode):
    """FakeTensorMode of which a copied tensor's mode is no copy: nn.TransformerEncoder copies its layers."""

    def __deepcopy__(self, memo: dict[int, Any]) -> DryMode:
        return self


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> DryMode:
    """A mode in which `Module.to()` works: torch swaps no tensor that the mode's memo weakly refers to."""
    mode, swap = DryMode(), torch.utils.swap_tensors

    def forget_and_swap(first: Tensor, second: Tensor) -> None:
        mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
        swap(first, second)

    monkeypatch.setattr(torch.utils, "swap_tensors", forget_and_swap)
    return mode


def test_names_and_sizes_agree() -> None:
    assert len(WORKLOADS) >= 34
    for name, build in WORKLOADS.items():
        work = build(SGD)
        assert work.name == name
        assert name.endswith(f"_b{work.batch_size}")
        assert work.training


@pytest.mark.parametrize("name", WORKLOADS)
def test_forward_and_backward_run_dry(name: str, dry: DryMode) -> None:
    work = WORKLOADS[name](SGD)
    with dry:
        model = work.model()
        loss = work.loss(model, work.batch())
        loss.backward()
    assert isinstance(loss, FakeTensor)
    assert loss.shape == ()
    for path, parameter in model.named_parameters():
        assert isinstance(parameter, FakeTensor)
        if not path.startswith(UNUSED.get(name, "-")):
            assert (parameter.grad is not None) == parameter.requires_grad, path


@pytest.mark.parametrize("name", WORKLOADS)
def test_batches_follow_the_size_asked_for(name: str, dry: DryMode) -> None:
    work = WORKLOADS[name](SGD)
    assert work.batch_size is not None
    with dry:
        own, double = (_numbers(work.batch(n)) for n in (None, 2 * work.batch_size))
    assert double == [2 * count for count in own]


@pytest.mark.parametrize("name", OWN_STEPS)
def test_own_steps_run_dry(name: str, dry: DryMode) -> None:
    work = WORKLOADS[name](SGD)
    assert work.step is not None
    with dry:
        model = work.model()
        work.step(model, SGD(model.parameters()), work.batch())
    assert all(parameter.grad is not None for parameter in model.parameters())


def _numbers(batch: Any) -> list[int]:
    return [part.numel() for part in (batch if isinstance(batch, tuple) else (batch,))]
