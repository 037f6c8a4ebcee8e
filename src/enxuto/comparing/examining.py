"""One net examined: its figures from dry traces, without running it. Also the child process that does so for many.

Run as `python -m enxuto.comparing.examining THREADS`, it reads an `Inquiry` in JSON a line and answers a line each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import nn

from .._torch_private import storage_key
from ..compressing.folding import apply_folds, foldable_norms
from ..errors import EnxutoError, UndecidableError
from ..planning.times import Speeds, op_seconds
from ..predicting import largest_batch
from ..records import Category, NetFigures, Timeline, World
from ..targets import NAMED_SCHEMES, OPTIMIZERS, resolve
from ..tracing import trace
from ..tracing.worlds import place_for
from ..workload import Workload

#: AdamW's state stands from the second step on, so that is the steady one; an inference is steady at once.
_TRAINING_STEPS, _INFERENCE_STEPS = 2, 1
_SMALLEST = 2  # batch size 1 runs other ops than larger ones
_QUANTIZED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SCALE = _BIAS = 4  # bytes for each output channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every net of a comparison is asked: the conditions, and the speeds of the time model.

    `size`, `classes` and `optimizer` go to nets that have such a setting and do not set it themselves.
    """

    batch: int
    inference_batch: int = 1
    size: int | None = None
    classes: int | None = None
    optimizer: str | None = None
    budget: int | None = None
    calibrate: bool = True
    speeds: Speeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A net to examine, by its TARGET."""

    target: str
    asked: Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The figures of a net, or why there are none."""

    figures: NetFigures | None = None
    failed: str = ""


def answer(inquiry: Inquiry) -> Answer:
    """Examine a net by its TARGET; whatever goes wrong with it is the answer's reason."""
    return attempted(lambda: examine(*workloads(inquiry.target, inquiry.asked), inquiry.asked))


def attempted(run: Callable[[], NetFigures]) -> Answer:
    """The figures that a run gives, or in one line why it gave none."""
    try:
        return Answer(figures=run())
    except EnxutoError as error:
        return Answer(failed=str(error))
    except Exception as error:  # anybody's net: one of many must not end the comparison
        lines = str(error).strip().splitlines()
        return Answer(failed=f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__)


# ---- What runs ---------------------------------------------------------------------------------------------


def workloads(target: str, asked: Asked) -> tuple[Workload, Workload]:
    """A TARGET's training step and its inference, under the conditions asked for."""
    full = with_settings(target, asked)
    train = resolve(full)
    if target.partition(":")[0] not in NAMED_SCHEMES:
        return own_workloads(train, asked)
    given = "batch=" in full.partition("?")[2]
    batch = train.batch_size if given else asked.batch
    inference = resolve(_without(full, "optimizer"), inference=True)
    return train.at_batch(batch or asked.batch), inference.at_batch(asked.inference_batch)


def own_workloads(work: Workload, asked: Asked) -> tuple[Workload, Workload]:
    """The same of a Workload of the user's; its inference runs its model in eval mode, and its loss."""
    inference = replace(work.inference(), model=lambda: work.model().eval()).at_batch(asked.inference_batch)
    if asked.optimizer and work.training:
        work = replace(work, optimizer=OPTIMIZERS[asked.optimizer])
    return work.at_batch(asked.batch), inference


def with_settings(target: str, asked: Asked) -> str:
    """A named net with the settings asked for, where it does not say otherwise itself; other TARGETs as they are."""
    if target.partition(":")[0] not in NAMED_SCHEMES:
        return target
    wanted = {"size": asked.size, "classes": asked.classes, "optimizer": asked.optimizer}
    place, _, query = target.partition("?")
    own = [part for part in query.split("&") if part]
    keys = {part.partition("=")[0] for part in own}
    added = [f"{key}={value}" for key, value in wanted.items() if value is not None and key not in keys]
    settings = "&".join([*own, *added])
    return f"{place}?{settings}" if settings else place


def _without(target: str, key: str) -> str:
    place, _, query = target.partition("?")
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] != key)
    return f"{place}?{kept}" if kept else place


# ---- Figures -----------------------------------------------------------------------------------------------


