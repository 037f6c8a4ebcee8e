"""The two runs that are compared, the untouched and the applied one, from the same weights and random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from ..applying import apply as own_apply
from ..records import InferenceMode, MicroBatches, Numerics, OptimizerInBackward, Plan, SmallerBatch, World
from ..tracing.worlds import Stage, place_for, untouched_globals
from ..workload import Workload
from .memory import run_step

_SEED = 2026


class Run(Protocol):
    """A workload that can be stepped: what `applying.apply` gives, and `Untouched`."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizer(self) -> Optimizer | None: ...
    def step(self, batch: Any) -> Any:
        """zero_grad, forward and backward in as many pieces as the plan says, update; the loss."""

    def backward(self, batch: Any) -> Any:
        """The same without the update."""


class Apply(Protocol):
    """`applying.apply`: a context in which a workload runs as the plan says; leaving it restores everything."""

    def __call__(
        self, plan: Plan, work: Workload, *, model: nn.Module | None, optimizer: Optimizer | None
    ) -> AbstractContextManager[Run]: ...


@dataclass(frozen=True, slots=True)
class Untouched:
    """A workload's own loop, as a run."""

    work: Workload
    model: nn.Module
    optimizer: Optimizer | None

    def step(self, batch: Any) -> Any:
        """One step as the user's loop runs it; in inference, the output."""
        if self.optimizer is None and self.work.step is None:
            return self.backward(batch)
        return run_step(self.work, self.model, self.optimizer, batch)

    def backward(self, batch: Any) -> Any:
        """Forward and backward without the update; in inference, the forward alone."""
        if self.optimizer is None:
            with torch.set_grad_enabled(self.work.grad):
                return self.work.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.work.loss(self.model, batch)
        loss.backward()
        return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A plan, the workload it was made for, and how and where it is applied."""

    plan: Plan
    work: Workload
    apply: Apply = own_apply
    world: World = World.CPU

    @property
    def numerics(self) -> Numerics:
        """The strongest change that any lever makes."""
        levers = {lever.numerics for lever in self.plan.levers}
        return next((n for n in (Numerics.LOSSY, Numerics.ROUNDING) if n in levers), Numerics.IDENTICAL)

    @property
    def in_pieces(self) -> bool:
        """Whether the batch runs in several pieces."""
        return any(isinstance(action, MicroBatches) for action in self.plan.actions)

    @property
    def updates_inside(self) -> bool:
        """Whether parameters are updated inside the backward."""
        return any(isinstance(action, OptimizerInBackward) for action in self.plan.actions)

    def stage(self) -> Stage:
        """Model, optimizer and batch, the same each time, with random numbers of this process left alone."""
        with seeded():
            return place_for(self.world, "").build(self.work)

    def planned_stage(self) -> Stage:
        """The same with the batch that the plan runs, which may be a smaller one."""
        sizes = [action.size for action in self.plan.actions if isinstance(action, SmallerBatch)]
        work = self.work.at_batch(sizes[-1]) if sizes else self.work
        with seeded():
            return place_for(self.world, "").build(work)

    @contextmanager
    def untouched(self, stage: Stage) -> Iterator[Run]:
        """The workload's own loop on these objects."""
        yield Untouched(self.work, stage.model, stage.optimizer)

    @contextmanager
    def applied(self, stage: Stage) -> Iterator[Run]:
        """The plan's loop on these objects.

        Inference, and a step of the user's own that runs in one piece, stay the user's own code, on the changed model.
        """
        with self.apply(self.plan, self.work, model=stage.model, optimizer=stage.optimizer) as run:
            if self.work.training and (self.work.step is None or self.in_pieces):
                yield run
            else:
                quiet = any(isinstance(action, InferenceMode) for action in self.plan.actions)
                work = replace(self.work, grad=self.work.grad and not quiet)
                yield Untouched(work, run.model, run.optimizer)


@contextmanager
def seeded(seed: int = _SEED) -> Iterator[None]:
    """The same random numbers every time; afterwards the states of Python's, numpy's and torch's are as before."""
    with untouched_globals():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield
