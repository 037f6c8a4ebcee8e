"""What a trace says when it cannot run as asked: usage errors, the user's own errors, the fall back to a real
run."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from enxuto import Workload, World
from enxuto.errors import UndecidableError, UsageError, UserCodeError
from enxuto.tracing import trace
from tests.tracing.small_steps import Forward, sgd, traced, work_of


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("my own mistake")


@pytest.mark.parametrize("world", ["dry", "cpu"])
def test_an_error_in_forward_is_the_users_with_its_cause(world: str) -> None:
    with pytest.raises(UserCodeError, match="model raised KeyError: 'my own mistake'") as caught:
        traced(Raises, world=world)
    assert isinstance(caught.value.__cause__, KeyError)
    frames = [entry.name for entry in pytest.ExceptionInfo.from_exception(caught.value.__cause__).traceback]
    assert frames[-1] == "forward"


def fail(*args: Any) -> Any:
    raise ValueError("on purpose")


@pytest.mark.parametrize("part", ["model", "batch", "loss", "optimizer", "step"])
@pytest.mark.parametrize("world", ["dry", "cpu"])
def test_an_error_anywhere_in_the_workload_is_the_users(part: str, world: str) -> None:
    parts: dict[str, Any] = {"model": lambda: nn.Linear(16, 4), part: fail}
    with pytest.raises(UserCodeError, match="raised ValueError: on purpose"):
        trace(work_of(**parts), world=world, calibrate=False)


@pytest.mark.parametrize(
    ("function", "refusal"),
    [
        (lambda w, x: w * x if x.sum() > -1e9 else x, "DataDependentOutputException"),
        (lambda w, x: w * x.abs().sum().item(), "DataDependentOutputException"),
        (lambda w, x: (w * x)[x.abs().nonzero()[:, 0]], "DynamicOutputShapeException"),
    ],
)
def test_a_model_that_reads_values_runs_for_real_and_says_why(function: Any, refusal: str) -> None:
    timeline = traced(lambda: Forward(function))
    assert timeline.world is World.CPU
    assert timeline.facts.dry_refused.startswith(f"{refusal}: aten.")
    assert (timeline.facts.dry, timeline.facts.deaths) == ("", "last")


def test_a_real_run_that_does_not_fit_is_undecidable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 100

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    with pytest.raises(UndecidableError, match=r"cannot run dry .* needs at least 256 B with 100 B free"):
        traced(lambda: Forward(lambda w, x: w * x.sum().item()))


class Truncated(nn.Module):
    """Initialised by a function that reads values under fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(16, 4))
        nn.init.trunc_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_constructor_that_reads_values_is_built_elsewhere_and_runs_dry() -> None:
    timeline = traced(Truncated)
    assert timeline.world is World.DRY
    (note,) = timeline.facts.notes
    assert note.startswith("the model was built on the meta device first, since its constructor reads values")
    assert timeline.blocks[0].nbytes == 16 * 4 * 4


class ReadsItsOwnWeight(Truncated):
    def __init__(self) -> None:
        super().__init__()
        self.scale = float(self.weight.detach().abs().max())


def test_a_constructor_that_needs_real_values_is_built_for_real_and_runs_dry() -> None:
    timeline = traced(ReadsItsOwnWeight)
    assert timeline.world is World.DRY
    (note,) = timeline.facts.notes
    assert note.startswith("the model was built for real first, ")


@pytest.mark.parametrize("world", ["dry", "cpu"])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, x: m(x), r"must return a scalar tensor, not a tensor of shape \(8, 4\)"),
        (lambda m, x: [m(x).sum()], "must return a scalar tensor, not list"),
        (lambda m, x: None, "must return a scalar tensor, not NoneType"),
        (lambda m, x: m(x).detach().sum(), "does not depend on any parameter that requires a gradient"),
    ],
)
def test_a_wrong_loss_is_a_usage_error(loss: Any, message: str, world: str) -> None:
    with pytest.raises(UsageError, match=message):
        traced(lambda: nn.Linear(16, 4), loss=loss, world=world)


def test_a_batch_on_another_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"the batch is on meta and the model on cpu; move the batch"):
        trace(work_of(lambda: nn.Linear(16, 4), lambda: torch.randn(8, 16, device="meta")))


def test_a_model_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"model\(\) must return a torch.nn.Module, not a dict"):
        trace(work_of(dict))  # type: ignore[arg-type, return-value]


def test_training_without_parameters_is_a_usage_error() -> None:
    work = Workload(
        model=nn.ReLU,
        batch=lambda n=None: torch.ones(2),
        loss=lambda m, x: m(x).sum(),
        optimizer=lambda p: sgd([torch.nn.Parameter(torch.ones(1))]),
    )
    with pytest.raises(UsageError, match="no parameters to train; give optimizer=None for inference"):
        trace(work)


@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_than_one_step_is_a_usage_error(steps: int) -> None:
    with pytest.raises(UsageError, match=f"steps must be at least 1, not {steps}"):
        trace(work_of(lambda: nn.Linear(16, 4)), steps=steps)


def test_an_unknown_world_or_way_of_being_dry_is_refused() -> None:
    with pytest.raises(UsageError, match="dry= takes 'fake' or 'meta', not 'wet'"):
        trace(work_of(lambda: nn.Linear(16, 4)), dry="wet")
    with pytest.raises(UsageError, match=r"world= takes .dry., .cpu., .cuda., not .moon."):
        trace(work_of(lambda: nn.Linear(16, 4)), world="moon")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_cuda_world_without_a_gpu_says_what_to_use() -> None:
    with pytest.raises(UsageError, match="needs a CUDA GPU, and torch sees none here; use dry or cpu"):
        trace(work_of(lambda: nn.Linear(16, 4)), world="cuda")


def test_without_calibration_scratch_is_assumed_zero_and_says_so() -> None:
    timeline = traced(lambda: nn.Conv2d(3, 4, 3), lambda: torch.randn(2, 3, 8, 8))
    assert timeline.facts.scratch == "assumed 0"
    assert timeline.facts.scratch_unknown > 0
    assert not timeline.ops.scratch.any()


def test_meta_tensors_give_the_same_peak_as_fake_ones() -> None:
    work = work_of(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)))
    fake, meta = trace(work, calibrate=False), trace(work, dry="meta", calibrate=False)
    assert (fake.facts.dry, meta.facts.dry) == ("fake", "meta")
    assert fake.facts.step_peaks == meta.facts.step_peaks


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_each_step_has_its_peak_and_the_last_is_the_timeline(steps: int) -> None:
    timeline = trace(work_of(lambda: nn.Linear(16, 4)), steps=steps, calibrate=False)
    assert len(timeline.facts.step_peaks) == steps
    assert timeline.facts.step_peaks[-1] == timeline.peak