def examine(train: Workload, inference: Workload, asked: Asked) -> NetFigures:
    """A net's figures from traces of its training step and of its inference.

    Raises:
        UserCodeError: its own code raised.
        UndecidableError: no trace is possible here.
    """
    model = place_for(World.DRY, "fake").build(inference).model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    file_bytes = _state_bytes(model)
    plain = trace(inference, steps=_INFERENCE_STEPS, calibrate=asked.calibrate, find_holders=False)
    folded_peak, notes = _folded_peak(inference, model, plain, asked)
    figures = NetFigures(
        parameters=parameters,
        file_bytes=file_bytes,
        int8_bytes=int8_bytes(model),
        macs=int(plain.ops.flops.sum()) // 2 // (inference.batch_size or 1),
        inference_peak=plain.peak,
        folded_peak=folded_peak,
        inference_seconds=float(op_seconds(plain, asked.speeds).sum()),
        scratch=plain.facts.scratch,
        notes=notes,
    )
    return _with_training(figures, train, asked) if train.training else figures


def _folded_peak(
    inference: Workload, model: nn.Module, plain: Timeline, asked: Asked
) -> tuple[int | None, tuple[str, ...]]:
    """The inference peak with batch norms folded, in `model` too; None, and why, where that is not known."""
    try:
        edits = foldable_norms(model)
    except UndecidableError as error:
        return None, (str(error),)
    if not edits:
        return plain.peak, ()
    apply_folds(model, edits)
    folded = replace(inference, model=lambda: apply_folds(inference.model(), edits))
    return trace(folded, steps=_INFERENCE_STEPS, calibrate=asked.calibrate, find_holders=False).peak, ()


def _with_training(figures: NetFigures, train: Workload, asked: Asked) -> NetFigures:
    batch = train.batch_size or asked.batch
    at_batch = _training_trace(train, batch, asked)
    large, small = _two_sizes(batch)
    known = {batch: at_batch}
    saved = {n: _saved_bytes(known.get(n) or _training_trace(train, n, asked)) for n in (large, small)}
    found = largest_batch(train, asked.budget, calibrate=asked.calibrate) if asked.budget else None
    return replace(
        figures,
        training_peak=max(at_batch.facts.step_peaks),
        saved_per_item=(saved[large] - saved[small]) // (large - small),
        largest_batch=found.batch_size if found else None,
        scratch=at_batch.facts.scratch,
        notes=(*figures.notes, *(found.notes if found else ())),
    )


def _training_trace(train: Workload, batch: int, asked: Asked) -> Timeline:
    return trace(train.at_batch(batch), steps=_TRAINING_STEPS, calibrate=asked.calibrate, find_holders=False)


def _two_sizes(batch: int) -> tuple[int, int]:
    """Two batch sizes that show a line, the larger first; the one asked for is among them unless it is 1."""
    if batch >= 2 * _SMALLEST:
        return batch, batch // 2
    return 2 * _SMALLEST, max(batch, _SMALLEST)


def _saved_bytes(timeline: Timeline) -> int:
    """The most bytes that autograd keeps at once."""
    curve = timeline.curves().get(Category.SAVED_ACTIVATION)
    return 0 if curve is None else int(curve.max(initial=0))


def _state_bytes(model: nn.Module) -> int:
    """Bytes of a state dict, shared storages once."""
    tensors = model.state_dict(keep_vars=True).values()
    return sum({storage_key(t.untyped_storage()): t.numel() * t.element_size() for t in tensors}.values())


def int8_bytes(model: nn.Module) -> int:
    """Bytes of the state where linear layers and convolutions hold int8 weights with a scale per output channel."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    sizes = {key: t.numel() * t.element_size() for key, t in tensors.items()}
    for module in model.modules():
        if isinstance(module, (*_QUANTIZED, *_TRANSPOSED)):
            weight, bias = module.weight, module.bias
            channels = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            sizes[id(weight)] = weight.numel() + _SCALE * channels
            if bias is not None:
                sizes[id(bias)] = _BIAS * channels
    return sum(sizes.values())


def _answer_lines() -> None:
    """The child's loop. Answers leave by a copy of stdout, so that nothing a net prints can mix in."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    with suppress(KeyboardInterrupt):
        for line in sys.stdin.buffer:
            answers.write(msgspec.json.encode(answer(msgspec.json.decode(line, type=Inquiry))) + b"\n")
            answers.flush()


if __name__ == "__main__":
    _answer_lines()
