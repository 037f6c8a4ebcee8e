"""What torch's own CPU allocator says: the profiler's allocation events, replayed exactly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from enxuto.tracing import training_step
from enxuto.workload import Workload

_STEP = "enxuto: one step"


@dataclass(frozen=True, slots=True)
class Truth:
    """Allocator peaks in bytes, one per step: `static` bytes that stood before plus what was allocated since."""

    static: int
    steps: tuple[int, ...]

    @property
    def steady(self) -> int:
        return self.steps[-1]


def true_peaks(work: Workload, *, steps: int = 3) -> Truth:
    """Run a workload's steps plainly, under the profiler alone, and replay every allocation and free.

    The profiler is started before the first step: it reports frees only of what it saw allocated, so gradients
    and optimizer state have to be born under its eyes.
    """
    model = work.model()
    optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
    batch = work.batch()
    static = standing_bytes(model, optimizer, batch)
    kept: Any = None
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            for _ in range(steps):
                with record_function(_STEP):
                    kept = run_step(work, model, optimizer, batch)
    finally:
        gc.enable()
    del kept
    return Truth(static=static, steps=marked_peaks(recorded, static, _STEP))


def run_step(work: Workload, model: Any, optimizer: Any, batch: Any) -> Any:
    """One step as a user's loop runs it, without any recorder."""
    if work.step is not None:
        return work.step(model, optimizer, batch)
    if optimizer is None:
        with torch.set_grad_enabled(work.grad):
            work.loss(model, batch)
        return None
    return training_step(work.loss, model, optimizer, batch)


def marked_peaks(recorded: Any, static: int, *marks: str) -> tuple[int, ...]:
    """The highest level in bytes from each mark, a `record_function` of one of these names, to the next one."""
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    peaks: list[int] = []
    level = static
    for event in events:
        if event.name() in marks:
            peaks.append(level)
        elif event.name() == "[memory]":
            level += event.nbytes()
            if peaks:
                peaks[-1] = max(peaks[-1], level)
    return tuple(peaks)


def standing_bytes(*owners: Any) -> int:
    """Bytes of every distinct storage that these modules, optimizers and tensors hold, gradients included."""
    return sum(storage.nbytes() for storage in _storages(*owners))


def _storages(*owners: Any) -> Iterator[torch.UntypedStorage]:
    """Every distinct storage that lives between two steps."""
    seen: set[int] = set()
    for tensor in _tensors(owners):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            yield storage


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        if value.is_leaf and value.grad is not None:
            yield value.grad
    elif isinstance(value, torch.nn.Module):
        yield from _tensors([*value.parameters(), *value.buffers()])
    elif isinstance(value, torch.optim.Optimizer):
        yield from _tensors(list(value.state.values()))
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
