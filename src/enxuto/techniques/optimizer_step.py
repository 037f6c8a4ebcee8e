"""How the optimizer's step runs: one fused kernel, or parameter by parameter, instead of all temporaries at once.

A fused step updates parameter after parameter inside one kernel and makes no temporaries; a foreach step makes
them for all parameters at once, a for-loop step for one at a time. Sums are ordered otherwise: equal up to
rounding. Ops change, so a plan with one of these levers is traced, not simulated.

Source: torch.optim (`fused`, `foreach` of its constructors).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

from torch.optim import Optimizer

from ..errors import UsageError
from .regions import Refused


def check_foreach(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose step does not make every parameter's temporaries at once.

    Raises:
        Refused: with the reason.
    """
    groups = optimizer.param_groups
    if "foreach" not in inspect.signature(type(optimizer)).parameters:
        raise Refused(f"{type(optimizer).__name__} has no foreach step")
    if any(group.get("fused") for group in groups):
        raise Refused("the step is fused already")
    on_cuda = any(parameter.is_cuda for group in groups for parameter in group["params"])
    if not any(group.get("foreach") or (group.get("foreach") is None and on_cuda) for group in groups):
        raise Refused("the step goes parameter by parameter already")


def check(optimizer: Optimizer) -> None:
    """Refuse an optimizer without a fused kernel, or one that uses it already.

    Raises:
        Refused: with the reason.
    """
    if "fused" not in inspect.signature(type(optimizer)).parameters:
        raise Refused(f"{type(optimizer).__name__} has no fused kernel")
    if all(group.get("fused") for group in optimizer.param_groups):
        raise Refused("the step is fused already")
    if any(group.get("differentiable") or group.get("capturable") for group in optimizer.param_groups):
        raise Refused("a differentiable or capturable step cannot be fused")


@contextlib.contextmanager
def apply(optimizer: Optimizer) -> Iterator[None]:
    """Run the optimizer's fused kernel while the context lasts.

    Raises:
        UsageError: it has none.
    """
    try:
        check(optimizer)
    except Refused as reason:
        raise UsageError(f"the plan runs a fused optimizer step: {reason}") from None
    with _set(optimizer, fused=True, foreach=False):
        yield


@contextlib.contextmanager
def apply_foreach_off(optimizer: Optimizer) -> Iterator[None]:
    """Update parameter by parameter while the context lasts."""
    with _set(optimizer, foreach=False):
        yield


@contextlib.contextmanager
def _set(optimizer: Optimizer, **wanted: bool) -> Iterator[None]:
    settings = [*optimizer.param_groups, optimizer.defaults]
    before = [{key: group[key] for key in wanted if key in group} for group in settings]
    for group in settings:
        group.update(wanted)
    try:
        yield
    finally:
        for group, own in zip(settings, before, strict=True):
            for key in wanted:
                if key in own:
                    group[key] = own[key]
                else:
                    group.pop(key, None)
