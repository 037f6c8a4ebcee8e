"""Workload: what it refuses, how it changes size, how it is made from live objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enxuto import Workload
from enxuto.errors import UsageError
from enxuto.workload import live_workload


def work(**changes: Any) -> Workload:
    parts: dict[str, Any] = {
        "model": lambda: nn.Linear(4, 2),
        "batch": lambda n=None: torch.zeros(n or 8, 4),
        "loss": lambda model, x: model(x).sum(),
        "optimizer": torch.optim.Adam,
        "batch_size": 8,
    }
    return Workload(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, r"Workload\(model=...\) takes a function, not a int; for live objects use"),
        ({"batch": torch.ones(2)}, r"Workload\(batch=...\) takes a function, not a Tensor"),
        ({"loss": None}, r"Workload\(loss=...\) takes a function, not a NoneType"),
        ({"optimizer": 0.1}, "takes a function of the parameters, for instance lambda parameters"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        work(**changes)


def test_a_live_module_is_callable_and_yet_no_model() -> None:
    with pytest.raises(UsageError, match="for live objects use"):
        work(model=nn.Linear(4, 2))


def test_a_live_optimizer_is_refused_with_what_to_write() -> None:
    with pytest.raises(UsageError, match="lambda parameters"):
        work(optimizer=torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1))


def test_another_batch_size_reaches_the_batch() -> None:
    double = work().at_batch(16)
    assert (double.batch_size, double.batch().shape, double.batch(3).shape) == (16, (16, 4), (3, 4))
    assert double.at_batch(2).batch().shape == (2, 4)
    with pytest.raises(UsageError, match="a batch size must be at least 1, not 0"):
        work().at_batch(0)


def test_inference_has_no_optimizer_and_no_step() -> None:
    plain = work(step=lambda m, o, x: None).inference(grad=True)
    assert (plain.training, plain.optimizer, plain.step, plain.grad) == (False, None, None, True)


def test_a_live_model_is_copied() -> None:
    model = nn.Linear(4, 2)
    made = live_workload(model, torch.ones(3, 4)).model()
    assert made is not model
    assert torch.equal(made.weight, model.weight)
    assert made.weight.data_ptr() != model.weight.data_ptr()


def test_a_live_optimizer_keeps_groups_settings_and_state() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 1e-5}, {"params": model[1].parameters()}], lr=0.5
    )
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    made = live_workload(model, torch.ones(3, 4), optimizer=optimizer)
    assert made.optimizer is not None
    copied = made.model()
    twin = made.optimizer(copied.parameters())
    assert [group["lr"] for group in twin.param_groups] == [1e-5, 0.5]
    assert twin.param_groups[1]["params"][0] is copied[1].weight
    state, original = twin.state[copied[0].weight], optimizer.state[model[0].weight]
    assert torch.equal(state["exp_avg"], original["exp_avg"])
    assert state["exp_avg"].data_ptr() != original["exp_avg"].data_ptr()


def test_an_optimizer_of_some_parameters_only_is_copied_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    made = live_workload(model, torch.ones(3, 4), optimizer=torch.optim.SGD(model[1].parameters(), lr=0.1))
    assert made.optimizer is not None
    copied = made.model()
    assert made.optimizer(copied.parameters()).param_groups[0]["params"] == list(copied[1].parameters())


def mean_square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).pow(2).mean()


@dataclass
class HasLoss:
    loss: Tensor


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (torch.ones(2, 3), 6.0),
        ((torch.ones(2), torch.ones(2, dtype=torch.int64), torch.ones(4)), 6.0),
        (HasLoss(torch.tensor(5.0)), 5.0),
        ({"a": [torch.ones(2)]}, 2.0),
    ],
)
def test_without_a_criterion_the_outputs_own_loss_or_sum_is_taken(output: Any, loss: float) -> None:
    made = live_workload(Returns(output), torch.ones(2))
    assert float(made.loss(made.model(), torch.ones(2))) == loss


def test_a_criterion_takes_output_and_target() -> None:
    model = nn.Linear(4, 2)
    batch = (torch.ones(3, 4), torch.zeros(3, 2))
    made = live_workload(model, batch, loss=mean_square)
    assert torch.equal(made.loss(model, made.batch()), mean_square(model(batch[0]), batch[1]))


class Records(nn.Module):
    seen: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        Records.seen = (len(args), sorted(kwargs))
        return torch.zeros(())


@pytest.mark.parametrize(
    ("batch", "seen"),
    [
        (torch.ones(2), (1, [])),
        ((torch.ones(2), torch.ones(2)), (2, [])),
        ([torch.ones(2)], (1, [])),
        ({"a": torch.ones(2), "b": torch.ones(2)}, (0, ["a", "b"])),
    ],
)
def test_a_batch_is_given_as_the_model_takes_it(batch: Any, seen: Any) -> None:
    made = live_workload(Records(), batch)
    made.loss(made.model(), made.batch())
    assert Records.seen == seen


def test_a_live_batch_is_resized_along_its_first_dimension() -> None:
    made = live_workload(nn.Linear(4, 2), (torch.ones(3, 4), torch.ones(3, dtype=torch.int64), 7))
    assert made.batch_size == 3
    inputs, target, number = made.batch(5)
    assert (inputs.shape, target.shape, target.dtype, number) == ((5, 4), (5,), torch.int64, 7)
    unknown = live_workload(nn.Linear(4, 2), (torch.ones(3, 4), torch.ones(2)))
    assert unknown.batch_size is None
    with pytest.raises(UsageError, match="their first dimensions differ"):
        unknown.batch(5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, torch.ones(2)), "needs a torch.nn.Module or a Workload first, not a int"),
        ((nn.ReLU(), torch.ones(2), mean_square), r"the batch must be a pair \(inputs, target\)"),
        ((nn.ReLU(), torch.ones(2), None, 0.1), "needs a torch optimizer, not a float"),
    ],
)
def test_live_objects_of_the_wrong_kind_are_refused(arguments: Any, message: str) -> None:
    model, batch, *rest = arguments
    with pytest.raises(UsageError, match=message):
        live_workload(model, batch, **dict(zip(("loss", "optimizer"), rest, strict=False)))
