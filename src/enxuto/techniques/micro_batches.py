"""Micro-batches: one batch in pieces, one update with the exact gradient of the whole.

Exact where the loss is a mean over items that do not see each other: each piece's loss is weighed by its share
of one global count, never by 1/k. Batch norm and losses across the batch see other items in a piece, so they
are refused; dropout draws other masks of the same distribution.

Sources: gradient accumulation as corrected in transformers (its issue 34191, `num_items_in_batch`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .. import _torch_private as private
from ..errors import UsageError
from ..records import (
    CATEGORY_CODE,
    PHASE_CODE,
    Accumulation,
    Category,
    Phase,
    PhaseSpan,
    Ragged,
    Timeline,
)
from .edits import Array
from .regions import Refused

_BEFORE = PHASE_CODE[Phase.BEFORE]
_GRADIENT = CATEGORY_CODE[Category.GRADIENT]
_INPUT = CATEGORY_CODE[Category.INPUT]
_OTHER = CATEGORY_CODE[Category.OTHER]
_LOSS_BYTES = 4


def sizes_of(items: int, pieces: int) -> tuple[int, ...]:
    """The sizes of `pieces` pieces of a batch, larger ones first, as `torch.tensor_split` cuts them."""
    small, more = divmod(items, pieces)
    return (small + 1,) * more + (small,) * (pieces - more)


def check(timeline: Timeline) -> None:
    """Refuse a step whose items see each other, as far as its Timeline tells.

    Raises:
        Refused: batch norm in training mode, or more than one backward in the step.
    """
    for op, name in enumerate(timeline.ops.name.tolist()):
        text = timeline.text(name)
        if "batch_norm" in text and timeline.ops.phase[op] == PHASE_CODE[Phase.FORWARD]:
            module = timeline.module_of(int(timeline.ops.call[op])) or "the model"
            if _trains(timeline, op):
                raise Refused(f"batch norm ({module}) takes its statistics over the whole batch")
    parameters = [row.parameter for row in timeline.accumulations]
    if len(set(parameters)) < len(parameters):
        raise Refused("the step runs more than one backward already")


def _trains(timeline: Timeline, op: int) -> bool:
    signature = int(timeline.ops.signature[op])
    if signature < 0:
        return False
    name, arguments, _ = json.loads(timeline.signatures[signature])
    overload: Any = torch.ops
    for part in name.split("."):
        overload = getattr(overload, part)
    names = [argument.name for argument in overload._schema.arguments]
    place = names.index("training") if "training" in names else -1
    return bool(arguments[place]) if 0 <= place < len(arguments) else True


def simulate(whole: Timeline, pieces: Sequence[Timeline]) -> Timeline:
    """The Timeline of a step in pieces: each piece's forward and backward in turn, and one update.

    Args:
        whole: of the plain step; its inputs stay, since pieces are views of them.
        pieces: Timelines of the same work at the pieces' sizes, in order.

    Raises:
        Refused: see `check`; or the pieces' steps are not alike.
    """
    check(whole)
    return _Passes(whole, pieces).timeline()


class _Passes:
    """Several steps laid one after the other: blocks that stand before the first stand for all."""

    def __init__(self, whole: Timeline, pieces: Sequence[Timeline]) -> None:
        self.whole, self.pieces = whole, pieces
        self.updates = [_update_start(piece) for piece in pieces]
        self.offsets = np.cumsum([0, *self.updates])
        last = pieces[-1]
        self.ticks = int(self.offsets[-1]) + last.ticks - self.updates[-1]
        self.block_ids = self._block_ids()
        self.call_offsets = np.cumsum([0, *(len(piece.calls) for piece in pieces)])
        self.kept_ops = [self._ops_of(number) for number in range(len(pieces))]
        self.op_offsets = np.cumsum([0, *(len(kept) for kept in self.kept_ops)])

    def timeline(self) -> Timeline:
        first = self.pieces[0]
        result = replace(
            first,
            ticks=self.ticks,
            blocks=self._blocks(),
            saves=self._columns("saves", self._all("saves"), blocks=("block",), calls=("call",)),
            calls=self._columns(
                "calls", self._all("calls"), blocks=("arguments", "returns"), calls=("parent",)
            ),
            ops=self._ops(),
            holders=(),
            phases=self._phases(),
            accumulations=self._accumulations(),
        )
        facts = replace(first.facts, step_peaks=(result.peak,), batch_size=self.whole.facts.batch_size)
        return replace(result, facts=facts)

    def _clock(self, number: int, ticks: Any) -> Any:
        """Ticks of one piece's step on the common clock; the update is the last piece's."""
        if number == len(self.pieces) - 1:
            return ticks + self.offsets[number]
        return np.minimum(ticks, self.updates[number]) + self.offsets[number]

    def _all(self, group: str) -> list[Array]:
        return [np.arange(len(getattr(piece, group))) for piece in self.pieces]

    def _ops_of(self, number: int) -> Array:
        piece = self.pieces[number]
        kept = np.ones(len(piece.ops), bool)
        if number < len(self.pieces) - 1:
            kept &= piece.ops.tick < self.updates[number]
        if number:
            kept[self._first_copies(number)] = False
        return np.flatnonzero(kept)

    def _block_ids(self) -> list[Array]:
        """For each piece, the common id of each of its blocks."""
        standing = [np.flatnonzero(piece.blocks.phase == _BEFORE) for piece in self.pieces]
        if len({len(s) for s in standing}) > 1:
            raise Refused("steps at the pieces' sizes do not begin alike")
        ids: list[Array] = []
        count = 0
        for number, piece in enumerate(self.pieces):
            own = np.full(len(piece.blocks), -1, np.int64)
            if number:
                own[standing[number]] = ids[0][standing[0]]
            kept = self._kept_blocks(number)
            own[kept] = count + np.arange(len(kept))
            count += len(kept)
            ids.append(own)
        return ids

    def _kept_blocks(self, number: int) -> Array:
        """The blocks that a piece's step adds: those of the update come with the last piece."""
        b = self.pieces[number].blocks
        kept = (b.phase == _BEFORE) if not number else np.zeros(len(b), bool)
        made = b.phase != _BEFORE
        if number < len(self.pieces) - 1:
            made &= b.born < self.updates[number]
        if number:  # a gradient that the first piece had to copy is added to where it stands
            made &= ~np.isin(b.op, self._first_copies(number))
        return np.flatnonzero(kept | made)

    def _first_copies(self, number: int) -> Array:
        """Ops by which autograd makes a parameter's first gradient where it cannot take the incoming one."""
        piece = self.pieces[number]
        nodes = [i for i, name in enumerate(piece.names) if name.endswith("AccumulateGrad")]
        return np.flatnonzero(np.isin(piece.ops.node, nodes))

    def _blocks(self) -> Any:
        parts = []
        for number, piece in enumerate(self.pieces):
            parts.append(self._lives(number, piece, self._kept_blocks(number)))
        join = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        kept_until = np.zeros(1, np.int64) + self.ticks
        total = {  # the sum of the pieces' losses
            "nbytes": [_LOSS_BYTES],
            "category": [CATEGORY_CODE[Category.TEMPORARY_FORWARD]],
            "phase": [PHASE_CODE[Phase.FORWARD]],
            "born": [self._released()],
            "natural": kept_until,
        }
        for name, column in join.items():
            extra = np.array(total.get(name, [-1]))
            join[name] = np.concatenate([column, extra]).astype(column.dtype)
        self._keep_whole_inputs(join)
        return type(self.pieces[0].blocks)(**join)

    def _released(self) -> int:
        """The tick by which the last step's gradients are gone, where the sum of losses is made."""
        first = self.pieces[0].blocks
        old = (first.category == _GRADIENT) & (first.phase == _BEFORE)
        return int(first.natural[old].max(initial=0))

    def _lives(self, number: int, piece: Timeline, rows: Array) -> dict[str, Array]:
        b = piece.blocks
        natural = b.natural.copy()
        fresh = b.phase != _BEFORE
        gradients = np.array([row.gradient for row in piece.accumulations], np.int64)
        is_gradient = np.zeros(len(b), bool)
        is_gradient[gradients] = True
        lasting = fresh & (natural == piece.ticks) & ~is_gradient  # the loss: its name is taken again
        natural[lasting & (b.born < self.updates[number])] = self.updates[number]
        natural = self._clock(number, natural)
        readers = piece.ops.tick[piece.ops.reads.owners()]
        backward = readers < self.updates[number]
        last_read = np.zeros(len(b), np.int64)  # a gradient may share its memory with what flows on
        np.maximum.at(last_read, piece.ops.reads.values[backward], readers[backward])
        for row in piece.accumulations:
            over = max(row.tick, int(last_read[row.gradient])) + 1
            natural[row.gradient] = self._clock(number, np.int64(over)) if number else self.ticks
        stays = (b.phase == _BEFORE) & (b.natural >= self.updates[number])
        natural[stays] = self.ticks - piece.ticks + b.natural[stays]
        op_ids = np.full(len(piece.ops), -1, np.int64)
        op_ids[self.kept_ops[number]] = self.op_offsets[number] + np.arange(len(self.kept_ops[number]))
        return {
            "nbytes": b.nbytes[rows],
            "category": b.category[rows],
            "phase": b.phase[rows],
            "born": self._clock(number, b.born)[rows] * (b.phase[rows] != _BEFORE),
            "natural": natural[rows],
            "name": b.name[rows],
            "op": np.where(b.op[rows] >= 0, op_ids[b.op[rows]], -1),
            "call": np.where(b.call[rows] >= 0, b.call[rows] + self.call_offsets[number], -1),
            "site": b.site[rows],
        }

    def _keep_whole_inputs(self, columns: dict[str, Array]) -> None:
        ours = np.flatnonzero((columns["category"] == _INPUT) & (columns["phase"] == _BEFORE))
        b = self.whole.blocks
        theirs = np.flatnonzero((b.category == _INPUT) & (b.phase == _BEFORE))
        if len(ours) != len(theirs):
            raise Refused("the batch has other tensors at another size")
        columns["nbytes"] = columns["nbytes"].copy()
        columns["nbytes"][ours] = b.nbytes[theirs]

    def _columns(
        self, group: str, rows: Sequence[Array], *, blocks: Sequence[str], calls: Sequence[str]
    ) -> Any:
        """A group's columns of all pieces, one after the other, in common ids and ticks."""
        kind = type(getattr(self.pieces[0], group))
        ticks = {"pack", "release", "enter", "exit", "tick", "unpacks", "local_ends"}
        joined: dict[str, Any] = {}
        for name in kind.__slots__:
            parts: list[Any] = []
            for number, (piece, wanted) in enumerate(zip(self.pieces, rows, strict=True)):
                column = getattr(getattr(piece, group), name)

                def common(values: Array, number: int = number, name: str = name) -> Array:
                    if name in ticks:
                        return np.asarray(self._clock(number, values))
                    if name in blocks:
                        return np.where(values >= 0, self.block_ids[number][values], -1)
                    if name in calls:
                        return np.where(values >= 0, values + self.call_offsets[number], -1)
                    return values

                if isinstance(column, Ragged):
                    changed = Ragged(offsets=column.offsets, values=common(column.values))
                    parts += [changed[row] for row in wanted.tolist()]
                else:
                    parts.append(common(column[wanted]).astype(column.dtype))
            ragged = isinstance(getattr(getattr(self.pieces[0], group), name), Ragged)
            joined[name] = Ragged.of(parts) if ragged else np.concatenate(parts)
        return kind(**joined)

    def _ops(self) -> Any:
        """Ops of all pieces; the update reads the first piece's gradients, to which the others were added."""
        ops = self._columns("ops", self.kept_ops, blocks=("reads", "writes"), calls=("call",))
        last = len(self.pieces) - 1
        piece, first = self.pieces[last], {r.parameter: r.gradient for r in self.pieces[0].accumulations}
        update = self._clock(last, np.int64(self.updates[last]))
        here = self.block_ids[last]
        stands = {r.gradient: first[int(here[r.parameter])] for r in piece.accumulations}
        columns = {}
        for name in ("reads", "writes"):
            rows = [getattr(piece.ops, name)[op] for op in self.kept_ops[last].tolist()]
            late = ops.tick[-len(rows) :] >= update
            own = [
                [stands.get(block, int(here[block])) if is_late else int(here[block]) for block in row]
                for row, is_late in zip(rows, late.tolist(), strict=True)
            ]
            before = getattr(ops, name)
            columns[name] = Ragged.of([*(before[i] for i in range(len(before) - len(rows))), *own])
        return replace(ops, **columns)

    def _phases(self) -> tuple[PhaseSpan, ...]:
        spans: list[PhaseSpan] = []
        for number, piece in enumerate(self.pieces):
            for span in piece.phases:
                start, stop = (int(self._clock(number, np.int64(t))) for t in (span.start, span.stop))
                if start >= stop:
                    continue
                if spans and spans[-1].phase is span.phase:
                    spans[-1] = replace(spans[-1], stop=stop)
                else:
                    spans.append(PhaseSpan(phase=span.phase, start=start, stop=stop))
        return tuple(spans)

    def _accumulations(self) -> tuple[Accumulation, ...]:
        first = {row.parameter: row.gradient for row in self.pieces[0].accumulations}
        found = []
        for number, piece in enumerate(self.pieces):
            ids = self.block_ids[number]
            for row in piece.accumulations:
                parameter = int(ids[row.parameter])
                found.append(
                    Accumulation(
                        tick=int(self._clock(number, np.int64(row.tick))),
                        parameter=parameter,
                        gradient=first[parameter] if number else row.gradient,
                    )
                )
        return tuple(found)


