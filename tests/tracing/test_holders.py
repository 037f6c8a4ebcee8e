"""What holds a temporary at the peak: each construct that keeps a tensor alive, found by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from enxuto import Timeline
from enxuto.records import World
from enxuto.tracing import Recorder, trace
from enxuto.tracing.holders import Lookout
from enxuto.workload import live_workload
from tests.tracing.small_steps import Forward, sgd, traced, work_of

FILE = "tests/tracing/test_holders.py"
HELD = 4096  # bytes: 4 x 256 floats


def made(x: Tensor) -> Tensor:
    """The tensor that is held: no save has it, nothing reads it later."""
    return x.detach() + 1


def peak(x: Tensor) -> Tensor:
    """Makes the peak of the step here: four times what is held."""
    return x.detach().repeat(4, 1).exp().sum()


def line(of: Callable[..., Any], mark: str) -> int:
    source, first = inspect.getsourcelines(of)
    return next(first + i for i, text in enumerate(source) if f"# {mark}" in text)


def timeline_of(model: Callable[[], nn.Module], **kwargs: Any) -> Timeline:
    kwargs.setdefault("loss", lambda model, x: model(x).sum())
    return traced(model, lambda: torch.zeros(4, 256), **kwargs)


def held_in(timeline: Timeline) -> set[str]:
    """The texts on the blocks of the size that is held."""
    return {each.text for each in timeline.holders if timeline.blocks.nbytes[each.block] == HELD}


def holders_of(function: Callable[[Tensor, Tensor], Tensor]) -> set[str]:
    """What holds the block in `function(weight, x)`, the forward of the model."""
    return held_in(timeline_of(lambda: Forward(function, 256)))


def test_a_local_variable_of_the_forward() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        hidden = made(x)  # noqa: F841  what is tested is that it stays
        return weight.sum() + peak(x)  # peak

    assert holders_of(forward) == {f"local variable `hidden` of forward() at {FILE}:{line(forward, 'peak')}"}


def test_an_argument_of_a_function() -> None:
    def inner(given: Tensor, x: Tensor) -> Tensor:
        return peak(x)  # peak

    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.sum() + inner(made(x), x)

    assert holders_of(forward) == {f"argument `given` of inner() at {FILE}:{line(inner, 'peak')}"}


def test_of_two_functions_the_outer_one_is_named() -> None:
    def inner(given: Tensor, x: Tensor) -> Tensor:
        return peak(x)

    def forward(weight: Tensor, x: Tensor) -> Tensor:
        hidden = made(x)
        return weight.sum() + inner(hidden, x)  # peak

    assert holders_of(forward) == {f"local variable `hidden` of forward() at {FILE}:{line(forward, 'peak')}"}


def test_the_elements_of_a_list() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        outputs = [made(x) for _ in range(3)]  # noqa: F841
        return weight.sum() + peak(x)  # peak

    timeline = timeline_of(lambda: Forward(forward, 256))
    assert len(timeline.holders) == 3
    assert held_in(timeline) == {
        f"list element `outputs[...]` of forward() at {FILE}:{line(forward, 'peak')}"
    }


@dataclass(slots=True)
class Cache:
    keys: Tensor | None = None


class Keeper(nn.Module):
    """Keeps a tensor on itself, in one of several ways."""

    def __init__(self, keep: Callable[[Keeper, Tensor], None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(256))
        self.keep = keep
        self.cache: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.keep(self, made(x))
        return self.weight.sum() + peak(x)


def on_itself(module: Keeper, value: Tensor) -> None:
    module.cache = value


def in_an_object(module: Keeper, value: Tensor) -> None:
    module.cache = Cache(value)


def in_a_dict(module: Keeper, value: Tensor) -> None:
    module.cache = {"layers": [value]}


def in_a_deep_place(module: Keeper, value: Tensor) -> None:
    module.cache = ([[[[[value]]]]],)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (on_itself, "attribute `cache` of module 0 (Keeper)"),
        (in_an_object, "attribute `cache.keys` of module 0 (Keeper)"),
        (in_a_dict, "list element `cache['layers'][...]` of module 0 (Keeper)"),
        (in_a_deep_place, "a list that no variable was found to lead to"),
    ],
)
def test_an_attribute_of_a_module(keep: Callable[[Keeper, Tensor], None], expected: str) -> None:
    assert held_in(timeline_of(lambda: nn.Sequential(Keeper(keep)))) == {expected}


def test_what_a_module_has_kept_since_the_step_before() -> None:
    """Replaced only after the peak: at the peak the block of the step before is there."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(256))
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            high = peak(x)
            self.last = made(x)
            return self.weight.sum() + high

    assert held_in(timeline_of(Late)) == {"attribute `last` of the model (Late)"}


