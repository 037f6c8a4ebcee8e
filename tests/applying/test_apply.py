"""A plan on real models: gradients, statistics, guards, the user's own loop, undo, and the exported script."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enxuto import Workload, apply, export
from enxuto.errors import UsageError
from enxuto.records import (
    Action,
    Budget,
    Checkpoint,
    Cost,
    EarlyRelease,
    FrozenBatchNorm,
    Lever,
    MicroBatches,
    Numerics,
    OneKernelStep,
    OptimizerInBackward,
    Plan,
    SingleTensorStep,
    SmallerBatch,
    Status,
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


def net(norm: bool = True, dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(*(Block(8) for _ in range(4)), nn.Linear(8, 3))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    if not norm:
        for block in list(model)[:4]:
            block.norm = nn.LayerNorm(8)
    return model


def batch(n: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    n = n or 10
    return torch.randn(n, 8, generator=generator), torch.randint(3, (n,), generator=generator)


def loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(pair[0]), pair[1])


def work(**changes: Any) -> Workload:
    usual = Workload(
        model=net,
        batch=batch,
        loss=loss,
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        batch_size=10,
    )
    return replace(usual, **changes)


def plan_of(*actions: Action) -> Plan:
    levers = tuple(
        Lever(
            action=action,
            title=str(action),
            numerics=Numerics.IDENTICAL,
            peak_before=2,
            peak_after=1,
            slowdown_ratio=1.0,
            why="",
        )
        for action in actions
    )
    return Plan(
        workload="net",
        torch=torch.__version__,
        budget=Budget(bytes=1),
        status=Status.FEASIBLE,
        before=Cost(peak=2, flops=1, seconds=1.0),
        after=Cost(peak=1, flops=1, seconds=1.0),
        levers=levers,
        refused=(),
        frontier=(),
        floor_holds=(),
        solver="",
        gap_ratio=0.0,
    )


def trained(made: Workload, *actions: Action, steps: int = 3) -> nn.Module:
    """The model after some steps with one seed, under a plan."""
    with apply(plan_of(*actions), made) as run:
        torch.manual_seed(11)
        for _ in range(steps):
            run.step(made.batch())
    return run.model


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


RANDOM_BLOCK = Checkpoint(modules=("1",), random=True)
EXACT: list[tuple[Action, ...]] = [
    (RANDOM_BLOCK,),
    (Checkpoint(modules=("0", "1", "2"), random=True),),
    (Checkpoint(modules=("0", "1"), random=True), Checkpoint(modules=("1",), random=True)),
    (Checkpoint(modules=("2",), random=True, keep=(0, 1)), Checkpoint(modules=("3.up",))),
    (OptimizerInBackward(),),
    (OptimizerInBackward(), RANDOM_BLOCK),
    (EarlyRelease(),),
]


@pytest.mark.parametrize("actions", EXACT, ids=str)
def test_identical_levers_train_to_the_same_bits(actions: tuple[Action, ...]) -> None:
    """Parameters and batch-norm statistics after three steps, dropout on."""
    assert same(trained(work()), trained(work(), *actions))


def test_without_its_random_state_a_checkpoint_draws_other_numbers() -> None:
    assert not same(trained(work()), trained(work(), Checkpoint(modules=("1",), random=False)))


def test_a_fused_step_is_equal_up_to_rounding() -> None:
    plain, fused = trained(work()), trained(work(), OneKernelStep())
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pieces", [2, 3, 10])
def test_micro_batches_have_the_gradient_of_the_whole(pieces: int) -> None:
    made = work(model=partial(net, norm=False, dropout=0.0))
    with apply(plan_of(), made) as run:
        whole = run.backward(made.batch())
    with apply(plan_of(MicroBatches(pieces=pieces)), made) as cut:
        total = cut.backward(made.batch())
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    for a, b in zip(run.model.parameters(), cut.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def padded(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    target = pair[1].clone()
    target[pair[1] == 0] = -100
    return F.cross_entropy(model(pair[0]), target)


def test_padding_needs_a_count_and_is_exact_with_one() -> None:
    made = work(model=partial(net, norm=False, dropout=0.0), loss=padded)
    cut = plan_of(MicroBatches(pieces=3))
    with apply(cut, made) as run, pytest.raises(UsageError, match=r"Workload\(items="):
        run.step(made.batch())
    counted = replace(made, items=lambda pair: (pair[1] != 0).sum())
    with apply(plan_of(), made) as whole, apply(cut, counted) as run:
        whole.backward(made.batch())
        run.backward(made.batch())
    for a, b in zip(whole.model.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_a_sum_over_the_batch_is_refused_in_pieces() -> None:
    def summed(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(pair[0]), pair[1], reduction="sum")

    made = work(model=partial(net, norm=False), loss=summed)
    with apply(plan_of(MicroBatches(pieces=2)), made) as run, pytest.raises(UsageError, match="sum over"):
        run.step(made.batch())


def test_the_optimizer_in_the_backward_guards_what_needs_all_gradients() -> None:
    made = work()
    with apply(plan_of(OptimizerInBackward()), made) as run:
        run.backward(made.batch())
        with pytest.raises(UsageError, match="second backward"):
            run.backward(made.batch())
    with apply(plan_of(OptimizerInBackward()), made) as run:
        run.backward(made.batch())
        with pytest.raises(UsageError, match="clipped"):
            nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)  # outside, clipping is as ever


def test_the_users_own_loop_with_a_scheduler_clipping_and_a_scaler() -> None:
    def loop(*actions: Action) -> nn.Module:
        made = work()
        model = made.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        with apply(plan_of(*actions), made, model=model, optimizer=optimizer) as run:
            torch.manual_seed(11)
            for _ in range(3):
                optimizer.zero_grad()
                run.backward(made.batch(), scale=scaler.scale)
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
        return model

    assert same(loop(), loop(RANDOM_BLOCK))


def test_a_scheduler_moves_the_rate_of_updates_inside_the_backward() -> None:
    def loop(*actions: Action) -> nn.Module:
        made = work()
        model = made.model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        with apply(plan_of(*actions), made, model=model, optimizer=optimizer) as run:
            torch.manual_seed(11)
            for _ in range(3):
                run.step(made.batch())
                scheduler.step()
        return model

    assert same(loop(), loop(OptimizerInBackward()))


def test_a_run_resumed_from_a_checkpoint_equals_one_never_stopped(tmp_path: Path) -> None:
    actions = (OptimizerInBackward(), RANDOM_BLOCK)
    never = trained(work(), *actions, steps=4)
    made = work()
    with apply(plan_of(*actions), made) as run:
        torch.manual_seed(11)
        for _ in range(2):
            run.step(made.batch())
        assert run.optimizer is not None
        state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
        torch.save(state | {"random": torch.get_rng_state()}, tmp_path / "run.pt")
    kept = torch.load(tmp_path / "run.pt", weights_only=True)
    with apply(plan_of(*actions), made) as run:
        assert run.optimizer is not None
        run.model.load_state_dict(kept["model"])
        run.optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["random"])
        for _ in range(2):
            run.step(made.batch())
    assert same(never, run.model)


@pytest.mark.parametrize(
    "action",
    [RANDOM_BLOCK, OptimizerInBackward(), OneKernelStep(), EarlyRelease(), SmallerBatch(size=5, rate=0.5)],
    ids=lambda action: type(action).__name__,
)
def test_everything_is_put_back_after_an_error_too(action: Action) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    with (
        pytest.raises(RuntimeError, match="of the user"),
        apply(plan_of(action), work(), model=model, optimizer=optimizer),
    ):
        raise RuntimeError("of the user")
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    assert not optimizer._optimizer_step_post_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_plan_for_another_model_says_so() -> None:
    with (
        pytest.raises(UsageError, match="no such module; was the plan made for another model"),
        apply(plan_of(Checkpoint(modules=("layer9",))), work()),
    ):
        pass


def test_a_caller_that_uses_what_passes_inside_a_group_is_told() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * 2)

    made = work(model=Peeking)
    with (
        apply(plan_of(Checkpoint(modules=("a", "b"))), made) as run,
        pytest.raises(UsageError, match="checkpoint them one by one"),
    ):
        run.step(made.batch())


@pytest.mark.parametrize(
    "actions",
    [
        (Checkpoint(modules=("0", "1"), random=True), Checkpoint(modules=("2",), random=True, keep=(0, 1))),
        (OptimizerInBackward(), RANDOM_BLOCK),
        (OneKernelStep(), EarlyRelease()),
        (SingleTensorStep(), FrozenBatchNorm(), Checkpoint(modules=("0", "1"), random=True)),
    ],
    ids=str,
)
def test_the_exported_script_trains_to_the_same_bits(actions: tuple[Action, ...], tmp_path: Path) -> None:
    export(plan_of(*actions), tmp_path / "train_fit.py")
    script = _loaded(tmp_path / "train_fit.py")
    model = script.fit_model(net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if hasattr(script, "fit_optimizer"):
        script.fit_optimizer(optimizer)
    torch.manual_seed(11)
    for _ in range(3):
        script.train_step(model, optimizer, loss, batch())
    assert same(trained(work(), *actions), model)


def test_frozen_batch_norms_leave_their_statistics_and_let_samples_be() -> None:
    """In pieces, and with what runs again, the update is that of the whole frozen batch; the flags are as before."""
    made = work(model=partial(net, dropout=0.0), optimizer=partial(torch.optim.SGD, lr=0.1))
    whole = trained(made, FrozenBatchNorm(), steps=1)
    pieces = trained(
        made, FrozenBatchNorm(), MicroBatches(pieces=3), Checkpoint(modules=("1",), random=False), steps=1
    )
    plain = trained(made, steps=1)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], value, rtol=1e-5, atol=1e-6)
        if "running" in name:
            assert torch.equal(value, made.model().state_dict()[name])
            assert not torch.equal(value, plain.state_dict()[name])
    assert all(module.training for module in pieces.modules())
    assert not any("forward" in module.__dict__ for module in pieces.modules())


def test_foreach_off_goes_parameter_by_parameter_and_comes_back() -> None:
    foreach = work(optimizer=partial(torch.optim.AdamW, lr=0.01, foreach=True))
    made = foreach.optimizer(net().parameters())  # type: ignore[misc]
    with apply(plan_of(SingleTensorStep()), foreach, model=net(), optimizer=made):
        assert made.param_groups[0]["foreach"] is False
    assert made.param_groups[0]["foreach"] is True
    single = trained(foreach, SingleTensorStep())
    for name, value in trained(foreach).state_dict().items():
        torch.testing.assert_close(single.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_exported_script_cuts_batches(tmp_path: Path) -> None:
    export(plan_of(MicroBatches(pieces=3)), tmp_path / "train_fit.py")
    script = _loaded(tmp_path / "train_fit.py")
    made = work(model=partial(net, norm=False, dropout=0.0))
    expected = trained(made, MicroBatches(pieces=3), steps=1)
    model = made.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    script.train_step(model, optimizer, loss, batch())
    assert same(expected, model)


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("train_fit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