def _update_start(piece: Timeline) -> int:
    starts = [span.start for span in piece.phases if span.phase is Phase.OPTIMIZER]
    if len(starts) != 1:
        raise Refused("the step updates more than once, or not at all")
    return starts[0]


# -- on a real batch -----------------------------------------------------------------------------------------


def pieces_of(batch: Any, pieces: int, items: int | None = None) -> Iterator[tuple[Any, int]]:
    """Cut a batch: every tensor whose first dimension is the batch's is narrowed, the rest goes to each piece.

    Yields:
        A piece (views, no copies) and its number of items.

    Raises:
        UsageError: no batch dimension is found, or there are fewer items than pieces.
    """
    leaves, shape = private.pytree.tree_flatten(batch)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    total = items if items in sizes else (sizes.pop() if len(sizes) == 1 else None)
    if total is None:
        raise UsageError(
            "this batch cannot be cut into micro-batches: its tensors have no first dimension in common; "
            "give Workload(batch_size=...)"
        )
    if total < pieces:
        raise UsageError(f"a batch of {total} cannot be cut into {pieces} pieces")
    start = 0
    for size in sizes_of(total, pieces):
        cut = [
            leaf.narrow(0, start, size)
            if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == total
            else leaf
            for leaf in leaves
        ]
        yield private.pytree.tree_unflatten(cut, shape), size
        start += size


