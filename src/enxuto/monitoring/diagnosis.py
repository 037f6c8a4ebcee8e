"""What a Recording shows to be wrong: the situations M01 to M20, one small function each.

Each takes the record and nothing else, so it says the same of a live run, of its log, and of a record that was made
elsewhere. A situation is claimed only on figures that the run itself has given; `docs/situations` has a page for
each, with what it looks like and what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..records import (
    UNKNOWN,
    Category,
    Cause,
    Diagnosis,
    Explanation,
    Failure,
    ModelFacts,
    RecordedStep,
    Recording,
    Retained,
    StepKind,
)
from ..units import format_bytes

Situation = Callable[[Recording], Iterable[Cause]]

_ACTIVATIONS = (
    Category.SAVED_ACTIVATION,
    Category.TEMPORARY_FORWARD,
    Category.TEMPORARY_BACKWARD,
)
_GROWS = 0.001  # of the recorded peak: a smaller growth a step is not worth a name
_GROWS_BYTES = 1024
_OUTPUTS = 0.01  # of the recorded peak: what a validation may keep of each call
_UNUSED = 0.05  # of the peak
_STATE = 0.1  # of the peak
_CAST = 0.02
_ZEROS = 0.3
_SLOWER = 1.2
_AGREE = 0.9
_SAMPLES = 100
_OTHERS = 0.05  # of the device
_WORKERS_GROW = 0.2  # less may be pages of the parent that a fork copies as it touches them, once
_WORKERS_BYTES = 8 * 2**20
_COPIED = 2 * 2**20  # where there are so many Python objects that copying them explains it


def diagnose(recording: Recording) -> Diagnosis:
    """Every situation that the run shows, those that free most first.

    A run that died of memory has the cause of its death first: `ranked` says in which order.
    """
    found = {id: list(situation(recording)) for id, situation in SITUATIONS.items()}
    causes = ranked(recording, [cause for each in found.values() for cause in each])
    return Diagnosis(
        source=recording.source,
        causes=tuple(causes),
        silent=tuple(id for id, each in found.items() if not each),
    )


def ranked(recording: Recording, causes: list[Cause]) -> list[Cause]:
    """What frees most first; but what speaks of the failure itself (M01, M02, M06, M20) after what made the run
    grow until then, since growth explains a failure and not the other way round."""
    of_failure = ("M01", "M02", "M06", "M20")
    return sorted(causes, key=lambda cause: (cause.id in of_failure, -cause.frees))


# -- the situations ------------------------------------------------------------------------------------------


def first_step(recording: Recording) -> Iterator[Cause]:
    """M01: memory is out before the first update."""
    failure = _death(recording)
    if failure is None or failure.updates or failure.kind is StepKind.CALL:
        return
    receipt = _receipt(recording, training=True)
    share = sum(map(receipt.share, _ACTIVATIONS)) if receipt else 0
    evidence = f"memory was out in the first step{_at(failure)}"
    if receipt and receipt.peak:
        evidence += (
            f": of the {format_bytes(receipt.peak)} alive then, {100 * share / receipt.peak:.0f} % are "
            "activations, which follow the batch size"
        )
    yield Cause(
        id="M01",
        evidence=evidence,
        fix="a smaller batch with accumulation, or checkpointing: enxuto fit finds the cheapest that fits",
        site=failure.site,
        frees=share // 2 if share else UNKNOWN,
        ruled_out=("a leak: nothing was kept from an earlier step, there was none", *_fragmentation(failure)),
    )


def second_step(recording: Recording) -> Iterator[Cause]:
    """M02: the first update went through, the next did not: the optimizer's state was born in between."""
    failure = _death(recording)
    if failure is None or failure.updates != 1 or failure.kind is StepKind.CALL:
        return
    first = next((step for step in recording.recorded if step.kind is StepKind.UPDATE), None)
    kept = sum(each.nbytes for each in failure.kept)
    if first is None or first.state + kept < _STATE * first.peak:
        return
    owner = failure.kept[0].owner if kept > first.state else ""
    left = [f"made {format_bytes(first.state)} of optimizer state, which stays"] if first.state else []
    left += [f"left {_names(failure)}, which are still alive: {format_bytes(kept)}"] if kept else []
    let_go = f"`del {owner}` before the next forward; " if owner else ""
    yield Cause(
        id="M02",
        evidence=(
            f"step 1 fitted with a peak of {format_bytes(first.peak)}, step 2 did not{_at(failure)}: the first "
            f"update {' and '.join(left)}"
        ),
        fix=f"{let_go}judge by step 3, never by step 1; an optimizer with less state, or enxuto fit",
        owner=owner,
        site=failure.site,
        frees=first.state + kept,
        ruled_out=(*_same_shapes(recording, failure), *_fragmentation(failure)),
    )


