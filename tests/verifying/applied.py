"""Plans of small nets, and a stand-in for `enxuto.applying.apply` that can be told to do wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from enxuto import Workload
from enxuto.records import (
    Action,
    Budget,
    Checkpoint,
    Cost,
    Lever,
    MicroBatches,
    Numerics,
    OptimizerInBackward,
    Plan,
    Status,
)
from enxuto.techniques import checkpointing, optimizer_in_backward
from enxuto.verifying.memory import measured_peaks, true_peaks
from enxuto.verifying.runs import Promise

WIDTH, BATCH = 64, 256


def block(drop: float) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.GELU(), nn.Dropout(drop))


def stack(*, drop: float = 0.3) -> nn.Sequential:
    return nn.Sequential(*(block(drop) for _ in range(4)))


def work_of(
    model: Callable[[], nn.Module] = stack,
    *,
    optimizer: Callable[..., Any] | None = lambda parameters: torch.optim.AdamW(parameters, foreach=False),
    loss: Callable[[nn.Module, Any], Any] = lambda model, x: model(x).square().mean(),
    **settings: Any,
) -> Workload:
    return Workload(
        model=model,
        batch=lambda n=None: torch.randn(n or BATCH, WIDTH),
        loss=loss,
        optimizer=optimizer,
        batch_size=BATCH,
        **settings,
    )


CHECKPOINTS = tuple(Checkpoint(modules=(str(n),), random=True) for n in range(4))


def plan_of(
    *actions: Action,
    numerics: Numerics = Numerics.IDENTICAL,
    promised: int = 10**9,
    budget: int = 10**10,
    before: int = 0,
    max_slowdown_ratio: float = 0.0,
) -> Plan:
    levers = tuple(
        Lever(
            action=action,
            title="",
            numerics=numerics,
            peak_before=0,
            peak_after=0,
            slowdown_ratio=1.0,
            why="",
        )
        for action in actions
    )
    return Plan(
        workload="model",
        torch="",
        budget=Budget(bytes=budget, max_slowdown_ratio=max_slowdown_ratio),
        status=Status.FEASIBLE,
        before=Cost(peak=before, flops=1, seconds=1.0),
        after=Cost(peak=promised, flops=1, seconds=1.1),
        levers=levers,
        refused=(),
        frontier=(),
        floor_holds=(),
        solver="none",
        gap_ratio=0.0,
    )


@dataclass
class Applied:
    """A run with micro-batches; `spoil` is called before the update of each step, with the model."""

    work: Workload
    model: nn.Module
    optimizer: Any
    pieces: int = 1
    spoil: Callable[[nn.Module], None] = lambda model: None
    losses: list[Tensor] = field(default_factory=list)

    def step(self, batch: Any) -> Any:
        if self.optimizer is None:
            return self.backward(batch)
        if self.work.step is not None:
            return self.work.step(self.model, self.optimizer, batch)
        loss = self.backward(batch)
        self.optimizer.step()
        return loss

    def backward(self, batch: Any) -> Any:
        if self.optimizer is None:
            with torch.set_grad_enabled(self.work.grad):
                return self.work.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        total: Any = 0
        for piece in batch.chunk(self.pieces) if self.pieces > 1 else [batch]:
            loss = self.work.loss(self.model, piece)
            if self.pieces > 1:
                loss = loss * (len(piece) / len(batch))
            loss.backward()
            total = total + loss.detach()
        self.spoil(self.model)
        return total


@dataclass
class StandIn:
    """`applying.apply` of checkpoints, micro-batches and the optimizer in the backward.

    `spoil` changes what a step has computed; `leave` is called with the model after everything was put back.
    """

    spoil: Callable[[nn.Module], None] = lambda model: None
    leave: Callable[[nn.Module, Any], None] = lambda model, optimizer: None

    @contextmanager
    def __call__(
        self, plan: Plan, work: Workload, *, model: Any = None, optimizer: Any = None
    ) -> Iterator[Applied]:
        pieces = [action.pieces for action in plan.actions if isinstance(action, MicroBatches)]
        try:
            with ExitStack() as levers:
                checkpoints = [action for action in plan.actions if isinstance(action, Checkpoint)]
                levers.enter_context(checkpointing.apply(model, checkpoints))
                if any(isinstance(action, OptimizerInBackward) for action in plan.actions):
                    levers.enter_context(optimizer_in_backward.apply(optimizer))
                yield Applied(work, model, optimizer, *pieces, spoil=self.spoil)
        finally:
            self.leave(model, optimizer)


def measured(plan: Plan, work: Workload, apply: Any) -> int:
    """The steady peak of the plan when it is applied."""
    promise = Promise(plan=plan, work=work, apply=apply)
    stage = promise.stage()

    @contextmanager
    def entered() -> Iterator[Callable[[], Any]]:
        with promise.applied(stage) as run:
            yield lambda: run.step(stage.batch) if work.training else bool(run.step(stage.batch) is None)

    return measured_peaks(stage, entered).steady


def true_promise(*actions: Action, work: Workload, apply: Any = None, **settings: Any) -> Plan:
    """A plan that promises what it holds."""
    promised = measured(plan_of(*actions), work, apply or StandIn())
    return plan_of(*actions, promised=promised, before=true_peaks(work).steady, **settings)
