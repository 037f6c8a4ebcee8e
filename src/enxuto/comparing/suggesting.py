"""`suggest`: nets of the zoo that would fit where the user's own does not, under the same conditions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..devices import cpu_device
from ..errors import UndecidableError, UsageError
from ..planning.times import Speeds
from ..records import Comparison, Scenario, World
from ..targets import ZOO
from ..tracing.worlds import place_for
from ..workload import Workload
from .asking import answers
from .compare import assembled, own_answer, row_of
from .examining import Asked, Inquiry

#: Thinner variants that weights were published of, or that the papers have, beside every net at width 1.
_THINNER = {
    "mobilenet_v1": "0.5",
    "mobilenet_v2": "0.5",
    "mobilenet_v3_small": "0.75",
    "shufflenet_v2": "0.5",
}
_COLOURS = 3


def suggest(
    work: Workload,
    budget: int,
    scenario: Scenario | str = Scenario.TRAINING,
    *,
    calibrate: bool = True,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Classifiers of the zoo beside the user's own, at its input size, batch size and number of classes.

    Args:
        work: the user's training step or inference: a classifier of square colour images. Their shape is read
            from its batch, the number of classes from its model's output.
        budget: bytes that it must not exceed in the scenario.
        scenario: "training", "inference-ram" or "file".
        calibrate: measure kernel scratch that this machine's table lacks.
        jobs: child processes; None is one a core.
        progress: called with a line of text as the work goes on.

    Returns:
        The user's net (`own`) and the others, smallest first; `fits` says of each whether it is within the
        budget. What is lost is not known: published accuracies are of ImageNet, the user's data is their own.

    Raises:
        UsageError: the budget is no positive whole number, the scenario has no bytes, or `work` is no Workload.
        UndecidableError: the net is no classifier of square colour images, of which the zoo knows others.
        UserCodeError, UndecidableError: the net itself cannot be traced.
    """
    wanted = _scenario_of_bytes(scenario)
    if not isinstance(work, Workload):
        raise UsageError(f"suggest() needs a Workload, not a {type(work).__name__}")
    if not isinstance(budget, int) or budget < 1:
        raise UsageError(f"a budget is a positive whole number of bytes, not {budget!r}")
    if wanted is Scenario.TRAINING and not work.training:
        raise UsageError(f"{work.name} does not train; ask for inference-ram or file")
    batch, size, classes = _conditions(work)
    device = cpu_device(measure=calibrate)
    asked = Asked(
        batch=batch,
        size=size,
        classes=classes,
        budget=budget if wanted is Scenario.TRAINING else None,
        calibrate=calibrate,
        speeds=Speeds.of(device),
    )
    say = progress or (lambda line: None)
    say(f"tracing {work.name}")
    own = row_of(work.name, own_answer(work, asked))
    if own.figures is None:
        raise UndecidableError(f"{work.name} cannot be traced: {own.failed}")
    targets = candidates()
    found = answers(
        [Inquiry(target=t, asked=asked) for t in targets], jobs=jobs or os.cpu_count() or 1, say=say
    )
    rows = [own, *(row_of(target, answer) for target, answer in zip(targets, found, strict=True))]
    return replace(assembled(rows, wanted, asked, device, own=own.target), budget=budget)


def has_others(work: Workload) -> bool:
    """Whether the zoo has nets to suggest instead of this one: it is a classifier of square colour images.

    Raises:
        UserCodeError: the net's own code raised.
    """
    try:
        _conditions(work)
    except UndecidableError:
        return False
    return True


def candidates() -> list[str]:
    """TARGETs of the zoo's classifiers that take images of any size, with a few thinner ones."""
    names = [name for name, entry in ZOO.items() if entry.defaults.width is not None]
    return [f"zoo:{n}" for n in names] + [f"zoo:{n}?width={width}" for n, width in _THINNER.items()]


def _conditions(work: Workload) -> tuple[int, int, int]:
    """Batch size, side of the images and number of classes, read dry from a batch and the model's answer to it."""
    place = place_for(World.DRY, "fake")
    stage = place.build(work)
    seen: list[tuple[tuple[object, ...], object]] = []
    stage.model.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    with place.running(), torch.no_grad():
        work.loss(stage.model, stage.batch)
    images, logits = (seen[0][0][:1], seen[0][1]) if seen else ((), None)
    if not (images and isinstance(images[0], Tensor) and isinstance(logits, Tensor)):
        raise _not_a_classifier(work, "its model does not map a tensor to a tensor")
    shape = tuple(images[0].shape)
    if len(shape) != 4 or shape[1] != _COLOURS or shape[2] != shape[3]:
        raise _not_a_classifier(work, f"its inputs are {list(shape)}")
    if logits.dim() != 2 or logits.shape[0] != shape[0]:
        raise _not_a_classifier(work, f"its outputs are {list(logits.shape)}")
    return shape[0], shape[2], int(logits.shape[1])


def _not_a_classifier(work: Workload, why: str) -> UndecidableError:
    return UndecidableError(
        "nets are suggested for classifiers of square colour images, [batch, 3, side, side] to [batch, classes], and "
        f"{work.name} is none: {why}; compare TARGETs of your choice instead"
    )


def _scenario_of_bytes(scenario: Scenario | str) -> Scenario:
    known = [each for each in Scenario if each is not Scenario.LATENCY]
    for each in known:
        if scenario in (each, each.value):
            return each
    raise UsageError(f"a budget of bytes is for {', '.join(e.value for e in known)}, not {scenario!r}")