def growing(recording: Recording) -> Iterator[Cause]:
    """M03: something keeps tensors of every step."""
    for each in recording.retained:
        if _kept_outputs(each) or each.limit or not _worth(recording, each):
            continue
        named = f"`{each.owner}`" if each.owner else each.place
        where = f" ({each.held})" if each.held else f" (in {each.place})" if each.owner else ""
        graph = (
            f", {format_bytes(each.graph)} of it in a graph that nothing goes backward through"
            if each.graph
            else ""
        )
        made = f"; made at {each.made}" if each.made else ""
        yield Cause(
            id="M03",
            evidence=f"{named}{where} gains {format_bytes(each.per_step)} with every {_a_step(each)}{graph}{made}",
            fix=_fix_of_growth(each),
            owner=each.owner,
            site=each.held or each.made,
            frees=each.per_step * _steps_since(recording, each),
            per_step=each.per_step,
            ruled_out=_not_growing(recording, each),
        )


def no_inference_mode(recording: Recording) -> Iterator[Cause]:
    """M04: a model in evaluation mode is called with gradients on, and no backward follows."""
    step = _highest(
        recording, lambda each: each.kind is StepKind.CALL and each.evaluating and each.grad_enabled
    )
    if step is None or step.unused < _UNUSED * step.peak or step.without >= step.peak:
        return
    saved = step.peak - step.without
    line = step.called_at or step.site
    yield Cause(
        id="M04",
        evidence=(
            f"{line or 'a model in evaluation mode'} calls a model with gradients on and never goes backward: "
            f"{format_bytes(step.unused)} of its peak of {format_bytes(step.peak)} are kept for nothing"
        ),
        fix=f"`with torch.inference_mode():` around {line or 'the call'}; the peak falls by "
        f"{100 * saved / step.peak:.0f} %. model.eval() does not switch gradients off",
        site=line,
        frees=saved,
        ruled_out=("batch size: the same call needs less without gradients",),
    )


def kept_outputs(recording: Recording) -> Iterator[Cause]:
    """M05: a validation keeps what its model puts out."""
    for each in recording.retained:
        peak = _recorded_peak(recording)
        if not _kept_outputs(each) or each.limit or each.per_step < max(_OUTPUTS * peak, _GROWS_BYTES):
            continue
        calls = _steps_since(recording, each)
        yield Cause(
            id="M05",
            evidence=(
                f"`{each.owner}`{f' ({each.held})' if each.held else ''} keeps {format_bytes(each.per_step)} of "
                f"every validation call: {format_bytes(each.per_step * calls)} after {calls:,}"
            ),
            fix="keep what the metric needs (argmax, a running sum) instead of whole outputs, or move each to "
            "numpy on disk as it comes",
            owner=each.owner,
            site=each.held or each.made,
            frees=each.per_step * calls,
            per_step=each.per_step,
            ruled_out=("a graph: these tensors have none, so no_grad would not help",),
        )


