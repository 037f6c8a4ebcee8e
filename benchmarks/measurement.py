"""One training step of a net as it stands, measured: allocator peaks, FLOPs and gradients."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import (
    FlopCounterMode,
    _FlopCounterMode,
)

from benchmarks.allocator import marked_peaks, standing_bytes
from enxuto.tracing.flops import CORRECTED

LossFunction = Callable[[nn.Module, Any], Tensor]

_SEED = 1
_PASSES = "enxuto: forward and backward"
_UPDATE = "enxuto: optimizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one steady step took.

    Args:
        static: bytes of parameters, buffers, batch and optimizer state; part of both peaks.
        peak: highest allocator level of forward and backward, in bytes.
        optimizer_peak: highest allocator level of the optimizer's update, gradients included, in bytes.
        flops: forward and backward, whatever is computed again included.
        gradients: of each parameter that has one, from the first pass, seeded.
        buffers: as they stood after that pass.
    """

    static: int
    peak: int
    optimizer_peak: int
    flops: int
    gradients: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]


def measured(model: nn.Module, loss: LossFunction, batch: Any) -> Measured:
    """Train a net three times with AdamW: for its gradients, under the profiler, and counting FLOPs.

    Args:
        model: freshly built, and changed already by whatever is to be measured.
        loss: `loss(model, batch)` gives the scalar to call `backward()` on.
        batch: what `loss` takes.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    gradients = _seeded_gradients(model, loss, batch)
    buffers = tuple(buffer.clone() for buffer in model.buffers())
    optimizer.step()
    static, peak, optimizer_peak = _peaks(model, optimizer, loss, batch)
    return Measured(
        static=static,
        peak=peak,
        optimizer_peak=optimizer_peak,
        flops=_flops(model, loss, batch),
        gradients=gradients,
        buffers=buffers,
    )


def rounding_noise(model: nn.Module, loss: LossFunction, batch: Any, plain: Measured) -> tuple[float, ...]:
    """How far each gradient moves when every weight moves by at most one unit in its last place.

    Behind ReLU and batch norm that may be a fifth of the gradient, so that no fixed tolerance tells wrong from
    rounded.

    Args:
        model: built as `plain` was; its weights are moved.
        loss: as for `measured`.
        batch: as for `measured`.
        plain: what was measured with the weights as they are.
    """
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            steps = torch.randint(-1, 2, parameter.shape, generator=generator)
            parameter.mul_(1 + steps * torch.finfo(parameter.dtype).eps)
    return tuple(map(_difference, _seeded_gradients(model, loss, batch), plain.gradients))


def beyond_noise(
    values: tuple[Tensor, ...], reference: tuple[Tensor, ...], noise: tuple[float, ...]
) -> float:
    """The largest difference of any gradient in units of its own `rounding_noise`, taken as 1e-6 at least."""
    if len(values) != len(reference):
        return float("inf")
    differences = map(_difference, values, reference)
    return max((off / max(own, 1e-6) for off, own in zip(differences, noise, strict=True)), default=0.0)


def worst_difference(values: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """The largest difference of any tensor in units of its reference's largest value; 0.0 is bitwise equality.

    Not a number anywhere, or a tensor too few, is infinitely far off.
    """
    if len(values) != len(reference):
        return float("inf")
    return max(map(_difference, values, reference), default=0.0)


def _seeded_gradients(model: nn.Module, loss: LossFunction, batch: Any) -> tuple[Tensor, ...]:
    torch.manual_seed(_SEED)
    loss(model, batch).backward()
    return tuple(p.grad.clone() for p in model.parameters() if p.grad is not None)


def _difference(value: Tensor, reference: Tensor) -> float:
    if torch.equal(value, reference):
        return 0.0
    difference = float((value - reference).abs().max() / reference.abs().max())
    return difference if difference < float("inf") else float("inf")  # nan is not below


def _peaks(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossFunction, batch: Any
) -> tuple[int, int, int]:
    """Static bytes and the allocator's peaks of a step's two halves, once the optimizer's state stands."""
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    gc.disable()
    try:
        static = standing_bytes(model, optimizer, batch)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            with record_function(_PASSES):
                value = loss(model, batch)
                value.backward()
            with record_function(_UPDATE):
                optimizer.step()
        del value  # a user's loop holds the loss until then
    finally:
        gc.enable()
    peak, optimizer_peak = marked_peaks(recorded, static, _PASSES, _UPDATE)
    return static, peak, optimizer_peak


def _flops(model: nn.Module, loss: LossFunction, batch: Any) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=CORRECTED)
    with _CountingCompiledCode(counter):
        loss(model, batch).backward()
    return counter.get_total_flops()


class _CountingCompiledCode(_FlopCounterMode):
    """FlopCounterMode's own mode, but one under which a compiled net does not fall back to eager code."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True
