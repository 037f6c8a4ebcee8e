"""The rows of every table, once for all forms: largest first, cut rows summed in a last one, totals kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records import (
    CATEGORIES,
    Category,
    CurveSample,
    Explanation,
    Growth,
    LargestBatch,
    Owner,
    PhaseSpan,
    Timeline,
)
from ..units import format_bytes
from .wording import basis, counted, module_name, place, plain, scratch_note

#: What a part of a row is of: a category, or None for bytes without one.
Part = tuple[Category | None, int]

UNEXPLAINED = "(unexplained)"
_SEEN = 0.005  # of the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A label and its bytes, split by category where that is known."""

    label: str
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.parts)


def receipt(explanation: Explanation) -> list[Row]:
    """The peak by category, then what is unexplained: they add up to the peak."""
    order = CATEGORIES.index
    rows = [
        Row(
            label=share.category.value,
            parts=((share.category, share.nbytes),),
            note=counted(share.blocks, "block"),
        )
        for share in sorted(explanation.shares, key=lambda share: order(share.category))
    ]
    return [*rows, Row(label="unexplained", parts=((None, explanation.unexplained),))]


def module_leaves(explanation: Explanation) -> list[tuple[str, Part]]:
    """The peak by module path and category; what no row explains gets a path of its own, `UNEXPLAINED`."""
    leaves: list[tuple[str, Part]] = [
        (share.module, (share.category, share.nbytes)) for share in explanation.modules if share.nbytes
    ]
    rest = explanation.peak - sum(nbytes for _, (_, nbytes) in leaves)
    return [*leaves, (UNEXPLAINED, (None, rest))] if rest else leaves


def modules(explanation: Explanation, *, limit: int) -> list[Row]:
    """The peak by part of the model. The largest part is opened into its children while it dominates or few
    rows are used, so that a deep model shows its blocks instead of one row."""
    leaves = module_leaves(explanation)
    groups = _split(_Group(depth=0, leaves=leaves))
    while largest := _to_open(groups, limit):
        groups.remove(largest)
        groups += _split(largest)
    parents = {path.rpartition(".")[0] for path, _ in leaves}
    rows = [Row(label=_group_label(group, parents), parts=_by_category(group.leaves)) for group in groups]
    return cut(rows, limit=limit, noun="part")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Leaves whose paths have their first `depth` names in common."""

    depth: int
    leaves: list[tuple[str, Part]]

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, (_, nbytes) in self.leaves)


def _to_open(groups: Sequence[_Group], limit: int) -> _Group | None:
    """The largest group that has children, if there is room for them and it is worth it."""
    closed = [group for group in groups if len({path for path, _ in group.leaves}) > 1]
    if not closed or len(groups) >= limit:
        return None
    largest = max(closed, key=lambda group: group.nbytes)
    dominates = 3 * largest.nbytes > sum(group.nbytes for group in groups)
    return largest if dominates or len(groups) < limit // 2 else None


def _split(group: _Group) -> list[_Group]:
    """A group by its children; what belongs to no child is a group of its own."""
    children: dict[tuple[str, ...], list[tuple[str, Part]]] = defaultdict(list)
    for path, part in group.leaves:
        children[_names(path)[: group.depth + 1]].append((path, part))
    return [_Group(depth=group.depth + 1, leaves=leaves) for leaves in children.values()]


def _names(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")) if path else ()


def _group_label(group: _Group, parents: set[str]) -> str:
    path, *others = {path for path, _ in group.leaves}
    if others:
        return module_name(".".join(_names(path)[: group.depth]))
    return f"{module_name(path)} (itself)" if path and path in parents else module_name(path)


def _by_category(leaves: Iterable[tuple[str, Part]]) -> tuple[Part, ...]:
    totals: dict[Category | None, int] = defaultdict(int)
    for _, (category, nbytes) in leaves:
        totals[category] += nbytes
    order: list[Category | None] = [*CATEGORIES, None]
    return tuple((category, totals[category]) for category in order if totals[category])


def module_table(explanation: Explanation, *, limit: int) -> list[Row]:
    """The peak by module, each with its own path: what the treemap shows, as rows."""
    groups: dict[str, list[tuple[str, Part]]] = defaultdict(list)
    for path, part in module_leaves(explanation):
        groups[path].append((path, part))
    rows = [Row(label=module_name(path), parts=_by_category(leaves)) for path, leaves in groups.items()]
    return cut(rows, limit=limit, noun="module")


def sites(explanation: Explanation, *, limit: int) -> list[Row]:
    """The peak by source line, and the bytes that no line of the user's source allocated."""
    rows = [
        Row(label=place(site.site), parts=((None, site.nbytes),), note=counted(site.blocks, "block"))
        for site in explanation.sites
    ]
    rest = explanation.peak - sum(row.nbytes for row in rows)
    return cut(rows, limit=limit, noun="line") + _rest("(no line of your source)", rest)


def owners(explanation: Explanation, *, limit: int) -> tuple[list[Owner], list[Row]]:
    """The first groups of blocks, in the record's order, and rows for the bytes of all others."""
    shown, cut_off = list(explanation.owners[:limit]), explanation.owners[limit:]
    rest = explanation.peak - sum(owner.nbytes for owner in explanation.owners)
    more = _rest("all other groups", sum(owner.nbytes for owner in cut_off))
    return shown, more + _rest("(in no group)", rest)


