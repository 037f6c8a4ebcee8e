"""The difference of two Explanations, by category and by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ..records import CATEGORIES, Change, Difference, Explanation

_MODULES = 30  # rows shown; the other changed modules are summed in one more


def difference(before: Explanation, after: Explanation) -> Difference:
    """Compare the peaks of two Explanations.

    Args:
        before: what to compare with.
        after: what changed.

    Returns:
        The peaks; every category that either has; the modules that changed, largest change first. The changes
        of the categories, and those of the modules, sum to the peak's.
    """
    first, second = _names(before, after)
    return Difference(
        before=first,
        after=second,
        peak=Change(label="peak", before=before.peak, after=after.peak),
        categories=_categories(before, after),
        modules=_cut(_modules(before, after)),
    )


def _names(before: Explanation, after: Explanation) -> tuple[str, str]:
    """The two workloads, told apart by their batch sizes if need be."""
    first, second = before.facts, after.facts
    if first.workload != second.workload:
        return first.workload, second.workload
    if first.batch_size and second.batch_size and first.batch_size != second.batch_size:
        return (
            f"{first.workload}, batch size {first.batch_size}",
            f"{second.workload}, batch size {second.batch_size}",
        )
    return f"{first.workload} (before)", f"{second.workload} (after)"


def _categories(before: Explanation, after: Explanation) -> tuple[Change, ...]:
    present = {share.category for explanation in (before, after) for share in explanation.shares}
    rows = [
        Change(label=category.value, before=before.share(category), after=after.share(category))
        for category in CATEGORIES
        if category in present
    ]
    return (*rows, *_unexplained(before.unexplained, after.unexplained))


def _modules(before: Explanation, after: Explanation) -> list[Change]:
    """The modules that changed, largest change first."""
    first, second = _by_module(before), _by_module(after)
    rows = [
        Change(label=module, before=first.get(module, 0), after=second.get(module, 0))
        for module in {**first, **second}
    ]
    rows += _unexplained(before.peak - sum(first.values()), after.peak - sum(second.values()))
    return sorted(
        (row for row in rows if row.before != row.after), key=lambda row: -abs(row.after - row.before)
    )


def _by_module(explanation: Explanation) -> Mapping[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for share in explanation.modules:
        totals[share.module] += share.nbytes
    return totals


def _unexplained(before: int, after: int) -> list[Change]:
    return [Change(label="unexplained", before=before, after=after)] if before or after else []


def _cut(rows: list[Change]) -> tuple[Change, ...]:
    """The first rows, and one that sums the others."""
    shown, rest = rows[:_MODULES], rows[_MODULES:]
    return (*shown, _summed(rest)) if rest else tuple(shown)


def _summed(rows: Iterable[Change]) -> Change:
    rows = list(rows)
    return Change(
        label="other modules", before=sum(row.before for row in rows), after=sum(row.after for row in rows)
    )
