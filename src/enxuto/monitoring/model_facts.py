"""The models of a run: which there are, what their weights take, how long their calls last, whether they agree."""

from __future__ import annotations

import gc
import statistics
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..records import ModelFacts

_COMPARED = 64  # calls whose outputs are compared, at most
_TIMED = 101  # calls whose median is taken
_COUNTED = 50_000_000  # elements that are looked at for zeros, at most


@dataclass(slots=True, eq=False)
class _Called:
    """A model and its calls."""

    model: weakref.ref[nn.Module]
    name: str
    calls: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMED))
    began: float = 0.0
    compared: int = 0
    agreed: int = 0
    twin: str = ""
    quantized: bool | None = None
    given: weakref.ref[Tensor] | None = None
    answer: Tensor | None = None


@dataclass(slots=True, eq=False)
class Models:
    """Every model that was called from outside of the others, and those that were there beforehand."""

    given: list[nn.Module]
    _known: dict[int, _Called] = field(default_factory=dict)
    _facts: list[ModelFacts] | None = None

    def all(self, also: nn.Module | None = None) -> list[nn.Module]:
        """The models that are alive; the first time, everything that looks like one is looked for."""
        if not self._known:
            for model in [*self.given, *_roots_in_memory()]:
                self._known.setdefault(id(model), _Called(weakref.ref(model), self._name(model)))
        if also is not None:
            self._entry(also)
        alive = (each.model() for each in self._known.values())
        return [model for model in alive if model is not None]

    def called(self, model: nn.Module, args: Any, now: float) -> None:
        """A model's call begins."""
        entry = self._entry(model)
        entry.calls += 1
        entry.began = now
        first = args[0] if isinstance(args, tuple) and args and isinstance(args[0], Tensor) else None
        entry.given = None if first is None or model.training else weakref.ref(first)

    def returned(self, model: nn.Module, result: Any, now: float) -> None:
        """A model's call is over."""
        entry = self._entry(model)
        entry.seconds.append(now - entry.began)
        if isinstance(result, Tensor) and entry.given is not None and len(self._known) > 1:
            self._compare(entry, model, result)

    def facts(self) -> Iterator[ModelFacts]:
        """What is known of the models that were called."""
        for entry in self._known.values():
            model = entry.model()
            if model is not None and entry.calls:
                yield _facts_of(entry, model)

    def _entry(self, model: nn.Module) -> _Called:
        entry = self._known.get(id(model))
        if entry is None or entry.model() is not model:
            entry = self._known[id(model)] = _Called(weakref.ref(model), self._name(model))
        return entry

    def _name(self, model: nn.Module) -> str:
        name = type(model).__name__
        alike = sum(each.name.split("#")[0] == name for each in self._known.values())
        return f"{name}#{alike + 1}" if alike else name

    def _compare(self, entry: _Called, model: nn.Module, result: Tensor) -> None:
        """Beside a quantized model, the float one that is given the very same tensor: do they name one class?"""
        if entry.quantized is None:
            entry.quantized = quantized_bytes(model)[0] > 0
        others = [each for each in self._known.values() if each is not entry and each.answer is not None]
        if not entry.quantized:
            if any(each.quantized for each in self._known.values()) or entry.calls <= _COMPARED:
                entry.answer = result.detach().argmax(-1) if result.dim() > 1 else None
            return
        for other in others:
            same = other.given is not None and entry.given is not None and other.given() is entry.given()
            if same and other.answer is not None and entry.compared < _COMPARED * 1000:
                answer = result.detach().argmax(-1)
                if answer.shape == other.answer.shape:
                    entry.twin = other.name
                    entry.compared += answer.numel()
                    entry.agreed += int((answer == other.answer).sum())


def _roots_in_memory() -> list[nn.Module]:
    """Modules with parameters that no other module contains."""
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    inside = {id(child) for module in modules for child in module.children()}
    return [m for m in modules if id(m) not in inside and has_weights(m)]


def _facts_of(entry: _Called, model: nn.Module) -> ModelFacts:
    with torch.no_grad():
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    masks = [t for name, t in model.named_buffers() if name.endswith("_mask")]
    weights = [p for p in model.parameters() if p.is_floating_point()]
    quantized, plain, kind, most = quantized_bytes(model)
    zeros = elements = 0
    for weight in weights:
        elements += weight.numel()
        if elements <= _COUNTED:
            values = _effective(model, weight)
            zeros += int((values == 0).sum())
    return ModelFacts(
        name=entry.name,
        nbytes=sum(t.untyped_storage().nbytes() for t in tensors.values()) + (quantized if not plain else 0),
        elements=elements,
        zeros=zeros,
        masks=sum(t.untyped_storage().nbytes() for t in masks),
        quantized=quantized,
        largest_float=kind,
        largest_float_bytes=most,
        calls=entry.calls,
        seconds=entry.calls * statistics.median(entry.seconds or [0.0]),
        compared=entry.compared,
        agreed=entry.agreed,
        twin=entry.twin,
    )


def _effective(model: nn.Module, weight: Tensor) -> Tensor:
    """A weight as it is used: times its mask, where torch's pruning keeps one beside it."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is weight and name.endswith("_orig"):
                mask = getattr(module, name.removesuffix("_orig") + "_mask", None)
                if isinstance(mask, Tensor):
                    return weight.detach() * mask
    return weight.detach()


def has_weights(module: nn.Module) -> bool:
    """Whether a module has weights, be they packed away by quantization."""
    return any(True for _ in module.parameters()) or any(_packed_bytes(each) for each in module.modules())


def quantized_bytes(model: nn.Module) -> tuple[int, int, str, int]:
    """Bytes stored in 8 bits or fewer, bytes of floating-point weights, and the kind of module with most of these."""
    quantized = plain = 0
    by_kind: dict[str, int] = {}
    for module in model.modules():
        packed = _packed_bytes(module)
        quantized += packed
        for parameter in module.parameters(recurse=False):
            nbytes = parameter.numel() * parameter.element_size()
            if parameter.is_floating_point() and not _is_quantized(parameter):
                plain += nbytes
                kind = type(module).__name__
                by_kind[kind] = by_kind.get(kind, 0) + nbytes
            else:
                quantized += parameter.numel()
    kind = max(by_kind, key=lambda each: by_kind[each], default="")
    return quantized, plain, kind, by_kind.get(kind, 0)


def _packed_bytes(module: nn.Module) -> int:
    """Weights that torch's own quantized layers keep out of `parameters()`."""
    read: Any = getattr(module, "weight", None)
    if ".quantized" not in type(module).__module__ or not callable(read):
        return 0
    weight = read()
    return int(weight.numel() * weight.element_size()) if isinstance(weight, Tensor) else 0


def _is_quantized(tensor: Tensor) -> bool:
    return tensor.is_quantized or "torchao" in type(tensor.data).__module__
