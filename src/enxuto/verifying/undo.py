"""Whether leaving an applied plan puts everything back: a fingerprint of model, optimizer and torch, twice."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch_private as private
from ..records import Check, Outcome
from .runs import Promise, seeded

Fingerprint = dict[str, object]

_SHOWN = 3
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class _Left(Exception):
    """Raised inside the applied context, to leave it the hard way."""


def check_undo(promise: Promise) -> Check:
    """Check "undo": parameters, buffers, hooks, forwards, modes, param groups and torch's flags are as before.

    The context is left twice: by an exception before any step, where values and random state count too; and after
    a step, where only what an untouched step leaves alone counts.
    """
    stage, planned = promise.stage(), promise.planned_stage().batch
    values = _Objects(stage.model, stage.optimizer)
    changed: set[str] = set()
    with seeded():
        before = values.fingerprint(with_values=True)
        with contextlib.suppress(_Left), promise.applied(stage):
            raise _Left
        changed |= changes(before, values.fingerprint(with_values=True))
        with promise.untouched(stage) as run:
            run.step(stage.batch)  # optimizer state is born
            fresh = values.fingerprint()
            run.step(stage.batch)
        settled = values.fingerprint()
        with promise.applied(stage) as run:
            run.step(planned)
        changed |= changes(settled, values.fingerprint()) - changes(fresh, settled)
    shown = sorted(changed)[:_SHOWN] + (["..."] if len(changed) > _SHOWN else [])
    return Check(
        name="undo",
        expected=0,
        got=len(changed),
        tolerance=0,
        unit="changes",
        outcome=Outcome.FAILED if changed else Outcome.PASSED,
        how="fingerprint of parameters, buffers, hooks, attributes, optimizer and torch's flags before the plan and "
        "after it was left, by an exception and after a step"
        + (f"; changed: {', '.join(shown)}" if shown else ""),
    )


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    """The names that differ between two fingerprints."""
    gone = object()
    return {key for key in before.keys() | after.keys() if before.get(key, gone) != after.get(key, gone)}


class _Objects:
    """A model and its optimizer, with whatever was seen in them kept alive: an id names one object only."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self._model = model
        self._optimizer = optimizer
        self._seen: list[object] = []

    def fingerprint(self, *, with_values: bool = False) -> Fingerprint:
        """By name: identity of every object in modules and optimizer, values of plain ones and of torch's flags."""
        found: Fingerprint = {f"torch: {name}": read() for name, read in _FLAGS.items()}
        for path, module in self._model.named_modules():
            found[path or "model"] = self._identity(module)
            for key, value in self._attributes(module.__dict__):
                found[f"{path or 'model'}.{key}"] = value
        for name, tensor in _tensors(self._model):
            found[f"{name}: kind"] = (tensor.dtype, tensor.device, tensor.shape, tensor.requires_grad)
            hooks = [hook for table in private.tensor_hooks(tensor) for hook in table]
            found[f"{name}: hooks"] = tuple(map(self._identity, hooks))
            if with_values:
                found[f"{name}: value"] = _digest(tensor)
        if self._optimizer is not None:
            found |= self._of_optimizer(self._optimizer)
        if with_values:
            found["torch: random state"] = _digest(torch.get_rng_state())
        return found

    def _of_optimizer(self, optimizer: Optimizer) -> Iterator[tuple[str, object]]:
        for key, value in self._attributes(vars(optimizer)):
            if key.partition("[")[0] not in ("param_groups", "state"):
                yield f"optimizer.{key}", value
        for number, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                found = tuple(map(self._identity, value)) if key == "params" else self._plain(value)
                yield f"optimizer.param_groups[{number}].{key}", found
        for number, state in enumerate(optimizer.state.values()):
            yield f"optimizer.state[{number}]", tuple(sorted(map(str, state)))

    def _attributes(self, attributes: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        """Each attribute, and each item of one that is a dictionary, such as a table of hooks."""
        for key, value in attributes.items():
            if isinstance(value, Mapping):
                yield key, self._identity(value)
                for name, item in value.items():
                    yield f"{key}[{name!r}]", self._plain(item)
            else:
                yield key, self._plain(value)

    def _plain(self, value: object) -> object:
        if isinstance(value, tuple | list):
            return (type(value), *map(self._plain, value))
        return (type(value), value) if isinstance(value, _PLAIN) else self._identity(value)

    def _identity(self, value: object) -> object:
        if hasattr(value, "__func__"):  # a bound method is made anew at every look
            return (id(value.__func__), self._identity(getattr(value, "__self__", None)))
        self._seen.append(value)
        return id(value)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(plain.numpy().data, digest_size=16).hexdigest()


_FLAGS: dict[str, Callable[[], object]] = {
    "gradient mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "autocast on the CPU": lambda: torch.is_autocast_enabled("cpu"),
    "autocast on CUDA": lambda: torch.is_autocast_enabled("cuda"),
    "anomaly mode": torch.is_anomaly_enabled,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "default dtype": torch.get_default_dtype,
    "threads": torch.get_num_threads,
    "matmul precision": torch.get_float32_matmul_precision,
    "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
    "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
    "mkldnn": torch.backends.mkldnn.is_available,
    "Module.__call__": lambda: nn.Module.__call__,
    "Tensor.backward": lambda: Tensor.backward,
    "checkpoint": lambda: torch.utils.checkpoint.checkpoint,
    "clip_grad_norm_": lambda: nn.utils.clip_grad_norm_,
}