def worst_batch(recording: Recording) -> Iterator[Cause]:
    """M06: a batch that is larger than all before it."""
    failure = _death(recording)
    if failure is None or failure.updates < 2:
        return
    sizes = [_elements(recording.signatures[s]) for s in recording.steps.signature if s != UNKNOWN]
    asked, largest = _elements(failure.shapes), max(sizes, default=0)
    if not sizes or asked <= largest:
        return
    usual = sorted(sizes)[len(sizes) // 2]
    yield Cause(
        id="M06",
        evidence=(
            f"step {failure.step} was given {failure.shapes}, {asked / max(usual, 1):.1f} times the usual size "
            f"and more than any of the {len(sizes)} steps before it"
        ),
        fix="cap or bucket the sizes, and run the largest batch first, so that it fails at once or never",
        site=failure.site,
        frees=_scaled_excess(recording, asked, largest),
        ruled_out=(*_no_growth(recording), *_fragmentation(failure)),
    )


def fragmented(recording: Recording) -> Iterator[Cause]:
    """M07: the allocator has enough, in pieces too small."""
    for failure in recording.failures:
        if UNKNOWN in (failure.asked, failure.reserved, failure.alive, failure.largest, failure.free):
            continue
        cached = failure.reserved - failure.alive
        if (
            cached + failure.free < failure.asked
            or failure.largest >= failure.asked
            or cached < failure.asked
        ):
            continue
        yield Cause(
            id="M07",
            evidence=(
                f"{format_bytes(cached)} are free in {failure.pieces:,} pieces, the largest "
                f"{format_bytes(failure.largest)}, and {format_bytes(failure.asked)} were asked for"
            ),
            fix="PYTORCH_ALLOC_CONF=expandable_segments:True (without max_split_size_mb, which works against it)",
            site=failure.site,
            frees=cached,
            ruled_out=("too little memory: a perfect allocator would have had enough",),
        )


def driver_differs(recording: Recording) -> Iterator[Cause]:
    """M08: the driver counts more than this process uses: somebody else is on the device."""
    for failure in recording.failures:
        if UNKNOWN in (failure.driver, failure.reserved, failure.alive, failure.device, failure.context):
            continue
        others = failure.driver - failure.reserved - failure.context
        if others < _OTHERS * failure.device:
            continue
        yield Cause(
            id="M08",
            evidence=(
                f"the driver counts {format_bytes(failure.driver)} = live {format_bytes(failure.alive)} + cached "
                f"{format_bytes(failure.reserved - failure.alive)} + CUDA context {format_bytes(failure.context)} "
                f"+ other processes {format_bytes(others)}"
            ),
            fix="end the other processes on this device (nvidia-smi names them)",
            frees=others,
            ruled_out=(
                "this run: empty_cache() gives back the cached part only, and the run takes it again",
            ),
        )


def batch_size(recording: Recording) -> Iterator[Cause]:
    """M09: the batch size that was found does not fit after all, or its updates are other ones."""
    yield from _tried_once(recording)
    yield from _smaller_after_failure(recording)


def _tried_once(recording: Recording) -> Iterator[Cause]:
    """A trial of one update fitted, and the training after it ran out: the optimizer's state was born in between."""
    failure = _death(recording)
    state = max((step.state for step in recording.recorded), default=0)
    if failure is None or not failure.tried or state < _STATE * _recorded_peak(recording):
        return
    yield Cause(
        id="M09",
        evidence=(
            f"{failure.shapes} was tried with a single update, which fitted; step {failure.step} did not"
            f"{_at(failure)}: an update makes {format_bytes(state)} of optimizer state, which no trial of one meets"
        ),
        fix="let a trial make three whole updates; enxuto explain TARGET --solve batch --budget SIZE finds the "
        "largest that fits",
        site=failure.site,
        frees=state,
        ruled_out=_fragmentation(failure),
    )


def _smaller_after_failure(recording: Recording) -> Iterator[Cause]:
    """After a failure the script went on with a smaller batch, and with it a smaller effective batch."""
    for failure in recording.failures:
        later = [
            step
            for step in recording.recorded
            if step.kind is StepKind.UPDATE and step.step >= failure.step and step.signature != UNKNOWN
        ]
        if not failure.handled or failure.batch == UNKNOWN or not later:
            continue
        last = later[-1]
        batch = _batch_of(recording.signatures[last.signature])
        effective = batch * _same_batch_calls(last)
        if not 0 < batch < failure.batch or effective >= failure.batch:
            continue
        yield Cause(
            id="M09",
            evidence=(
                f"out of memory with batch {failure.batch} in step {failure.step}, and from then on {batch} in each "
                f"update: the updates are other ones, {failure.batch / effective:.1f} times smaller"
            ),
            fix=f"accumulate {math.ceil(failure.batch / batch)} batches of {batch} for each update; "
            "enxuto explain TARGET --solve batch --budget SIZE finds the largest that fits",
            site=failure.site,
        )


def retried_inside(recording: Recording) -> Iterator[Cause]:
    """M10: the retry failed as well, since it ran while the first error was still being handled."""
    for failure in recording.failures:
        if not failure.during:
            continue
        held = f", {_names(failure)}: {format_bytes(failure.still_held)}" if failure.kept else ""
        yield Cause(
            id="M10",
            evidence=(
                f"a retry in step {failure.step}{_at(failure)} failed while the first error was still being handled: "
                f"its traceback keeps every tensor of the frames that failed{held}"
            ),
            fix="leave the except block before the retry: set a flag in it, and try again after it",
            owner=failure.kept[0].owner if failure.kept else "",
            site=failure.site,
            frees=failure.still_held or UNKNOWN,
        )


def loaded_twice(recording: Recording) -> Iterator[Cause]:
    """M11: what a checkpoint was loaded into is still there."""
    for copied in recording.copies:
        yield Cause(
            id="M11",
            evidence=(
                f"`{copied.owner}` (in {copied.place}) holds a second copy of the weights in step {copied.step}, "
                f"{format_bytes(copied.nbytes)}"
            ),
            fix="torch.load(..., map_location='cpu', mmap=True), load_state_dict(..., assign=True) before the "
            f"optimizer is made, then `del {copied.owner}`",
            owner=copied.owner,
            frees=copied.nbytes,
        )


def growing_workers(recording: Recording) -> Iterator[Cause]:
    """M12: the data loader's workers take more and more."""
    steps = recording.steps
    known = steps.workers > 0
    if known.sum() < 8:
        return
    level, number = steps.workers[known], steps.step[known]
    quarters = [int(np.median(part)) for part in np.array_split(level, 4)]
    grown = quarters[3] - quarters[1]
    objects = next((each for each in recording.objects if each.nbytes >= _WORKERS_BYTES), None)
    least = _COPIED if objects else max(_WORKERS_BYTES, _WORKERS_GROW * quarters[1])
    if sorted(quarters) != quarters or grown < least or not _keeps_rising(level):
        return
    kept = (
        f"; `{objects.owner}` is a {objects.container} of {objects.count:,} Python objects "
        f"({objects.element}), {format_bytes(objects.nbytes)}, which each worker copies as it reads them"
        if objects
        else ""
    )
    slope = robust_slope(number[len(number) // 4 :], level[len(level) // 4 :])
    yield Cause(
        id="M12",
        evidence=(
            f"the workers of the data loader grew from {format_bytes(quarters[0])} to {format_bytes(quarters[3])} "
            f"(kernel, shared pages by their part), {format_bytes(round(slope))} a step{kept}"
        ),
        fix="keep the dataset's samples in numpy or Arrow arrays instead of Python objects: reading a Python "
        "object changes its reference count, and copies the page that it is on",
        owner=objects.owner if objects else "",
        frees=grown,
        per_step=round(slope),
        ruled_out=("tensors of the training process: their bytes did not grow",)
        if not recording.retained
        else (),
    )


def _keeps_rising(level: np.ndarray) -> bool:
    """Whether both halves reach new heights more than once: neither a start that is over nor a single jump."""
    news = np.flatnonzero(np.diff(np.maximum.accumulate(level)) > 0) + 1
    return bool(min((news < len(level) // 2).sum(), (news >= len(level) // 2).sum()) >= 2)


def idle_autocast(recording: Recording) -> Iterator[Cause]:
    """M13: mixed precision costs more in copies of weights than it saves in activations."""
    step = _highest(recording, lambda each: each.kind is StepKind.UPDATE and each.cast > 0)
    if step is None or step.cast < _CAST * step.peak or step.cast <= step.halved:
        return
    yield Cause(
        id="M13",
        evidence=(
            f"autocast keeps copies of the weights of {format_bytes(step.cast)} at the peak and saves "
            f"{format_bytes(step.halved)} in activations: it costs {format_bytes(step.cast - step.halved)}"
        ),
        fix="this model is bound by its weights: bfloat16 weights (model.bfloat16()) or an optimizer with less state",
        site=step.site,
        frees=step.cast - step.halved,
    )


def no_gradients(recording: Recording) -> Iterator[Cause]:
    """M14: the optimizer comes and most parameters have no gradient."""
    step = next((s for s in recording.recorded if s.parameters and 2 * s.gradless > s.parameters), None)
    if step is None:
        return
    yield Cause(
        id="M14",
        evidence=f"{step.gradless} of {step.parameters} parameters have no gradient when the optimizer steps: "
        "memory is low because nothing is learnt",
        fix="checkpoint(..., use_reentrant=False): the reentrant form needs an input that requires gradients",
        site=step.called_at,
    )


def loss_spike(recording: Recording) -> Iterator[Cause]:
    """M15: the peak is in the loss."""
    receipt = _receipt(recording, training=True)
    for finding in receipt.findings if receipt else ():
        if finding.id == "M15":
            yield Cause(
                id="M15",
                evidence=finding.text,
                fix="compute the loss in chunks of tokens, each with its own backward, or with a fused kernel",
                site=receipt.instant.site if receipt else None,
                frees=finding.nbytes // 2,
            )


def zeros_stored(recording: Recording) -> Iterator[Cause]:
    """M16: a pruned model that is no smaller."""
    for model in recording.models:
        share = model.zeros / model.elements if model.elements else 0.0
        if not model.masks and share < _ZEROS:
            continue
        more = f", and masks add {format_bytes(model.masks)}" if model.masks else ""
        yield Cause(
            id="M16",
            evidence=(
                f"{100 * share:.0f} % of the weights of {model.name} are zeros, stored like any other number: "
                f"it takes {format_bytes(model.nbytes)}{more}"
            ),
            fix="remove whole channels instead: enxuto compress, or enxuto.compressing.pruning; "
            "prune.remove() takes the masks away",
            frees=model.masks or UNKNOWN,
        )


def barely_quantized(recording: Recording) -> Iterator[Cause]:
    """M17: a quantized model most of whose bytes are not."""
    for model in recording.models:
        floats = model.largest_float_bytes
        if not model.quantized or floats <= model.quantized:
            continue
        whole = model.quantized + floats
        yield Cause(
            id="M17",
            evidence=(
                f"{100 * model.quantized / whole:.0f} % of the weights of {model.name} are quantized: its "
                f"{model.largest_float} layers, {format_bytes(floats)}, are not supported by this way of doing it"
            ),
            fix="enxuto compress quantizes convolutions too (static, in onnxruntime) and shows the coverage",
            owner=model.largest_float,
            frees=floats * 3 // 4,
        )


def slower_quantized(recording: Recording) -> Iterator[Cause]:
    """M18: the quantized model is slower than the float one, on the same inputs."""
    for model, twin in _twins(recording):
        if model.calls < 5 or twin.calls < 5 or not twin.seconds:
            continue
        ratio = (model.seconds / model.calls) / (twin.seconds / twin.calls)
        if ratio < _SLOWER:
            continue
        yield Cause(
            id="M18",
            evidence=(
                f"{model.name} takes {1000 * model.seconds / model.calls:.1f} ms a call and {twin.name} "
                f"{1000 * twin.seconds / twin.calls:.1f} ms: quantized is {ratio:.1f} times slower here"
            ),
            fix="measure in the runtime that will serve it (onnxruntime, ExecuTorch); in PyTorch small batches often "
            "lose by quantization",
        )


def wrong_quantized(recording: Recording) -> Iterator[Cause]:
    """M19: the quantized model answers otherwise."""
    for model, twin in _twins(recording):
        if model.compared < _SAMPLES or model.agreed >= _AGREE * model.compared:
            continue
        yield Cause(
            id="M19",
            evidence=(
                f"{model.name} names the class that {twin.name} names on {model.agreed} of {model.compared} samples "
                f"({100 * model.agreed / model.compared:.1f} %)"
            ),
            fix="calibrate on real samples, one scale for each channel, first and last layer in float: "
            "enxuto compress finds the smallest that keeps the quality, and certifies it",
        )


def too_large_input(recording: Recording) -> Iterator[Cause]:
    """M20: inference goes beyond what its device lets an application take."""
    failure = next((f for f in recording.failures if f.budgeted and f.kind is StepKind.CALL), None)
    if failure is None or (recording.steps.kind == 0).any():
        return
    budget = recording.source.budget
    yield Cause(
        id="M20",
        evidence=(
            f"inference on {failure.shapes or 'this input'} needs more than the {format_bytes(budget)} that an "
            f"application may take{_at(failure)}"
        ),
        fix="bound the input's size before the model (resize, crop, tile), and export with that bound: runtimes "
        "reserve memory for the largest shape that they are told of",
        site=failure.site,
        frees=max(failure.alive - budget, 0) if failure.alive > 0 else UNKNOWN,
    )


#: Every situation by the name of its page.
SITUATIONS: dict[str, Situation] = {
    "M01": first_step,
    "M02": second_step,
    "M03": growing,
    "M04": no_inference_mode,
    "M05": kept_outputs,
    "M06": worst_batch,
    "M07": fragmented,
    "M08": driver_differs,
    "M09": batch_size,
    "M10": retried_inside,
    "M11": loaded_twice,
    "M12": growing_workers,
    "M13": idle_autocast,
    "M14": no_gradients,
    "M15": loss_spike,
    "M16": zeros_stored,
    "M17": barely_quantized,
    "M18": slower_quantized,
    "M19": wrong_quantized,
    "M20": too_large_input,
}


# -- what they ask of a recording ------------------------------------------------------------------------------


def robust_slope(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between all pairs of points (Theil-Sen), of at most 200 points spread evenly."""
    if len(x) > 200:
        chosen = np.linspace(0, len(x) - 1, 200).astype(int)
        x, y = x[chosen], y[chosen]
    first, second = np.triu_indices(len(x), 1)
    run = (x[second] - x[first]).astype(float)
    slopes = (y[second] - y[first])[run > 0] / run[run > 0]
    return float(np.median(slopes)) if len(slopes) else 0.0


def _death(recording: Recording) -> Failure | None:
    """The failure that ended the run."""
    return next((f for f in reversed(recording.failures) if not f.handled), None)


def _receipt(recording: Recording, *, training: bool) -> Explanation | None:
    return next((e for e in recording.explanations if e.facts.training is training), None)


def _highest(recording: Recording, wanted: Callable[[RecordedStep], bool]) -> RecordedStep | None:
    return max(filter(wanted, recording.recorded), key=lambda step: step.peak, default=None)


def _recorded_peak(recording: Recording) -> int:
    return max((step.peak for step in recording.recorded), default=0)


def _worth(recording: Recording, each: Retained) -> bool:
    return each.per_step >= max(_GROWS_BYTES, _GROWS * _recorded_peak(recording))


def _kept_outputs(each: Retained) -> bool:
    """Whether these are the outputs of a validation, without a graph."""
    return each.kind is StepKind.CALL and not each.graph


def _a_step(each: Retained) -> str:
    return "step" if each.kind is StepKind.UPDATE else "call of the model"


def _steps_since(recording: Recording, each: Retained) -> int:
    """Steps of its kind since it was first seen."""
    steps = recording.steps
    chosen = recording.of_kind(each.kind) & (steps.step >= each.first)
    return int(steps.covers[chosen].sum())


def _fix_of_growth(each: Retained) -> str:
    if each.what == "traceback":
        return "keep `str(error)` instead: an exception's traceback keeps every variable of the frames it came through"
    if each.graph:
        return "keep a number (`.item()`) or `.detach()` before it is kept; `torch.no_grad()` where no backward comes"
    return "keep less of each step (a running mean, `.item()`), bound it (deque(maxlen=...)), or empty it"


def _not_growing(recording: Recording, grows: Retained) -> tuple[str, ...]:
    small = [
        f"`{each.owner}` keeps {format_bytes(each.per_step)} a step"
        + (", graph nodes only" if each.has_graph and not each.graph else "")
        for each in recording.retained
        if each.owner != grows.owner and not _worth(recording, each) and each.owner
    ]
    return (*small, *_no_new_shapes(recording))


def _no_new_shapes(recording: Recording) -> tuple[str, ...]:
    seen = recording.steps.signature[recording.of_kind(StepKind.UPDATE)][1:]
    if len(seen) > 1 and len(set(seen.tolist())) == 1:
        return ("batch size: the shapes are the same in every step",)
    return ()


def _no_growth(recording: Recording) -> tuple[str, ...]:
    return () if recording.retained else ("a leak: no tensor outlived its step",)


def _same_shapes(recording: Recording, failure: Failure) -> tuple[str, ...]:
    if failure.shapes and failure.shapes in recording.signatures:
        return ("a larger batch: it had the shapes of the step before",)
    return ()


def _fragmentation(failure: Failure) -> tuple[str, ...]:
    """That it is not fragmentation, where the allocator tells."""
    if UNKNOWN in (failure.asked, failure.reserved, failure.alive, failure.free):
        return ()
    lacks = failure.asked - failure.free - (failure.reserved - failure.alive)
    if lacks <= 0:
        return ()
    return (f"fragmentation: even a perfect allocator lacks {format_bytes(lacks)}",)


def _names(failure: Failure) -> str:
    return ", ".join(f"`{each.owner}` (in {each.place})" for each in failure.kept)


def _at(failure: Failure) -> str:
    return f" at {failure.site}" if failure.site else ""


_SHAPE = re.compile(r"\d+(?:×\d+)*")


def _elements(signature: str) -> int:
    """How many numbers a step's models are given, from the text of its shapes."""
    shapes = _SHAPE.findall(signature.partition("(")[2])
    return sum(math.prod(map(int, shape.split("×"))) for shape in shapes)


def _batch_of(signature: str) -> int:
    found = _SHAPE.search(signature.partition("(")[2])
    return int(found[0].split("×")[0]) if found else 0


def _same_batch_calls(step: RecordedStep) -> int:
    return max(step.calls, 1)


def _scaled_excess(recording: Recording, asked: int, largest: int) -> int:
    """What the activations of the largest recorded step would be more at this size."""
    receipt = _receipt(recording, training=True)
    if receipt is None or not largest:
        return UNKNOWN
    activations = sum(map(receipt.share, _ACTIVATIONS))
    return max(activations * (asked - largest) // largest, 0)


def _twins(recording: Recording) -> Iterator[tuple[ModelFacts, ModelFacts]]:
    """Each quantized model with the float one that was given the same inputs."""
    by_name = {model.name: model for model in recording.models}
    for model in recording.models:
        if model.compared and model.twin in by_name:
            yield model, by_name[model.twin]
