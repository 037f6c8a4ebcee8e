"""`explain`: trace a workload and return the receipt of its peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import EnxutoError, UsageError
from ..records import Alternative, Explanation, Finding, Timeline, World
from ..tracing import trace
from ..units import format_bytes
from ..workload import Workload, live_workload
from .receipt import receipt


def explain(
    work: Workload | nn.Module | Timeline,
    batch: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Optimizer | None = None,
    world: World | str = World.DRY,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Explanation:
    """Where the memory of one step goes.

    Args:
        work: a Workload; or a live module, which is copied and never touched; or a Timeline already traced.
        batch: with a module, `(inputs, target)` for a criterion, else what `model(...)` takes.
        loss: with a module, `criterion(output, target)`; None takes the output's own `.loss`, or its sum.
        optimizer: with a module, its live optimizer; None is inference.
        world: "dry" computes nothing and holds no memory; "cpu" and "cuda" run the step for real.
        calibrate: measure kernel scratch that this machine's table lacks.
        progress: called with a line of text as the work goes on.

    Returns:
        The receipt of the peak: its shares, modules and owners each sum to it. For inference, `alternatives`
        has the peak with gradient recording the other way, traced too, and `growth` what a generation keeps.

    Raises:
        UsageError: `batch`, `loss` or `optimizer` is given with a Workload or a Timeline, or a module has no
            batch.
        UserCodeError: the workload's own code raised.
        UndecidableError: no trace is possible here.

    Example:
        >>> import torch
        >>> explanation = explain(torch.nn.Linear(4, 2), torch.zeros(8, 4))
        >>> explanation.peak == sum(share.nbytes for share in explanation.shares)
        True
    """
    given = {"batch": batch, "loss": loss, "optimizer": optimizer}
    if isinstance(work, Workload | Timeline):
        _refuse(given, work)
    if isinstance(work, Timeline):
        return receipt(work)
    if not isinstance(work, Workload):
        work = _live(work, **given)
    tracer = _Tracer(world=World(world), calibrate=calibrate, progress=progress)
    explanation = receipt(tracer.trace(work))
    return explanation if work.training else _with_other_mode(explanation, work, tracer)


def _refuse(given: dict[str, Any], work: Workload | Timeline) -> None:
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if names:
        raise UsageError(f"a {type(work).__name__} has everything in it: leave out {', '.join(names)}")


def _live(model: nn.Module, batch: Any, loss: Any, optimizer: Any) -> Workload:
    if isinstance(model, nn.Module) and batch is None:
        raise UsageError(
            "explain(model, batch) needs a batch: what the model takes, or (inputs, target) with loss="
        )
    return live_workload(model, batch, loss=loss, optimizer=optimizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracer:
    """How to trace: the same for the work and for its alternative."""

    world: World
    calibrate: bool
    progress: Callable[[str], None] | None

    def trace(self, work: Workload, *, find_holders: bool = True) -> Timeline:
        return trace(
            work,
            world=self.world,
            calibrate=self.calibrate,
            find_holders=find_holders,
            progress=self.progress,
        )


def _with_other_mode(explanation: Explanation, work: Workload, tracer: _Tracer) -> Explanation:
    """The Explanation of an inference with the peak of the other gradient mode beside it."""
    label = "under torch.no_grad()" if work.grad else "with gradient recording on"
    try:
        other = tracer.trace(work.inference(grad=not work.grad), find_holders=False)
    except EnxutoError as error:
        return _noted(explanation, f"{label}: could not be traced: {error}")
    finding = _forgotten_no_grad(explanation.peak, other.peak) if work.grad else ()
    return replace(
        explanation,
        alternatives=(Alternative(label=label, peak=other.peak),),
        findings=(*finding, *explanation.findings),
    )


def _noted(explanation: Explanation, note: str) -> Explanation:
    facts = explanation.facts
    return replace(explanation, facts=replace(facts, notes=(*facts.notes, note)))


def _forgotten_no_grad(peak: int, without: int) -> tuple[Finding, ...]:
    """M04: gradient recording is on in a run that has no backward, and costs memory."""
    if without >= peak:
        return ()
    text = (
        "gradient recording is on and no backward follows: under torch.no_grad() the peak is "
        f"{format_bytes(without)} instead of {format_bytes(peak)}, {100 * (peak - without) / peak:.1f} % less"
    )
    return (Finding(id="M04", text=text, nbytes=peak - without),)
