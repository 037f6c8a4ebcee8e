"""Whatever fails, and wherever, torch, numpy, Python and the live model are as they were."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from enxuto.errors import EnxutoError
from enxuto.tracing import trace
from enxuto.workload import live_workload

PATCHED = {
    "Module.__call__": lambda: nn.Module.__call__,
    "engine": lambda: torch.autograd._engine_run_backward,
    "hooks": lambda: torch.autograd.graph.disable_saved_tensors_hooks,
    "swap": lambda: torch.utils.swap_tensors,
    "rng": lambda: torch.get_rng_state,
    "dispatch modes": torch.utils._python_dispatch._get_current_dispatch_mode,
    "saved tensor hooks": lambda: torch._C._autograd._top_saved_tensors_default_hooks(False),
    "optimizer hooks": lambda: (
        list(_global_optimizer_pre_hooks),
        list(_global_optimizer_post_hooks),
    ),
    "grad mode": torch.is_grad_enabled,
    "dtype": torch.get_default_dtype,
    "device": torch.get_default_device,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "gc": gc.isenabled,
    "random": random.getstate,
    "numpy": lambda: str(np.random.get_state()),
    "torch": lambda: torch.get_rng_state().tolist(),
}


class Net(nn.Module):
    def __init__(self, fails: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.drop = nn.Dropout(0.5)
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x)))
        np.random.rand(), random.random()
        return self.last(x if self.fails is None else Fails.apply(x, self.fails))


class Fails(torch.autograd.Function):
    """Runs a function in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[], Any]) -> Tensor:
        ctx.function = function
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.function()
        return grad, None


def raise_on_purpose() -> None:
    raise ValueError("on purpose")


def interrupt() -> None:
    raise KeyboardInterrupt


class BadSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ValueError("on purpose")


def bad_criterion(output: Tensor, target: Tensor) -> Tensor:
    raise ValueError("on purpose")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters)


CASES: dict[str, tuple[Any, Any, Any, type[BaseException] | None]] = {
    "a good step": (None, adam, nn.CrossEntropyLoss(), None),
    "a failing backward": (raise_on_purpose, adam, nn.CrossEntropyLoss(), EnxutoError),
    "an interrupted backward": (interrupt, adam, nn.CrossEntropyLoss(), KeyboardInterrupt),
    "a failing update": (
        None,
        lambda parameters: BadSGD(parameters, lr=0.1),
        nn.CrossEntropyLoss(),
        EnxutoError,
    ),
    "a failing criterion": (None, adam, bad_criterion, EnxutoError),
    "a loss that is no scalar": (None, adam, lambda output, target: output, EnxutoError),
}


def picture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    seen = {f"state {name}": value.tolist() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        seen[f"identity {name}"] = (id(parameter), parameter.data_ptr(), parameter._version)
        seen[f"gradient {name}"] = None if parameter.grad is None else parameter.grad.tolist()
        seen[f"gradient hooks {name}"] = parameter._post_accumulate_grad_hooks
        seen[f"optimizer {name}"] = {k: v.tolist() for k, v in optimizer.state.get(parameter, {}).items()}
    for name, module in model.named_modules():
        hooks = [len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks")]
        seen[f"module {name}"] = (module.training, hooks, id(module), "__call__" in vars(module))
    return seen | {name: read() for name, read in PATCHED.items()}


@pytest.mark.parametrize("world", ["dry", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(case: str, world: str) -> None:
    fails, make, criterion, error = CASES[case]
    model = Net(fails)
    model.drop.eval()
    optimizer = make(model.parameters())
    model.first.weight.grad = torch.ones_like(model.first.weight)  # the other gradients stay None
    batch = (torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))
    before = picture(model, optimizer)
    work = live_workload(model, batch, loss=criterion, optimizer=optimizer)
    if error is None:
        assert trace(work, world=world, calibrate=False).peak > 0
    else:
        with pytest.raises(error):
            trace(work, world=world, calibrate=False)
    assert picture(model, optimizer) == before


@pytest.mark.parametrize("world", ["dry", "cpu"])
def test_a_users_own_settings_survive(world: str) -> None:
    gc.disable()
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    try:
        work = live_workload(nn.Linear(4, 2), torch.randn(3, 4))
        assert trace(work, world=world, calibrate=False).peak > 0
        assert not gc.isenabled()
        assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() is torch.float64
    finally:
        gc.enable()
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


def test_optimizer_state_of_a_live_step_is_copied_and_stands_before() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    moments = {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    timeline = trace(live_workload(model, torch.randn(3, 4), optimizer=optimizer), steps=1, calibrate=False)
    names = {timeline.text(b.name) for b in timeline.blocks if b.born == 0}
    assert {"weight.exp_avg", "weight.exp_avg_sq", "weight.step", "bias.exp_avg"} <= names
    assert all(torch.equal(v, optimizer.state[model.weight][k]) for k, v in moments.items())


def test_hooks_of_the_users_own_run_and_stay() -> None:
    model, seen = nn.Linear(4, 2), []
    model.register_forward_hook(lambda *_: seen.append("forward"))
    model.weight.register_post_accumulate_grad_hook(lambda _: seen.append("gradient"))
    hooks = dict(model.weight._post_accumulate_grad_hooks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trace(live_workload(model, torch.randn(3, 4), optimizer=optimizer), calibrate=False)
    assert dict(model.weight._post_accumulate_grad_hooks) == hooks
    assert len(model._forward_hooks) == 1
    assert seen.count("forward") == 4  # three steps, and one more to see what holds the output
