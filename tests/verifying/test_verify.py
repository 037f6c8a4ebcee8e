"""A verdict on plans that hold, and on such as promise too little memory, other gradients or no way back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from enxuto.applying import apply as own_apply
from enxuto.errors import UsageError
from enxuto.records import (
    Checkpoint,
    EarlyRelease,
    InferenceMode,
    MicroBatches,
    Numerics,
    OneKernelStep,
    OptimizerInBackward,
    Outcome,
    Verdict,
    from_json,
    to_json,
)
from enxuto.targets import resolve
from enxuto.verifying import Cap, CapRun, process_base, run_capped, verify
from enxuto.verifying import capping as capping_module
from enxuto.verifying.capping import judged
from enxuto.verifying.gradients import largest_difference, tolerance_of
from enxuto.verifying.randomness import without_dropout
from enxuto.verifying.runs import Promise
from enxuto.verifying.undo import check_undo
from tests.verifying.applied import CHECKPOINTS, WIDTH, StandIn, plan_of, stack, true_promise, work_of

NAMES = ["memory", "loss", "gradients", "buffers", "update", "undo", "speed", "cap"]
PASSED, FAILED, NOT_CHECKED = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_CHECKED


def outcomes(verdict: Verdict) -> dict[str, Outcome]:
    assert [check.name for check in verdict.checks] == NAMES
    return {check.name: check.outcome for check in verdict.checks}


@pytest.fixture(scope="module")
def checkpointed() -> Any:
    return true_promise(*CHECKPOINTS, work=work_of())


def test_checkpoints_keep_every_promise(checkpointed: Any) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    said: list[str] = []
    verdict = verify(checkpointed, work_of(), apply=StandIn(), progress=said.append)
    assert outcomes(verdict) == dict.fromkeys(NAMES, PASSED) | {"speed": NOT_CHECKED, "cap": NOT_CHECKED}
    assert verdict.passed
    assert verdict["memory"].got == checkpointed.after.peak < checkpointed.before.peak
    assert verdict["memory"].tolerance == pytest.approx(0.005 * checkpointed.after.peak)
    assert verdict["speed"].got > 0.5
    assert "max_slowdown_ratio" in verdict["speed"].how
    assert "not asked for" in verdict["cap"].how
    assert from_json(to_json(verdict)) == verdict
    assert len(said) == 4
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_promise_of_too_little_memory_fails(checkpointed: Any) -> None:
    lean = replace(checkpointed.after, peak=int(checkpointed.after.peak * 0.99))
    check = verify(replace(checkpointed, after=lean), work_of(), apply=StandIn())["memory"]
    assert check.outcome is FAILED
    assert check.got > check.expected + check.tolerance


def test_a_peak_over_the_budget_fails_even_as_promised(checkpointed: Any) -> None:
    tight = replace(checkpointed, budget=replace(checkpointed.budget, bytes=checkpointed.after.peak - 1))
    check = verify(tight, work_of(), apply=StandIn())["memory"]
    assert check.outcome is FAILED
    assert check.got == check.expected
    assert "over the budget" in check.how


def scale_a_gradient(model: nn.Module) -> None:
    parameter = next(model.parameters())
    assert parameter.grad is not None
    parameter.grad *= 1.001


@pytest.mark.parametrize("numerics", [Numerics.IDENTICAL, Numerics.ROUNDING])
def test_other_gradients_fail(numerics: Numerics) -> None:
    plan = plan_of(*CHECKPOINTS, numerics=numerics)
    verdict = verify(plan, work_of(), apply=StandIn(spoil=scale_a_gradient))
    found = outcomes(verdict)
    assert (found["gradients"], found["update"]) == (FAILED, FAILED)
    assert (found["loss"], found["buffers"], found["undo"]) == (PASSED, PASSED, PASSED)
    assert verdict["gradients"].got == pytest.approx(1e-3, rel=0.01)
    assert "0.0.weight" in verdict["gradients"].how
    assert not verdict.passed


def test_a_bit_is_enough_where_identical_is_promised() -> None:
    def nudge(model: nn.Module) -> None:
        gradient = next(model.parameters()).grad
        assert gradient is not None
        gradient.copy_(torch.nextafter(gradient, gradient + 1))

    wrong = StandIn(spoil=nudge)
    strict = verify(plan_of(*CHECKPOINTS), work_of(), apply=wrong)["gradients"]
    lenient = verify(plan_of(*CHECKPOINTS, numerics=Numerics.ROUNDING), work_of(), apply=wrong)["gradients"]
    assert (strict.outcome, lenient.outcome) == (FAILED, PASSED)


def test_batch_statistics_counted_twice_fail() -> None:
    def count(model: nn.Module) -> None:
        with torch.no_grad():
            model(torch.randn(8, WIDTH))

    found = outcomes(verify(plan_of(), work_of(), apply=StandIn(spoil=count)))
    assert (found["gradients"], found["buffers"]) == (PASSED, FAILED)


def plain(drop: float) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(drop), nn.Linear(WIDTH, WIDTH)
    )


def test_pieces_are_compared_without_dropout() -> None:
    plan = plan_of(MicroBatches(pieces=4), numerics=Numerics.ROUNDING)
    verdict = verify(plan, work_of(plain(0.5)), apply=StandIn())
    found = outcomes(verdict)
    assert (found["loss"], found["gradients"], found["update"]) == (PASSED, PASSED, NOT_CHECKED)
    assert 0 < verdict["gradients"].got < 1e-5
    assert "dropout off" in verdict["gradients"].how
    assert found["buffers"] is NOT_CHECKED  # it has none


def test_pieces_of_a_net_with_batch_norm_fail() -> None:
    plan = plan_of(MicroBatches(pieces=4), numerics=Numerics.ROUNDING)
    found = outcomes(verify(plan, work_of(), apply=StandIn()))
    assert (found["gradients"], found["buffers"]) == (FAILED, FAILED)


class Noise(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * torch.rand_like(x)


def test_other_random_numbers_in_pieces_are_not_checked() -> None:
    plan = plan_of(MicroBatches(pieces=4), numerics=Numerics.ROUNDING)
    noisy = work_of(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), Noise()))
    verdict = verify(plan, noisy, apply=StandIn())
    assert outcomes(verdict)["gradients"] is NOT_CHECKED
    assert "other than dropout" in verdict["gradients"].how
    assert verify(plan_of(), noisy, apply=StandIn())["gradients"].outcome is PASSED


def test_an_update_inside_the_backward_is_compared_by_what_it_leaves() -> None:
    plan = plan_of(OptimizerInBackward())
    verdict = verify(plan, work_of(), apply=StandIn())
    found = outcomes(verdict)
    assert (found["gradients"], found["update"], found["undo"]) == (NOT_CHECKED, PASSED, PASSED)
    assert "see update" in verdict["gradients"].how

    def drift(model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)

    assert verify(plan, work_of(), apply=StandIn(spoil=drift))["update"].outcome is FAILED


def test_a_model_that_differs_from_itself_is_not_checked() -> None:
    calls = iter(range(10**6))
    work = work_of(loss=lambda model, x: model(x).square().mean() * (1 + next(calls)))
    verdict = verify(plan_of(), work, apply=StandIn())
    found = outcomes(verdict)
    assert {found[name] for name in ("loss", "gradients", "buffers", "update")} == {NOT_CHECKED}
    assert "not deterministic" in verdict["gradients"].how


def test_numbers_that_are_not_finite_are_not_checked() -> None:
    work = work_of(loss=lambda model, x: model(x).sum() * float("nan"))
    verdict = verify(plan_of(), work, apply=StandIn())
    assert outcomes(verdict)["gradients"] is NOT_CHECKED
    assert "not finite" in verdict["gradients"].how


def test_a_lossy_plan_is_not_compared() -> None:
    found = outcomes(verify(plan_of(*CHECKPOINTS, numerics=Numerics.LOSSY), work_of(), apply=StandIn()))
    assert {found[name] for name in ("loss", "gradients", "buffers", "update")} == {NOT_CHECKED}
    assert found["undo"] is PASSED


def test_inference_is_compared_by_its_output() -> None:
    work = work_of(optimizer=None, loss=lambda model, x: model(x))
    verdict = verify(plan_of(), work, apply=StandIn())
    found = outcomes(verdict)
    assert (found["loss"], found["gradients"], found["update"]) == (PASSED, NOT_CHECKED, NOT_CHECKED)
    assert "inference" in verdict["gradients"].how


def test_a_step_of_the_user_s_own_is_compared_by_its_update() -> None:
    def step(model: nn.Module, optimizer: Any, batch: Any) -> Any:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    verdict = verify(plan_of(*CHECKPOINTS), work_of(step=step), apply=StandIn())
    found = outcomes(verdict)
    assert (found["gradients"], found["update"], found["loss"]) == (NOT_CHECKED, PASSED, PASSED)
    assert "step of its own" in verdict["gradients"].how


def test_where_the_untouched_step_does_not_fit_it_is_not_run() -> None:
    verdict = verify(plan_of(*CHECKPOINTS, before=2**60), work_of(), apply=StandIn())
    found = outcomes(verdict)
    assert {found[name] for name in NAMES[1:]} == {NOT_CHECKED}
    assert "free here" in verdict["speed"].how


@pytest.mark.parametrize(("most", "outcome"), [(1000.0, PASSED), (0.001, FAILED)])
def test_a_speed_that_was_asked_for_is_judged(most: float, outcome: Outcome) -> None:
    assert verify(plan_of(max_slowdown_ratio=most), work_of(), apply=StandIn())["speed"].outcome is outcome


def test_dry_tensors_verify_nothing() -> None:
    with pytest.raises(UsageError, match="real"):
        verify(plan_of(), work_of(), apply=StandIn(), world="dry")


# ---- Undo ------------------------------------------------------------------------------------------------------


def keep_forward(model: nn.Module, _: Any) -> None:
    model[0].forward = model[0].forward  # type: ignore[index,operator]


def keep_hook(model: nn.Module, _: Any) -> None:
    model[1].register_forward_hook(lambda *_: None)  # type: ignore[index,operator]


def keep_gradient_hook(model: nn.Module, _: Any) -> None:
    next(model.parameters()).register_post_accumulate_grad_hook(lambda p: None)


def keep_eval(model: nn.Module, _: Any) -> None:
    model[2].eval()  # type: ignore[index,operator]


def keep_momentum(model: nn.Module, _: Any) -> None:
    model[0][1].momentum = 0.0  # type: ignore[index]


def keep_weights(model: nn.Module, _: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1)


def keep_copy(model: nn.Module, _: Any) -> None:
    layer = model[0][0]  # type: ignore[index]
    layer.weight = nn.Parameter(layer.weight.detach().clone())


def keep_group(_: nn.Module, optimizer: Any) -> None:
    optimizer.param_groups[0]["fused"] = True


def keep_defaults(_: nn.Module, optimizer: Any) -> None:
    optimizer.defaults["foreach"] = True


def keep_step_hook(_: nn.Module, optimizer: Any) -> None:
    optimizer.register_step_post_hook(lambda *_: None)


def lose_state(_: nn.Module, optimizer: Any) -> None:
    optimizer.state.clear()


def draw(*_: Any) -> None:
    torch.rand(1)


@pytest.mark.parametrize(
    "leave",
    [
        keep_forward,
        keep_hook,
        keep_gradient_hook,
        keep_eval,
        keep_momentum,
        keep_weights,
        keep_copy,
        keep_group,
        keep_defaults,
        keep_step_hook,
        lose_state,
        draw,
    ],
)
def test_what_is_not_put_back_fails(leave: Any) -> None:
    promise = Promise(plan=plan_of(*CHECKPOINTS), work=work_of(), apply=StandIn(leave=leave))
    check = check_undo(promise)
    assert check.outcome is FAILED
    assert check.got >= 1
    assert "changed: " in check.how


def test_a_global_flag_that_stays_fails() -> None:
    before = torch.get_float32_matmul_precision()

    def leave(*_: Any) -> None:
        torch.set_float32_matmul_precision("medium")

    try:
        check = check_undo(Promise(plan=plan_of(), work=work_of(), apply=StandIn(leave=leave)))
    finally:
        torch.set_float32_matmul_precision(before)
    assert check.outcome is FAILED
    assert "matmul precision" in check.how


def test_what_a_step_itself_changes_is_no_change() -> None:
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return super().forward(x)

    work = work_of(lambda: Counting(nn.Linear(WIDTH, WIDTH)))
    check = check_undo(Promise(plan=plan_of(Checkpoint(modules=("0",))), work=work, apply=StandIn()))
    assert check.outcome is PASSED, check.how


# ---- Numbers and dropout ---------------------------------------------------------------------------------------


def test_the_tolerance_follows_the_dtype() -> None:
    assert tolerance_of(torch.float32) == pytest.approx(1e-5, rel=0.01)
    assert tolerance_of(torch.float64) < 2e-14
    assert tolerance_of(torch.bfloat16) == 8 / 128
    assert tolerance_of(torch.int64) == 0.0


def test_a_difference_has_the_scale_of_its_tensor() -> None:
    one = {"large": torch.full((2,), 100.0), "small": torch.tensor([1.0, 1e-4])}
    two = {"large": torch.full((2,), 100.0), "small": torch.tensor([1.0, 1e-4 + 1e-3])}
    assert largest_difference(one, one).equal
    found = largest_difference(one, two)
    assert (found.where, found.equal) == ("small", False)
    assert found.error == pytest.approx(1e-3, rel=1e-3)


def test_rounding_of_what_is_zero_is_measured_by_the_others() -> None:
    one = {"weight": torch.ones(2), "zero": torch.tensor([1e-9])}
    two = {"weight": torch.ones(2), "zero": torch.tensor([-1e-9])}
    assert largest_difference(one, two).error == pytest.approx(2e-7)


@pytest.mark.parametrize(
    "other",
    [{}, {"x": torch.ones(3)}, {"x": torch.ones(2).double()}, {"x": torch.tensor([1.0, float("nan")])}],
)
def test_what_cannot_be_compared_is_infinitely_far_off(other: dict[str, torch.Tensor]) -> None:
    found = largest_difference({"x": torch.ones(2)}, other)
    assert found.error == float("inf")
    assert not found.equal


def test_a_count_has_to_be_exact() -> None:
    assert largest_difference({"n": torch.tensor(1)}, {"n": torch.tensor(2)}).error == float("inf")


def functions(x: torch.Tensor) -> torch.Tensor:
    F = nn.functional
    x = F.dropout(x, 0.5)
    x = F.dropout(x, p=0.5, training=True)
    x = torch.dropout(x, 0.5, True)
    x = F.alpha_dropout(x, 0.5, training=True)
    return F.scaled_dot_product_attention(x, x, x, None, 0.5)


def test_no_dropout_drops_nothing() -> None:
    x = torch.randn(2, 6, 8)
    layers = [
        nn.Dropout(0.5),
        nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True),
        nn.LSTM(8, 8, num_layers=2, dropout=0.5, batch_first=True),
    ]
    model = nn.ModuleList(layers)

    def outputs() -> list[torch.Tensor]:
        return [functions(x), layers[0](x), layers[1](x, x, x)[0], layers[2](x)[0]]

    with without_dropout(model):
        one, two = outputs(), outputs()
    assert all(map(torch.equal, one, two))
    assert not any(map(torch.equal, outputs(), outputs()))
    assert [layers[0].p, layers[1].dropout, layers[2].dropout] == [0.5, 0.5, 0.5]


# ---- The cap ---------------------------------------------------------------------------------------------------


def cap_run(**how: Any) -> CapRun:
    plain = {
        "how": Cap.CGROUP_V1,
        "limit": 1,
        "finished": False,
        "died_of_memory": False,
        "returncode": 1,
        "peak": 5,
        "seconds": 1.0,
        "output": "",
        "reason": "because",
    }
    return CapRun(**plain | how)


LIVES, DIES, BREAKS = {"finished": True}, {"died_of_memory": True}, {"output": "ImportError: x"}


@pytest.mark.parametrize(
    ("untouched", "planned", "outcome"),
    [
        (DIES, LIVES, PASSED),
        (LIVES, LIVES, FAILED),
        (DIES, DIES, FAILED),
        (BREAKS, LIVES, NOT_CHECKED),
        (DIES, BREAKS, NOT_CHECKED),
    ],
)
def test_two_fates_are_one_outcome(untouched: Any, planned: Any, outcome: Outcome) -> None:
    assert judged(7, cap_run(**untouched), cap_run(**planned)).outcome is outcome


def test_a_cap_that_cannot_be_set_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(plan: Any, target: str | None) -> Any:
        return capping_module.check_cap(plan, target, wanted=True, progress=lambda line: None)

    assert "TARGET" in check(plan_of(), None).how
    monkeypatch.setattr(
        capping_module, "run_capped", lambda *_, **__: cap_run(how=Cap.NONE, reason="no limit")
    )
    assert check(plan_of(), "zoo:digits_cnn").how == "not checked: no limit"
    monkeypatch.setattr(capping_module, "run_capped", lambda *_, **__: cap_run())
    assert "too little" in check(plan_of(promised=2**20, before=2**21), "zoo:digits_cnn").how


@pytest.mark.slow
def test_the_untouched_step_runs_free_and_dies_under_a_tight_cap() -> None:
    env = capping_module._environment()
    target = "zoo:unet?batch=2&size=128"
    command = [sys.executable, "-m", "enxuto.verifying.capped_step", target, "-", "1"]
    free = run_capped(command, limit=8 * 2**30, timeout=120, env=env)
    if free.how is Cap.NONE:
        pytest.skip(free.reason)
    assert free.finished, free.output
    assert "ran 1 steps" in free.output
    base = process_base(("enxuto.verifying.capped_step",), env=env, how=free.how)
    tight = run_capped(command, limit=base + 32 * 2**20, timeout=120, env=env, how=free.how)
    assert tight.died_of_memory


# ---- With the library's own way of applying --------------------------------------------------------------------


def own_promise(*actions: Any, work: Any, **settings: Any) -> Any:
    return true_promise(*actions, work=work, apply=own_apply, **settings)


ROUNDING = {"numerics": Numerics.ROUNDING}


@pytest.mark.parametrize(
    ("actions", "model", "settings"),
    [
        (CHECKPOINTS, stack, {}),
        ((*CHECKPOINTS, OptimizerInBackward()), stack, {}),
        ((*CHECKPOINTS, EarlyRelease()), stack, {}),
        ((OneKernelStep(),), stack, ROUNDING),
        ((MicroBatches(pieces=4), EarlyRelease()), plain(0.5), ROUNDING),
    ],
    ids=["checkpoints", "optimizer in backward", "early release", "one kernel", "micro-batches"],
)
def test_the_library_s_own_levers_keep_their_promises(actions: Any, model: Any, settings: Any) -> None:
    work = work_of(model)
    verdict = verify(own_promise(*actions, work=work, **settings), work)
    assert Outcome.FAILED not in outcomes(verdict).values(), verdict
    assert {verdict["memory"].outcome, verdict["loss"].outcome, verdict["undo"].outcome} == {PASSED}
    assert PASSED in (verdict["gradients"].outcome, verdict["update"].outcome)


def test_inference_mode_keeps_its_promise() -> None:
    work = work_of(optimizer=None, loss=lambda model, x: model(x), grad=True)
    verdict = verify(own_promise(InferenceMode(), work=work), work)
    assert (outcomes(verdict)["memory"], outcomes(verdict)["loss"]) == (PASSED, PASSED)
    assert Outcome.FAILED not in outcomes(verdict).values(), verdict


def test_a_step_of_the_user_s_own_stays_theirs_under_a_plan() -> None:
    def step(model: nn.Module, optimizer: Any, batch: Any) -> Any:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 1e-6)
        optimizer.step()
        return loss

    work = work_of(step=step, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    verdict = verify(own_promise(*CHECKPOINTS, work=work), work)
    assert (outcomes(verdict)["update"], outcomes(verdict)["memory"]) == (PASSED, PASSED)


@pytest.mark.slow
def test_a_plan_lives_under_a_real_cap_that_the_untouched_step_dies_of() -> None:
    target = "zoo:gpt?batch=8&length=128"
    work = resolve(target)
    plan = own_promise(*(Checkpoint(modules=(f"h.{n}",), random=True) for n in range(6)), work=work)
    check = capping_module.check_cap(plan, target, wanted=True, progress=lambda line: None)
    if "no memory limit" in check.how:
        pytest.skip(check.how)
    assert check.outcome is PASSED, check.how
