"""The receipt of a peak: every byte by category, module, source line and owner, from a Timeline alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ..records import (
    CATEGORIES,
    PHASE_CODE,
    PHASES,
    Category,
    Explanation,
    Instant,
    ModuleShare,
    Owner,
    PhaseCost,
    Share,
    SiteShare,
    Timeline,
)
from .findings import findings
from .growth import growth
from .reasons import reasons
from .sampling import curve_sample
from .standing import Standing, op_name, op_site, short_name, stand

_SITES = 20  # source lines shown
_OWNERS = 40  # groups of blocks shown; the others are summed in one more


def receipt(timeline: Timeline) -> Explanation:
    """Explain the peak of a Timeline.

    Args:
        timeline: one recorded step; nothing is traced or measured here.

    Returns:
        Where the bytes at the first tick of the peak are, who owns them and why they are alive. Modules and
        owners sum to the peak; so do the shares and `unexplained`, what no block accounts for.
    """
    standing = stand(timeline)
    peak = int(standing.curve.max(initial=0))
    shares = _shares(standing)
    explanation = Explanation(
        world=timeline.world,
        facts=timeline.facts,
        peak=peak,
        instant=_instant(standing),
        shares=shares,
        unexplained=peak - sum(share.nbytes for share in shares),
        modules=_modules(standing),
        sites=_sites(standing),
        owners=_owners(standing),
        phases=_phases(standing),
        curve=curve_sample(standing),
        growth=growth(timeline),
    )
    return replace(explanation, findings=findings(standing))


def _instant(standing: Standing) -> Instant:
    timeline, op = standing.timeline, standing.op
    return Instant(
        tick=standing.tick,
        phase=timeline.phase_at(standing.tick),
        op=op_name(timeline, op),
        module=timeline.module_of(int(timeline.ops.call[op])) if op >= 0 else "",
        node=timeline.text(int(timeline.ops.node[op])) if op >= 0 else "",
        site=op_site(timeline, op),
    )


def _shares(standing: Standing) -> tuple[Share, ...]:
    groups = ((category, standing.of(category)) for category in CATEGORIES)
    return tuple(
        Share(category=category, nbytes=standing.nbytes(blocks), blocks=len(blocks))
        for category, blocks in groups
        if len(blocks)
    )


def _modules(standing: Standing) -> tuple[ModuleShare, ...]:
    """Rows by module and category, largest first."""
    table = standing.timeline.blocks
    totals: dict[tuple[str, int], int] = defaultdict(int)
    for module, category, nbytes in zip(
        standing.modules,
        table.category[standing.blocks].tolist(),
        table.nbytes[standing.blocks].tolist(),
        strict=True,
    ):
        totals[module, category] += nbytes
    rows = [
        ModuleShare(module=module, category=CATEGORIES[category], nbytes=nbytes)
        for (module, category), nbytes in totals.items()
        if nbytes
    ]
    return tuple(sorted(rows, key=lambda row: -row.nbytes))


def _sites(standing: Standing) -> tuple[SiteShare, ...]:
    """The source lines that allocated most of what stands at the peak, largest first."""
    timeline = standing.timeline
    blocks = standing.blocks[timeline.blocks.site[standing.blocks] >= 0]
    totals: dict[tuple[str, int], list[int]] = defaultdict(list)  # one line may stand in the table twice
    sites = {(site.file, site.line): site for site in reversed(timeline.sites)}
    for index, nbytes in zip(
        timeline.blocks.site[blocks].tolist(), timeline.blocks.nbytes[blocks].tolist(), strict=True
    ):
        site = timeline.sites[index]
        totals[site.file, site.line].append(nbytes)
    rows = [SiteShare(site=sites[key], nbytes=sum(each), blocks=len(each)) for key, each in totals.items()]
    return tuple(sorted(rows, key=lambda row: -row.nbytes)[:_SITES])


def _owners(standing: Standing) -> tuple[Owner, ...]:
    """Groups of blocks with the same module, category, op, line and reason, largest first."""
    table = standing.timeline.blocks
    groups: dict[tuple[str, int, int, int, str], list[int]] = defaultdict(list)
    op_names = np.append(standing.timeline.ops.name, -1)  # op -1 reads the last entry: no name
    for *key, nbytes, why in zip(
        standing.modules,
        table.category[standing.blocks].tolist(),
        op_names[table.op[standing.blocks]].tolist(),
        table.site[standing.blocks].tolist(),
        table.nbytes[standing.blocks].tolist(),
        reasons(standing),
        strict=True,
    ):
        groups[*key, why].append(nbytes)
    owners = [_owner(standing.timeline, key, sizes) for key, sizes in groups.items()]
    return _folded(sorted(owners, key=lambda owner: -owner.nbytes))


def _owner(timeline: Timeline, key: tuple[str, int, int, int, str], sizes: list[int]) -> Owner:
    module, category, name, site, why = key
    return Owner(
        module=module,
        category=CATEGORIES[category],
        op=short_name(timeline.text(name)),
        site=timeline.site_of(site),
        nbytes=sum(sizes),
        blocks=len(sizes),
        why=why,
    )


def _folded(owners: list[Owner]) -> tuple[Owner, ...]:
    """The largest groups, and one that sums the others."""
    shown, rest = owners[:_OWNERS], owners[_OWNERS:]
    if len(rest) < 2:
        return tuple(owners)
    others = Owner(
        module="",
        category=Category.OTHER,
        op="several ops",
        site=None,
        nbytes=sum(owner.nbytes for owner in rest),
        blocks=sum(owner.blocks for owner in rest),
        why=f"{len(rest):,} smaller groups",
    )
    return (*shown, others)


def _phases(standing: Standing) -> tuple[PhaseCost, ...]:
    """Ops, flops and the highest memory of each phase that the clock went through."""
    ops, spans = standing.timeline.ops, standing.timeline.phases
    costs = []
    for phase in PHASES:
        levels = [
            int(standing.curve[span.start : span.stop].max(initial=0))
            for span in spans
            if span.phase is phase
        ]
        if levels:
            within = ops.phase == PHASE_CODE[phase]
            costs.append(
                PhaseCost(
                    phase=phase, ops=int(within.sum()), flops=int(ops.flops[within].sum()), peak=max(levels)
                )
            )
    return tuple(costs)