def backward(
    loss: Callable[[nn.Module, Any], Tensor],
    model: nn.Module,
    batch: Any,
    pieces: int,
    *,
    items: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Forward and backward piece by piece; gradients add up to those of the whole batch's loss.

    Args:
        loss: gives a scalar mean over the items of what it is given.
        items: counts what a piece's mean is over; None: its samples.
        scale: applied to each weighed loss before its backward (`GradScaler.scale`).

    Returns:
        The loss of the whole batch, a scalar without a graph.

    Raises:
        UsageError: a mean over other items than samples is taken, and `items` is not given.
    """
    cut = list(pieces_of(batch, pieces, batch_size))
    counts = [float(size if items is None else items(piece)) for piece, size in cut]
    total: Tensor | None = None
    for (piece, size), count in zip(cut, counts, strict=True):
        share = count / sum(counts)
        if total is None:
            home = next(model.parameters())
            total = torch.zeros((), dtype=torch.float32, device=home.device)
        watch = _Means(size) if items is None else None
        value = _loss_of(loss, model, piece, watch)
        if scale is not None:
            value_scaled = scale(value * share)
            value_scaled.backward()
            del value_scaled
        else:
            value.backward(torch.full_like(value, share))
        total.add_(value.detach(), alpha=share)
        del value
    assert total is not None  # there is at least one piece
    return total


def _loss_of(loss: Any, model: nn.Module, piece: Any, watch: _Means | None) -> Tensor:
    if watch is None:
        value = loss(model, piece)
    else:
        with watch:
            value = loss(model, piece)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError("the workload's loss must return a scalar tensor")
    return value


class _Means(TorchFunctionMode):
    """Watches the losses of a piece: a mean that leaves some targets out is no mean over samples."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.cross_entropy, F.nll_loss):
            self._check(*args, **kwargs)
        return func(*args, **kwargs)

    def _check(self, *args: Any, **kwargs: Any) -> None:
        names = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction")
        given = dict(zip(names, args, strict=False)) | kwargs
        target, reduction = given.get("target"), given.get("reduction", "mean")
        if reduction == "sum":
            raise UsageError(
                "the loss is a sum over the batch, and micro-batches weigh means; divide it by the number of "
                "items, or give Workload(items=...)"
            )
        if reduction != "mean" or not isinstance(target, Tensor) or target.is_floating_point():
            return
        if isinstance(target, private.FakeTensor) or target.is_meta:
            return  # its values are not there; the real step looks
        if given.get("weight") is not None or bool((target == given.get("ignore_index", -100)).any()):
            raise UsageError(
                "the loss is a mean over targets of unequal weight (padding is left out, or classes are weighed), "
                "so that pieces count unequally: give Workload(items=lambda batch: <the number of targets that "
                "count>), for instance items=lambda batch: (batch[1] != -100).sum()"
            )