def test_a_variable_in_the_closure_of_the_loss() -> None:
    def build() -> Callable[[nn.Module, Tensor], Tensor]:
        kept: list[Tensor] = []

        def loss(model: nn.Module, x: Tensor) -> Tensor:
            kept[:] = [made(x)]
            return model(x).sum() + peak(x)  # peak

        return loss

    loss = build()
    place = f"loss() at {FILE}:{line(loss, 'peak')}"
    assert held_in(timeline_of(lambda: nn.Linear(256, 1), loss=loss)) == {
        f"list element `kept[...]` of {place}"
    }


def test_what_a_forward_hook_keeps() -> None:
    def model() -> nn.Module:
        features: dict[str, Tensor] = {}

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            features["first"] = made(inputs[0])

        net = nn.Sequential(nn.Linear(256, 1))
        net[0].register_forward_hook(hook)
        return net

    (text,) = held_in(timeline_of(model, loss=lambda model, x: model(x).sum() + peak(x)))
    assert text.startswith(f"dict element `features['first']` of the closure of hook() at {FILE}:")


REMEMBERED: list[Tensor] = []


def test_a_list_in_the_globals() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        REMEMBERED[:] = [made(x)]
        return weight.sum() + peak(x)

    try:
        assert holders_of(forward) == {f"list element `REMEMBERED[...]` of the globals of {FILE}"}
    finally:
        REMEMBERED.clear()


def test_the_argument_of_the_loss() -> None:
    def criterion(output: Tensor, x: Tensor) -> Tensor:
        return output[0, 0] * 0 + peak(x)  # peak

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(256))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight + x

    loss = lambda model, x: criterion(model(x), x)  # noqa: E731
    expected = f"argument `output` of criterion() at {FILE}:{line(criterion, 'peak')}"
    assert held_in(timeline_of(Net, loss=loss)) == {expected}


