"""The worlds that a trace can run in: what tensors are made of, and how a Workload is built there."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch_private as private
from ..errors import UsageError
from ..records import World
from ..workload import Workload


@dataclass(frozen=True, slots=True)
class Stage:
    """A Workload set up to run: its module, optimizer and one batch."""

    model: nn.Module
    optimizer: Optimizer | None
    batch: Any
    notes: tuple[str, ...] = ()


class Place(Protocol):
    """How one world builds a Workload and what surrounds its steps."""

    world: World
    dry: str

    def build(self, work: Workload) -> Stage:
        """Set the Workload up in this world."""

    def running(self) -> contextlib.AbstractContextManager[Any]:
        """What must be active while steps run."""


class FakePlace:
    """Dry: torch's FakeTensorMode on the CPU. Nothing of the model is allocated, no kernel runs."""

    world = World.DRY
    dry = "fake"

    def __init__(self) -> None:
        self._mode = private.DryMode(allow_non_fake_inputs=True)

    def build(self, work: Workload) -> Stage:
        note: tuple[str, ...] = ()
        try:
            with self._mode.building():
                model = work.model()
        except private.DRY_REFUSALS as error:
            model, how = _built_elsewhere(work)
            note = (f"the model was built {how}, since its constructor reads values ({reason(error)})",)
        _check_module(model)
        with self._mode.building():
            model = self._dry_module(model)
            optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
            return Stage(model, optimizer, self._dry(work.batch()), note)

    def _dry_module(self, model: nn.Module) -> nn.Module:
        """The module itself if it is dry, else a dry copy of it; ties between parameters stay."""
        tensors = list(chain(model.parameters(), model.buffers()))
        if all(isinstance(t, private.FakeTensor) for t in tensors):
            return model
        twins = {id(t): _empty_twin(t) for t in tensors if t.is_meta}
        return copy.deepcopy(model, twins)  # what is not in `twins` is copied dry

    def _dry(self, tree: Any) -> Any:
        def convert(leaf: Any) -> Any:
            real = isinstance(leaf, Tensor) and not isinstance(leaf, private.FakeTensor)
            return self._mode.from_tensor(leaf) if real else leaf

        return private.pytree.tree_map(convert, tree)

    def running(self) -> contextlib.AbstractContextManager[Any]:
        return self._mode


class MetaPlace:
    """Dry: plain `meta` tensors. Kept to be compared with fake ones (`benchmarks/cpu_truth.py`)."""

    world = World.DRY
    dry = "meta"

    def build(self, work: Workload) -> Stage:
        with torch.device("meta"):
            model = work.model()
            _check_module(model)
            model = model.to("meta")
            optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
            return Stage(model, optimizer, _moved(work.batch(), "meta"))

    def running(self) -> contextlib.AbstractContextManager[Any]:
        return torch.device("meta")


class RealPlace:
    """Real tensors on the CPU or a GPU: the step is computed."""

    dry = ""

    def __init__(self, world: World) -> None:
        if world is World.CUDA and not torch.cuda.is_available():
            raise UsageError("--world cuda needs a CUDA GPU, and torch sees none here; use dry or cpu")
        self.world = world

    def build(self, work: Workload) -> Stage:
        with torch.device(self.world.value):
            model = work.model()
            _check_module(model)
            model = model.to(self.world.value)
            optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
            return Stage(model, optimizer, _moved(work.batch(), self.world.value))

    def running(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def place_for(world: World, dry: str) -> Place:
    """The place of a world; `dry` chooses between "fake" and "meta"."""
    if world is not World.DRY:
        return RealPlace(world)
    if dry not in ("fake", "meta"):
        raise UsageError(f"dry= takes 'fake' or 'meta', not {dry!r}")
    return FakePlace() if dry == "fake" else MetaPlace()


@contextlib.contextmanager
def untouched_globals() -> Iterator[None]:
    """Put random states, gradient mode and garbage collection back as they were."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    collecting, grad = gc.isenabled(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic)
        (gc.enable if collecting else gc.disable)()


def _check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the workload's model() must return a torch.nn.Module, not a {type(model).__name__}"
        )


def _built_elsewhere(work: Workload) -> tuple[nn.Module, str]:
    """Build a module whose constructor refuses dry tensors: without memory if `meta` will do, else for real."""
    try:
        with torch.device("meta"):
            return work.model(), "on the meta device first"
    except Exception:  # whatever it was, the real constructor below raises it again or does better
        return work.model(), "for real first"


def _empty_twin(tensor: Tensor) -> Tensor:
    """A CPU tensor with a meta tensor's geometry; dry, when made under a FakeTensorMode."""
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _moved(tree: Any, device: str) -> Any:
    return private.pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def reason(error: BaseException) -> str:
    """An exception in one line."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:120]}" if first else type(error).__name__
