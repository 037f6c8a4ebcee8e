"""`compare`: nets side by side under one set of conditions, sorted by what they are wanted for."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..devices import cpu_device
from ..errors import MissingDependency, UsageError, UserCodeError
from ..planning.times import Speeds
from ..records import ComparedNet, Comparison, Device, Scenario
from ..records.comparison import needs
from ..targets import NAMED_SCHEMES, OPTIMIZERS, matching, resolve
from ..workload import Workload
from .asking import answers
from .dominance import with_dominated
from .examining import Answer, Asked, Inquiry, attempted, examine, own_workloads
from .in_runtime import measured
from .published import published

_BATCH = 32


def compare(
    nets: Sequence[str | Workload],
    *,
    scenario: Scenario | str = Scenario.TRAINING,
    batch: int = _BATCH,
    inference_batch: int = 1,
    size: int | None = None,
    classes: int | None = None,
    optimizer: str | None = None,
    budget: int | None = None,
    onnxruntime: bool = False,
    calibrate: bool = True,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Nets side by side: file, memory in training and inference, arithmetic and latency, and published accuracy.

    Nothing is run: peaks are those of dry traces, kernel scratch included, latency follows a roofline. TARGETs
    are traced in child processes, one a core, and what was found of nets of the zoo, timm and torchvision is kept
    between runs; Workloads are traced in this process.

    Args:
        nets: TARGETs, patterns such as `timm:mobilenet*` or `zoo:*net*`, and Workloads.
        scenario: what they are sorted by and judged on: "file", "inference-ram", "training" or "latency".
        batch: samples of a training step.
        inference_batch: samples of a forward.
        size: side of the images in pixels; None is each net's own. What stands in a TARGET comes first.
        classes: number of output classes, alike.
        optimizer: "adamw", "adam" or "sgd" (with momentum), alike.
        budget: bytes; then the largest batch whose training peak is within it is looked for too.
        onnxruntime: also export each net and run it there, one after the other: file, memory and latency.
        calibrate: measure kernel scratch that this machine's table lacks.
        jobs: child processes; None is one a core.
        progress: called with a line of text as the work goes on.

    Returns:
        The nets, smallest first. One that cannot be compared is a row with its reason.

    Raises:
        UsageError: no nets, no such scenario or optimizer, a number that is not positive, or a pattern that
            nothing matches.
        MissingDependency: a pattern's package, or onnxruntime, is not installed.

    Predicted latency is for sorting: depthwise convolutions run slower than a roofline says.

    Example:
        >>> found = compare(["zoo:digits_cnn"], batch=4, calibrate=False)
        >>> found.nets[0].figures.parameters
        23098
    """
    wanted = _scenario(scenario)
    _check(
        nets,
        optimizer,
        batch=batch,
        inference_batch=inference_batch,
        size=size,
        classes=classes,
        budget=budget,
    )
    device = cpu_device(measure=calibrate)
    asked = Asked(
        batch=batch,
        inference_batch=inference_batch,
        size=size,
        classes=classes,
        optimizer=optimizer,
        budget=budget,
        calibrate=calibrate,
        speeds=Speeds.of(device),
    )
    say = progress or (lambda line: None)
    rows = _rows(_expanded(nets), asked, jobs=jobs or os.cpu_count() or 1, say=say)
    if onnxruntime:
        rows = measured(rows, {_name(net): net for net in nets}, asked, say=say)
    return assembled(rows, wanted, asked, device)


def assembled(
    rows: Sequence[ComparedNet], scenario: Scenario, asked: Asked, device: Device, *, own: str = ""
) -> Comparison:
    """The rows as a Comparison: latency as a ratio, dominated ones marked, sorted."""
    reference = next((row for row in rows if row.figures), None)
    timed = [_with_ratio(row, reference) for row in rows]
    marked = with_dominated(timed, scenario)
    return Comparison(
        scenario=scenario,
        batch=asked.batch,
        inference_batch=asked.inference_batch,
        size=asked.size,
        classes=asked.classes,
        optimizer=asked.optimizer,
        budget=asked.budget,
        reference=reference.target if reference else "",
        nets=tuple(sorted(marked, key=lambda row: _place(row, scenario))),
        torch=str(torch.__version__),
        machine=device.name,
        speeds=(device.flops_per_second, device.bytes_per_second),
        own=own,
    )


def _rows(
    nets: Sequence[str | Workload], asked: Asked, *, jobs: int, say: Callable[[str], None]
) -> list[ComparedNet]:
    targets = [net for net in nets if isinstance(net, str)]
    found = dict(
        zip(
            targets,
            answers([Inquiry(target=t, asked=asked) for t in targets], jobs=jobs, say=say),
            strict=True,
        )
    )
    return [
        row_of(_name(net), found[net] if isinstance(net, str) else own_answer(net, asked)) for net in nets
    ]


def own_answer(work: Workload, asked: Asked) -> Answer:
    """The figures of a Workload, traced here."""
    return attempted(lambda: examine(*own_workloads(work, asked), asked))


def row_of(target: str, found: Answer) -> ComparedNet:
    """A net's row: what was found, and what is published of it."""
    return ComparedNet(target=target, figures=found.figures, failed=found.failed, published=published(target))


def _expanded(nets: Sequence[str | Workload]) -> list[str | Workload]:
    """Each net once, patterns spelt out; a name that no net has is refused before any work is done."""
    every: list[str | Workload] = []
    for net in nets:
        every += [net] if isinstance(net, Workload) else matching(net)
    for name in every:
        if isinstance(name, str) and name.partition(":")[0] in NAMED_SCHEMES:
            with contextlib.suppress(MissingDependency, UserCodeError):
                resolve(name)
    return list({id(net) if isinstance(net, Workload) else net: net for net in every}.values())


def _name(net: str | Workload) -> str:
    return net if isinstance(net, str) else net.name


def _with_ratio(row: ComparedNet, reference: ComparedNet | None) -> ComparedNet:
    if row.figures is None or reference is None or reference.figures is None:
        return row
    return replace(row, latency_ratio=row.figures.inference_seconds / reference.figures.inference_seconds)


def _place(row: ComparedNet, scenario: Scenario) -> tuple[bool, float]:
    """Where a row stands: by what the scenario asks for, those without it last."""
    needed = needs(scenario, row)
    return row.figures is None, math.inf if needed is None else needed


def _scenario(scenario: Scenario | str) -> Scenario:
    try:
        return Scenario(scenario)
    except ValueError:
        known = ", ".join(each.value for each in Scenario)
        raise UsageError(f"a scenario is one of {known}, not {scenario!r}") from None


def _check(nets: Sequence[str | Workload], optimizer: str | None, **numbers: int | None) -> None:
    if not nets or isinstance(nets, str) or not all(isinstance(net, str | Workload) for net in nets):
        raise UsageError(
            "compare() takes a list of TARGETs and Workloads: compare(['zoo:resnet18', 'zoo:*v3*'])"
        )
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise UsageError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UsageError(f"{name} is a positive whole number, not {number!r}")
