"""Findings: what the trace itself shows to be worth a change. Each is computed; none is a general tip.

A finding is one function from a `Standing` to a `Finding` or None. Ids starting with M are the situations of
the documentation. The bytes are those that the sentence is about, not a promise of what would be saved.
"""

from __future__ import annotations

from collections.abc import Callable

from ..records import CATEGORY_CODE, PHASE_CODE, Category, Finding, Phase
from ..records.columns import Array
from ..units import format_bytes
from .growth import growth
from .reasons import ACTIVATIONS, INTERMEDIATE, unread
from .standing import Standing, last_reads, modules_of, op_name, op_place

_WORTH = 0.01  # of the peak: less is not worth a sentence
_SPIKE = 0.1  # of the peak: what copies of the logits must reach to be called a spike

_LOSS_OPS = ("aten._log_softmax", "aten.nll_loss", "aten.cross_entropy")
_LOSS_NODES = ("LogSoftmaxBackward", "NllLoss", "CrossEntropy")
_ZEROING = ("aten.zero_", "aten._foreach_zero_")
_FLOOR = (Category.PARAMETER, Category.BUFFER, Category.OPTIMIZER_STATE)


def findings(standing: Standing) -> tuple[Finding, ...]:
    """Everything found at this peak, most bytes first."""
    found = [finding for check in CHECKS if (finding := check(standing)) is not None]
    return tuple(sorted(found, key=lambda finding: -finding.nbytes))


def activations(standing: Standing) -> Finding | None:
    """M01: how much of a training peak a smaller batch can reach, and what it cannot go below."""
    nbytes = standing.nbytes(standing.of(*ACTIVATIONS))
    if not standing.timeline.facts.training or not _worth(standing, nbytes):
        return None
    floor = format_bytes(standing.nbytes(standing.of(*_FLOOR)))
    return Finding(
        id="M01",
        text=(
            f"activations, saved and temporary, are {100 * nbytes / _peak(standing):.1f} % of the peak; "
            f"parameters, buffers and optimizer state are {floor}, which no smaller batch goes below"
        ),
        nbytes=nbytes,
    )


def later_steps(standing: Standing) -> Finding | None:
    """M02: the first step needs less than the steady one."""
    peaks = standing.timeline.facts.step_peaks
    more = peaks[-1] - peaks[0] if peaks else 0
    if not _worth(standing, more):
        return None
    state = standing.nbytes(standing.of(Category.OPTIMIZER_STATE))
    made = f"; optimizer state, {format_bytes(state)}, is there from step 2 on" if state else ""
    first, last = format_bytes(peaks[0]), format_bytes(peaks[-1])
    return Finding(id="M02", text=f"step 1 peaks at {first}, step {len(peaks)} at {last}{made}", nbytes=more)


def kept_results(standing: Standing) -> Finding | None:
    """Results of the step before are alive at this step's peak."""
    blocks = _from_before(standing, standing.of(*INTERMEDIATE))
    nbytes = standing.nbytes(blocks)
    if not _worth(standing, nbytes):
        return None
    text = f"{_of_blocks(nbytes, blocks)} left from the step before and alive at the peak"
    return Finding(id="kept-results", text=text + _largest(standing, blocks), nbytes=nbytes)


def loss_spike(standing: Standing) -> Finding | None:
    """M15: the peak is in the loss, with several tensors of the size of the logits alive."""
    timeline, op = standing.timeline, standing.op
    if op < 0 or not _is_loss(op_name(timeline, op), timeline.text(int(timeline.ops.node[op]))):
        return None
    size = _largest_operand(standing)
    blocks = standing.of(*INTERMEDIATE)
    copies = blocks[timeline.blocks.nbytes[blocks] == size]
    nbytes = standing.nbytes(copies)
    if len(copies) < 2 or nbytes < _SPIKE * _peak(standing):
        return None
    return Finding(
        id="M15",
        text=(
            f"the peak is in the loss, at {op_place(timeline, op)}: {len(copies)} tensors of "
            f"{format_bytes(size)}, the size of its input, live at once; a chunked or fused loss keeps "
            "a part of each"
        ),
        nbytes=nbytes,
    )


def optimizer_temporaries(standing: Standing) -> Finding | None:
    """The peak is in the optimizer step, and temporaries are part of it."""
    nbytes = standing.nbytes(standing.of(Category.TEMPORARY_OPTIMIZER))
    if standing.timeline.phase_at(standing.tick) is not Phase.OPTIMIZER or not _worth(standing, nbytes):
        return None
    elsewhere = format_bytes(_peak_outside(standing, Phase.OPTIMIZER))
    foreach = "_foreach_" in op_name(standing.timeline, standing.op)
    made = "; foreach ops make them for many parameters at once, foreach=False for one" if foreach else ""
    return Finding(
        id="optimizer-temporaries",
        text=(
            f"the peak is in the optimizer step, {format_bytes(nbytes)} of it temporaries; the highest "
            f"memory outside it is {elsewhere}{made}"
        ),
        nbytes=nbytes,
    )