def test_a_variable_of_a_generator_that_waits() -> None:
    def chunks(x: Tensor) -> Iterator[int]:
        state = made(x)  # noqa: F841
        yield 0
        yield 1  # waits

    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.sum() + sum(peak(x) for _ in chunks(x))

    expected = f"local variable `state` of generator chunks() at {FILE}:{line(chunks, 'waits')}"
    assert holders_of(forward) == {expected}


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mask = made(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_what_an_autograd_node_was_given() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        doubled = Doubled.apply(weight + x)
        return doubled.sum() + peak(x)

    assert "attribute `mask` of autograd node DoubledBackward" in holders_of(forward)


def test_a_value_that_no_variable_names() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.sum() + (made(x) + peak(x)).sum()

    assert holders_of(forward) == {"an expression under evaluation (no Python object refers to it)"}


def test_a_list_that_is_being_built() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.sum() + torch.stack([made(x) + peak(x) for _ in range(3)]).sum()

    assert holders_of(forward) == {
        "a list that no variable was found to lead to",
        "an expression under evaluation (no Python object refers to it)",
    }


def test_a_gradient_that_the_backward_carries() -> None:
    """The gradient of the last branch comes first, and waits in the engine for that of the other."""

    def forward(weight: Tensor, x: Tensor) -> Tensor:
        both = weight + x
        return both.repeat(8, 1).exp().sum() + both.sin().sum()

    assert "the running backward (no Python object refers to it)" in holders_of(forward)


def test_an_argument_of_a_function_of_torch() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        images = made(x).view(4, 64, 2, 2)
        norm = partial(functional.local_response_norm, size=3)
        return weight.sum() + norm(images * 2).sum()  # calls

    called = f"called at {FILE}:{line(forward, 'calls')}"
    assert f"argument `input` of torch's local_response_norm(), {called}" in holders_of(forward)


def test_the_output_of_a_live_model() -> None:
    model = Forward(lambda weight, x: (x + weight, x - weight), 256)  # type: ignore[arg-type, return-value]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    timeline = trace(live_workload(model, torch.zeros(4, 256), optimizer=optimizer), calibrate=False)
    assert held_in(timeline) == {"tuple element `output[...]` of enxuto's _LiveLoss()"}


def test_holders_are_those_of_the_peak_and_of_large_blocks_only() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        small = x[0, 0].detach() + 1  # noqa: F841
        hidden = made(x)  # noqa: F841
        return weight.sum() + peak(x)

    timeline = timeline_of(lambda: Forward(forward, 256))
    assert {each.tick for each in timeline.holders} == {timeline.peak_tick}
    assert len(timeline.holders) == 1


class Counted:
    """A loss that counts its calls."""

    def __init__(self, loss: Callable[[nn.Module, Tensor], Tensor]) -> None:
        self.loss, self.calls = loss, 0

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        self.calls += 1
        return self.loss(model, x)


def holding(model: nn.Module, x: Tensor) -> Tensor:
    hidden = made(x)  # noqa: F841
    return model(x).sum() + peak(x)


def test_no_step_more_is_run_where_nothing_is_held_and_in_real_worlds() -> None:
    plain, held, real = Counted(lambda model, x: model(x).sum()), Counted(holding), Counted(holding)
    timeline_of(lambda: nn.Linear(256, 1), loss=plain)
    timeline_of(lambda: nn.Linear(256, 1), loss=held)
    timeline = timeline_of(lambda: nn.Linear(256, 1), loss=real, world="cpu")
    assert (plain.calls, held.calls, real.calls) == (3, 4, 3)
    assert (timeline.world, timeline.holders) == (World.CPU, ())


def test_the_timeline_is_the_same_as_without_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_of(lambda: nn.Linear(256, 1), lambda: torch.zeros(4, 256), loss=holding)
    looked = trace(work, calibrate=False)
    monkeypatch.setattr(Lookout, "needed", False)
    plain = trace(work, calibrate=False)
    assert looked.holders
    assert not plain.holders
    for name in ("blocks", "saves", "calls", "ops", "phases", "accumulations", "facts"):
        assert getattr(looked, name) == getattr(plain, name)


def test_a_step_that_does_something_else_next_time_is_noted() -> None:
    count = 0

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        hidden = made(x) if count < 4 else made(x * 2)  # noqa: F841
        return model(x).sum() + peak(x)

    timeline = timeline_of(lambda: nn.Linear(256, 1), loss=loss)
    assert timeline.holders == ()
    assert timeline.facts.notes == (
        "what holds the temporaries at the peak was not found: AnotherStepError: one more step ran other ops "
        "than the recorded one",
    )


def test_a_step_that_cannot_run_again_is_noted() -> None:
    batches = iter(range(3))

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        next(batches)
        return holding(model, x)

    timeline = timeline_of(lambda: nn.Linear(256, 1), loss=loss)
    assert timeline.holders == ()
    assert timeline.facts.notes == ("what holds the temporaries at the peak was not found: StopIteration",)


def test_the_look_goes_through_a_handler_of_every_exception() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        hidden = made(x)  # noqa: F841
        try:
            return weight.sum() + peak(x)
        except Exception:
            return weight.sum()

    (text,) = holders_of(forward)
    assert text.startswith("local variable `hidden` of forward()")


def test_an_action_at_a_tick_runs_once() -> None:
    recorder, calls = Recorder(dry=True), []
    recorder.call_at(2, lambda: calls.append(recorder.clock))
    for _ in range(5):
        recorder._tick()
    assert calls == [3]


def test_a_held_tensor_dies_with_the_trace() -> None:
    work = work_of(lambda: nn.Linear(256, 1), lambda: torch.zeros(4, 256), loss=holding, optimizer=sgd)
    assert trace(work, calibrate=False).holders
    assert torch.is_grad_enabled()
    assert (torch.ones(2, requires_grad=True) * 2).sum().item() == 4  # no mode is left on


def test_who_only_counts_runs_no_further_step() -> None:
    calls = []

    def forward(weight: Tensor, x: Tensor) -> Tensor:
        hidden = made(x)  # noqa: F841  what is tested is that it stays
        calls.append("forward")
        return weight.sum() + peak(x)

    work = work_of(lambda: Forward(forward, 256), lambda: torch.zeros(4, 256))
    found = trace(work, calibrate=False)
    assert (len(calls), bool(found.holders)) == (4, True)
    calls.clear()
    counted = trace(work, calibrate=False, find_holders=False)
    assert (len(calls), counted.holders) == (3, ())
    assert counted.curve.tolist() == found.curve.tolist()
