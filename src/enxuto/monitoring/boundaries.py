"""Where one step ends and the next begins, seen from outside of an unchanged script.

A step begins with a call of a model from outside every other module, and ends where the next one begins: after an
optimizer's update, or, where the model was called for no update, with the following call. So whatever a loop does
between the update and the next forward belongs to the step that was updated. Modules without parameters, such as a
loss, begin nothing.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .. import _torch_private as private
from ..records import StepKind
from .model_facts import has_weights

_TRIALS = 100  # models that are remembered, at most
_PATIENCE = 32  # calls in training mode that lead to no update, where there has never been one


@dataclass(slots=True, eq=False)
class Span:
    """A step while it goes on."""

    began: float
    model: weakref.ref[nn.Module] | None = None  # that was called first
    shapes: list[Any] = field(default_factory=list)
    updates: int = 0
    evaluations: int = 0  # calls in evaluation, of a step without any other
    grad_enabled: bool = True

    @property
    def kind(self) -> StepKind:
        """What it turned out to be."""
        return StepKind.UPDATE if self.updates else StepKind.CALL


@dataclass(slots=True, eq=False)
class _Trained:
    """A model that makes updates, and what it was given in its first."""

    model: weakref.ref[nn.Module]
    shapes: Any
    updates: int = 0


class Trials:
    """How many updates each model of a run has made, those that are gone included: a size is tried with a model of
    its own, which goes with the trial."""

    def __init__(self) -> None:
        self._last: _Trained | None = None
        self._trained: list[_Trained] = []

    def updated(self, span: Span) -> None:
        """A step made its update; a trial's model is gone by the time that the next step begins."""
        model = None if span.model is None else span.model()
        if model is None or span.updates > 1:
            return
        if self._last is None or self._last.model() is not model:
            known = (each for each in self._trained if each.model() is model)
            self._last = next(known, None)
            if self._last is None:
                self._last = _Trained(weakref.ref(model), span.shapes[0])
                self._trained = [*self._trained[-_TRIALS:], self._last]
        self._last.updates += 1

    def of(self, span: Span | None) -> int:
        """How many models that are gone made one update with what a step is given whose model has made updates."""
        model = None if span is None or span.model is None else span.model()
        if span is None or model is None:
            return 0
        alike = [each for each in self._trained if each.shapes == span.shapes[0]]
        trains = any(each.model() is model for each in alike)
        return sum(each.model() is None and each.updates == 1 for each in alike) if trains else 0


class Listener:
    """What a watch does at the events of a run; the methods of this one do nothing. Only `check` may raise."""

    def check(self) -> None:
        """Any module is about to be called."""

    def root_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A model is called from outside of every module."""

    def root_ends(self, module: nn.Module, result: Any) -> None:
        """That call is over; `result` is None after an exception."""

    def call_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Any module is called."""

    def call_ends(self, result: Any) -> None:
        """Any module's call is over."""

    def update_begins(self, optimizer: Optimizer) -> None:
        """An optimizer's step begins."""

    def update_ends(self, optimizer: Optimizer) -> None:
        """An optimizer's step is over."""


@contextlib.contextmanager
def observed_run(listener: Listener) -> Iterator[None]:
    """Tell a listener of the module calls and optimizer steps of this thread."""
    thread = threading.get_ident()
    roots: list[nn.Module] = []
    depth = 0
    with_weights: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def is_model(module: nn.Module) -> bool:
        known = with_weights.get(module)
        if known is None:
            known = with_weights[module] = has_weights(module)
        return known

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal depth
        if threading.get_ident() != thread:
            return
        listener.check()
        if depth == 0 and private.backward_node() is None and is_model(module):
            listener.root_begins(module, args, kwargs)
            roots.append(module)
        listener.call_begins(module, args, kwargs)
        depth += 1

    def leave(result: Any) -> None:
        nonlocal depth
        if threading.get_ident() != thread:
            return
        depth -= 1
        listener.call_ends(result)
        if depth == 0 and roots:
            listener.root_ends(roots.pop(), result)

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            listener.update_begins(optimizer)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            listener.update_ends(optimizer)

    with contextlib.ExitStack() as stack:
        stack.enter_context(private.observed_module_calls(enter, leave))
        stack.callback(register_optimizer_step_pre_hook(before).remove)
        stack.callback(register_optimizer_step_post_hook(after).remove)
        yield


def is_over(span: Span, *, evaluating: bool, ever_updated: bool) -> bool:
    """Whether a model's call that begins now begins a new step.

    A call without gradients between a forward and its update (a target network) is part of that step.
    """
    if span.updates or span.evaluations:
        return True
    return len(span.shapes) >= _PATIENCE and (evaluating or not ever_updated)


def shapes_of(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What a call of a model is known by again: its class, its mode and the shapes of what it is given."""
    return (type(module).__name__, module.training, torch.is_grad_enabled(), _shapes(args), _shapes(kwargs))


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return tuple((key, _shapes(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_shapes, value[:64]))
    return None


def size_of(shapes: Any) -> int:
    """How many numbers a model is given in a call."""
    return _numbers(shapes[3]) + sum(_numbers(shape) for _, shape in shapes[4])


def _numbers(shape: Any) -> int:
    if not isinstance(shape, tuple):
        return 0
    if all(isinstance(size, int) for size in shape):
        return math.prod(shape) if shape else 1
    return sum(_numbers(each) for each in shape)


def told(shapes: list[Any]) -> str:
    """The shapes of a step's calls as text, each once."""
    return "; ".join(dict.fromkeys(f"{name}{_text(args, kwargs)}" for name, _, _, args, kwargs in shapes))


def _text(args: Any, kwargs: Any) -> str:
    given = [_shape_text(each) for each in args if each is not None]
    given += [f"{name}={_shape_text(each)}" for name, each in kwargs if each is not None]
    return f"({', '.join(given)})"


def _shape_text(shape: Any) -> str:
    if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
        return "×".join(map(str, shape)) or "scalar"
    return "..."