def cut(rows: Sequence[Row], *, limit: int, noun: str) -> list[Row]:
    """The largest rows, and one more that sums the others."""
    ranked = sorted(rows, key=lambda row: -row.nbytes)
    if len(ranked) <= limit:
        return ranked
    tail = ranked[limit - 1 :]
    parts = _by_category(("", part) for row in tail for part in row.parts)
    return [*ranked[: limit - 1], Row(label=counted(len(tail), f"more {noun}"), parts=parts)]


def _rest(label: str, nbytes: int) -> list[Row]:
    return [Row(label=label, parts=((None, nbytes),))] if nbytes else []


def bands(curve: CurveSample) -> list[PhaseSpan]:
    """The phases of the clock, neighbours of one phase joined, without those too short to be seen."""
    joined: list[PhaseSpan] = []
    for span in curve.phases:
        if joined and joined[-1].phase is span.phase and joined[-1].stop == span.start:
            joined[-1] = PhaseSpan(phase=span.phase, start=joined[-1].start, stop=span.stop)
        else:
            joined.append(span)
    return [span for span in joined if span.stop - span.start >= _SEEN * curve.total_ticks]


def totals(curve: CurveSample) -> list[int]:
    """Bytes alive at each sampled tick, all categories together."""
    if not curve.categories:
        return [0] * len(curve.ticks)
    return [sum(column) for column in zip(*(line.nbytes for line in curve.categories), strict=True)]


def buckets(curve: CurveSample, columns: int) -> list[int]:
    """The highest sampled total in each of `columns` equal stretches of the clock; where a stretch holds no
    sample, the one before it still holds."""
    highest = [-1] * columns
    for tick, total in zip(curve.ticks, totals(curve), strict=True):
        column = min(tick * columns // max(curve.total_ticks, 1), columns - 1)
        highest[column] = max(highest[column], total)
    filled, level = [], 0
    for value in highest:
        level = value if value >= 0 else level
        filled.append(level)
    return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRow:
    """What a module keeps at the end of a generation, and what each further token adds."""

    label: str
    nbytes: int
    per_token: int


def growth(explanation: Explanation, *, limit: int) -> list[GrowthRow]:
    """The largest growers, one row for the others, and the total."""
    ranked = sorted(explanation.growth, key=lambda grown: -grown.nbytes)
    shown, tail = (ranked, []) if len(ranked) <= limit else (ranked[: limit - 1], ranked[limit - 1 :])
    table = [
        GrowthRow(label=module_name(grown.module), nbytes=grown.nbytes, per_token=grown.per_token)
        for grown in shown
    ]
    table += [_growth_sum(counted(len(tail), "more module"), tail)] if tail else []
    return [*table, _growth_sum("total", ranked)]


def _growth_sum(label: str, grown: Sequence[Growth]) -> GrowthRow:
    return GrowthRow(
        label=label,
        nbytes=sum(each.nbytes for each in grown),
        per_token=sum(each.per_token for each in grown),
    )


def timeline_receipt(timeline: Timeline) -> list[Row]:
    """A Timeline's peak by category."""
    if not timeline.ticks:
        return []
    tick = timeline.peak_tick
    curves = timeline.curves()
    return [
        Row(label=category.value, parts=((category, int(curves[category][tick])),))
        for category in CATEGORIES
        if category in curves and curves[category][tick]
    ]


def timeline_facts(timeline: Timeline) -> list[tuple[str, str]]:
    """What a Timeline holds and where its peak is, as name and value."""
    tick = timeline.peak_tick
    return [
        ("peak", f"{format_bytes(timeline.peak)} {basis(timeline.world)}"),
        ("reached", f"in {timeline.phase_at(tick).value}, at tick {tick:,} of {timeline.ticks:,}"),
        ("blocks", f"{len(timeline.blocks):,}"),
        ("saved tensors", f"{len(timeline.saves):,}"),
        ("ops", f"{len(timeline.ops):,}"),
        ("module calls", f"{len(timeline.calls):,}"),
    ]


def largest_batch(found: LargestBatch) -> list[tuple[str, str]]:
    """The largest batch within a budget and what shows it, as name and value; the notes come last."""
    rows = [
        ("budget", format_bytes(found.budget)),
        ("largest batch size", f"{found.batch_size:,}" if found.fits else "none: nothing fits"),
        ("its peak", _confirmed(found) if found.fits else ""),
        ("by the line", "" if found.predicted is None else _by_line(found.predicted, found.peak)),
        (f"at batch size {found.next_size:,}", _refuted(found)),
        ("growth", _growth_of(found)),
        ("traces", "batch sizes " + ", ".join(f"{run.batch_size:,}" for run in found.traces)),
        ("kernel scratch", scratch_note(found.facts)),
        ("no dry trace", plain(found.facts.dry_refused)),
        ("torch", plain(found.facts.torch)),
    ]
    notes = (*found.facts.notes, *found.notes)
    return [row for row in rows if row[1]] + [("note", plain(note)) for note in notes]


def _by_line(predicted: int, peak: int) -> str:
    if predicted == peak:
        return "the same, from two smaller traces"
    return f"{format_bytes(predicted)}, from two smaller traces: the traces decided"


def _confirmed(found: LargestBatch) -> str:
    spare = format_bytes(found.budget - found.peak)
    return f"{format_bytes(found.peak)} {basis(found.world)}, {spare} to spare"


def _refuted(found: LargestBatch) -> str:
    over = format_bytes(found.next_peak - found.budget)
    return f"{format_bytes(found.next_peak)} {basis(found.world)}, {over} over the budget"


def _growth_of(found: LargestBatch) -> str:
    fixed = f" beside {format_bytes(found.fixed)}" if found.fixed > 0 else ""
    return f"{format_bytes(found.per_item)} per item{fixed}, between the traces nearest to the budget"
