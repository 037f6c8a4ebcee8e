"""The measured peak of a real step: on the CPU by torch's own allocator, on a GPU by CUDA's counter."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..records import Check, Outcome, Plan, World
from ..tracing import training_step
from ..tracing.worlds import Stage
from ..units import format_bytes
from ..workload import Workload

#: How far a measured peak may lie from the promised one, as a share of it.
PEAK_TOLERANCE_RATIO = 0.005

_STEPS = 3  # optimizer state is born in the first; the third is the one that a plan speaks of
_STEP = "enxuto: one step"
_LEAVING = "enxuto: leaving"


@dataclass(frozen=True, slots=True)
class MeasuredPeaks:
    """Allocator peaks in bytes, one per step: `static` bytes that stood before plus what was allocated since."""

    static: int
    steps: tuple[int, ...]

    @property
    def steady(self) -> int:
        """The peak of the last step."""
        return self.steps[-1]


def true_peaks(work: Workload, *, steps: int = _STEPS) -> MeasuredPeaks:
    """Run a workload's steps plainly, on the CPU, and tell what torch's allocator held at the most.

    Args:
        work: what to run, built as its callables build it.
        steps: steps to run, of which each has its peak.
    """
    model = work.model()
    optimizer = None if work.optimizer is None else work.optimizer(model.parameters())
    stage = Stage(model, optimizer, work.batch())
    step = partial(run_step, work, stage.model, stage.optimizer, stage.batch)
    return measured_peaks(stage, lambda: nullcontext(step), steps=steps)


def measured_peaks(
    stage: Stage, entered: Callable[[], AbstractContextManager[Callable[[], Any]]], *, steps: int = _STEPS
) -> MeasuredPeaks:
    """The peaks of steps that run inside a context, which may allocate when it is entered.

    Args:
        stage: model, optimizer and batch, freshly built; its device says which allocator is asked.
        entered: gives the context, whose value runs one step; what a step returns lives until the next.
        steps: steps to run.
    """
    device = device_of(stage)
    if device.type == "cuda":
        return _cuda_peaks(device, stage, entered, steps)
    static = standing_bytes(stage.model, stage.optimizer, stage.batch)
    kept: Any = None
    with _recording() as recorded, entered() as step:
        for _ in range(steps):
            with record_function(_STEP):
                kept = step()
        del kept
        with record_function(_LEAVING):
            pass
    return MeasuredPeaks(static, marked_peaks(recorded, static, _STEP, _LEAVING)[:steps])


def check_memory(plan: Plan, measured: MeasuredPeaks, world: World) -> Check:
    """The steady peak beside what the plan promised: within the budget, and within 0.5 % of the promise."""
    tolerance = plan.after.peak * PEAK_TOLERANCE_RATIO
    over = measured.steady - plan.budget.bytes
    off = abs(measured.steady - plan.after.peak) > tolerance
    counter = (
        "CUDA's max_memory_allocated" if world is World.CUDA else "torch's CPU allocator, replayed exactly"
    )
    how = f"peak of step {len(measured.steps)} by {counter}, static bytes included"
    if over > 0:
        how += f"; {format_bytes(over)} over the budget"
    return Check(
        name="memory",
        expected=plan.after.peak,
        got=measured.steady,
        tolerance=tolerance,
        unit="B",
        outcome=Outcome.FAILED if over > 0 or off else Outcome.PASSED,
        how=how,
    )


def run_step(work: Workload, model: Any, optimizer: Any, batch: Any) -> Any:
    """One step as a user's loop runs it, without any recorder; in inference, what `loss` gave is let go."""
    if work.step is not None:
        return work.step(model, optimizer, batch)
    if optimizer is None:
        with torch.set_grad_enabled(work.grad):
            work.loss(model, batch)
        return None
    return training_step(work.loss, model, optimizer, batch)


def marked_peaks(recorded: Any, static: int, *marks: str) -> tuple[int, ...]:
    """The highest level in bytes from each mark, a `record_function` of one of these names, to the next one.

    The profiler reports frees only of what it saw allocated, so whatever is freed later has to be born under its
    eyes; `static` is what stood before.
    """
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


def device_of(stage: Stage) -> torch.device:
    """Where the model's parameters are."""
    return next((p.device for p in stage.model.parameters()), torch.device("cpu"))


@contextmanager
def _recording() -> Iterator[Any]:
    """torch's profiler with memory events, and no garbage collection at instants of its own choice."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            yield recorded
    finally:
        (gc.enable if collecting else gc.disable)()


def _cuda_peaks(
    device: torch.device,
    stage: Stage,
    entered: Callable[[], AbstractContextManager[Callable[[], Any]]],
    steps: int,
) -> MeasuredPeaks:
    """What other tensors of this process hold on the device is not counted."""
    static = standing_bytes(stage.model, stage.optimizer, stage.batch)
    others = torch.cuda.memory_allocated(device) - static
    peaks: list[int] = []
    kept: Any = None
    with entered() as step:
        for _ in range(steps):
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            kept = step()
            torch.cuda.synchronize(device)
            peaks.append(torch.cuda.max_memory_allocated(device) - others)
        del kept
    return MeasuredPeaks(static, tuple(peaks))


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
