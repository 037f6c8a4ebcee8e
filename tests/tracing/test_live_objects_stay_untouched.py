"""A live model that is explained is never changed, whatever happens."""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from enxuto.errors import UserCodeError
from enxuto.tracing import trace
from enxuto.workload import live_workload


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("on purpose")


def live() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    model[2].eval()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    return model, optimizer, batch


def picture(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    return [
        *[t.clone() for t in model.state_dict().values()],
        *[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        *[v.clone() for state in optimizer.state.values() for v in state.values()],
        [m.training for m in model.modules()],
        [p._post_accumulate_grad_hooks for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.get_rng_state(),
        str(np.random.get_state()),
        str(random.getstate()),
        torch.is_grad_enabled(),
        gc.isenabled(),
        nn.Module.__call__,
        torch.autograd._engine_run_backward,
        torch.autograd.graph.disable_saved_tensors_hooks,
        torch.utils.swap_tensors,
        torch.get_rng_state,
    ]


def same(left: Any, right: Any) -> bool:
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize("world", ["dry", "cpu"])
def test_tracing_changes_nothing(world: str) -> None:
    model, optimizer, batch = live()
    before = picture(model, optimizer)
    work = live_workload(model, batch, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
    assert trace(work, world=world, calibrate=False).peak > 0
    assert all(map(same, before, picture(model, optimizer)))


def test_a_failing_model_changes_nothing_either() -> None:
    model, optimizer, _ = live()
    failing = live_workload(Failing(), torch.randn(2, 4))
    before = picture(model, optimizer)
    with pytest.raises(UserCodeError, match="on purpose"):
        trace(failing)
    assert all(map(same, before, picture(model, optimizer)))