def held_gradients(standing: Standing) -> Finding | None:
    """Gradients of the step before stand at a peak in forward or backward, their values used by nothing."""
    timeline = standing.timeline
    begun = bool((timeline.calls.enter <= standing.tick).any())
    if not begun or timeline.phase_at(standing.tick) not in (Phase.FORWARD, Phase.BACKWARD):
        return None
    blocks = _from_before(standing, standing.of(Category.GRADIENT))
    nbytes = standing.nbytes(blocks[_hold_nothing(standing, blocks)])
    if not _worth(standing, nbytes):
        return None
    return Finding(
        id="gradients-held",
        text=(
            "gradients of the step before are still there at the peak and their values are not used: "
            f"zero_grad(set_to_none=True) before the forward would free {format_bytes(nbytes)} there"
        ),
        nbytes=nbytes,
    )


def dead_weight(standing: Standing) -> Finding | None:
    """Temporaries at the peak that nothing reads again and no save holds, but for what `growth` tells of."""
    blocks = unread(standing)
    grown = [row.module for row in growth(standing.timeline)]
    blocks = blocks[[module not in grown for module in modules_of(standing.timeline, blocks)]]
    nbytes = standing.nbytes(blocks)
    if not _worth(standing, nbytes):
        return None
    text = f"{_of_blocks(nbytes, blocks)}, alive at the peak, that no later op reads and no backward needs"
    return Finding(id="dead-weight", text=text + _largest(standing, blocks), nbytes=nbytes)


def casts_of_parameters(standing: Standing) -> Finding | None:
    """M13: copies of parameters in another dtype, such as autocast makes, stand at the peak."""
    blocks = standing.of(*INTERMEDIATE)
    blocks = blocks[[_is_cast_of_parameter(standing, block) for block in blocks.tolist()]]
    nbytes = standing.nbytes(blocks)
    if not _worth(standing, nbytes):
        return None
    text = f"{_of_blocks(nbytes, blocks)} of casts of parameters to another dtype, beside the parameters themselves"
    return Finding(id="M13", text=text, nbytes=nbytes)


CHECKS: tuple[Callable[[Standing], Finding | None], ...] = (
    activations,
    later_steps,
    kept_results,
    loss_spike,
    optimizer_temporaries,
    held_gradients,
    dead_weight,
    casts_of_parameters,
)


def _peak(standing: Standing) -> int:
    return int(standing.curve.max(initial=0))


def _worth(standing: Standing, nbytes: int) -> bool:
    return nbytes > 0 and nbytes >= _WORTH * _peak(standing)


def _peak_outside(standing: Standing, phase: Phase) -> int:
    spans = [span for span in standing.timeline.phases if span.phase is not phase]
    return max((int(standing.curve[span.start : span.stop].max(initial=0)) for span in spans), default=0)


def _of_blocks(nbytes: int, blocks: Array) -> str:
    return f"{format_bytes(nbytes)} in {len(blocks):,} block{'' if len(blocks) == 1 else 's'}"


def _largest(standing: Standing, blocks: Array) -> str:
    """The source line of the largest of some blocks, as the end of a sentence."""
    table = standing.timeline.blocks
    block = int(blocks[table.nbytes[blocks].argmax()])
    site = standing.timeline.site_of(int(table.site[block]))
    return f"; the largest, {format_bytes(int(table.nbytes[block]))}, comes from {site}" if site else ""


def _is_loss(op: str, node: str) -> bool:
    return op.startswith(_LOSS_OPS) or node.startswith(_LOSS_NODES)


def _largest_operand(standing: Standing) -> int:
    """Bytes of the largest intermediate result that the op at the peak reads or makes."""
    table, blocks = standing.timeline.blocks, standing.of(*INTERMEDIATE)
    operands = blocks[standing.reads_now[blocks] | (table.born[blocks] == standing.tick)]
    return int(table.nbytes[operands].max(initial=0))


def _from_before(standing: Standing, blocks: Array) -> Array:
    kept: Array = blocks[standing.timeline.blocks.phase[blocks] == PHASE_CODE[Phase.BEFORE]]
    return kept


def _hold_nothing(standing: Standing, gradients: Array) -> list[bool]:
    """Which gradients have values that nothing uses: zeroed just before or just after, or dropped unread."""
    timeline, last = standing.timeline, last_reads(standing, gradients)
    return [
        op_name(timeline, last.get(gradient, -1)) in _ZEROING or _is_overwritten(standing, gradient)
        for gradient in gradients.tolist()
    ]


def _is_overwritten(standing: Standing, gradient: int) -> bool:
    reader = int(standing.next_read[gradient])
    if reader >= 0:
        return op_name(standing.timeline, reader) in _ZEROING
    return int(standing.ends[gradient]) < standing.timeline.ticks


def _is_cast_of_parameter(standing: Standing, block: int) -> bool:
    timeline = standing.timeline
    op = int(timeline.blocks.op[block])
    if op_name(timeline, op) != "aten._to_copy":
        return False
    read = list(timeline.ops.reads[op])
    return bool((timeline.blocks.category[read] == CATEGORY_CODE[Category.PARAMETER]).any())
