"""The rows of a compression, once for all forms: candidates in words, limits beside what was reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from ..records import (
    Candidate,
    Certificate,
    Compressed,
    Counts,
    Cut,
    CutKind,
    Flags,
    LayerNeed,
    Limits,
    OnnxRuntimeFlags,
    Quartiles,
    Ranges,
    Recipe,
    Scheme,
    Settings,
)
from ..units import format_bytes, format_count
from .certificate_rows import headline as decision
from .certificate_rows import points
from .wording import counted, plain

NONE = "—"  # where nothing was measured
MARKS = {"chosen": ">", "pareto": "*"}
_HASH = 16  # hexadecimal digits shown

_SCHEMES = {
    Scheme.FLOAT32: "32 bits",
    Scheme.FLOAT16: "16 bits",
    Scheme.WEIGHT16: "16-bit weights",
    Scheme.WEIGHT8: "8-bit weights",
    Scheme.WEIGHT4: "4-bit weights",
    Scheme.DYNAMIC8: "dynamic int8",
    Scheme.STATIC8_TENSOR: "per-tensor int8",
    Scheme.STATIC8: "int8",
    Scheme.STATIC8_WIDE: "int8 with 16-bit activations",
}

Value: TypeAlias = int | str  # bytes, or anything else in words


def name_settings(settings: Settings | None) -> str:
    """How a candidate was made, in words; what goes without saying is not said.

    >>> from enxuto.records import Recipe, Repair
    >>> pruned = (Cut(kind=CutKind.PARAMETERS, kept_ratio=0.17),)
    >>> name_settings(Settings(cuts=pruned, repairs=(Repair.CORRECT,), recipe=Recipe()))
    '17 % of the parameters, int8, biases corrected'
    >>> spared = Recipe().with_override(("a", "b"), Scheme.FLOAT32)
    >>> name_settings(Settings(cuts=(), repairs=(), recipe=spared))
    'int8, 2 layers in 32 bits'
    >>> name_settings(None)
    'original'
    """
    if settings is None:
        return "original"
    kept = [name_cut(cut) for cut in _last_of_kinds(settings.cuts)]
    return ", ".join([*kept, *_recipe(settings.recipe), *(repair.value for repair in settings.repairs)])


def name_cut(cut: Cut) -> str:
    """What a cut left, in words.

    >>> name_cut(Cut(kind=CutKind.MACS, kept_ratio=0.4))
    '40 % of the MACs'
    >>> name_cut(Cut(kind=CutKind.LOW_RANK, kept_ratio=0.255))
    'low rank with 25.5 % of the parameters'
    """
    share = f"{100 * cut.kept_ratio:.3g} % of the"
    if cut.kind is CutKind.LOW_RANK:
        return f"low rank with {share} parameters"
    return f"{share} {cut.kind.value}"


def _last_of_kinds(cuts: Sequence[Cut]) -> list[Cut]:
    """Of consecutive cuts of one kind the last, which says what they left together."""
    return [list(same)[-1] for _, same in groupby(cuts, key=lambda cut: cut.kind)]


def _recipe(recipe: Recipe) -> Iterator[str]:
    schemes = {each.name: each.scheme for each in recipe.overrides}  # the last one that names a node holds
    others = Counter(scheme for scheme in schemes.values() if scheme is not recipe.default)
    yield _SCHEMES[recipe.default] + (" (weights in 7 bits)" if recipe.reduce_range else "")
    for scheme, layers in others.items():
        yield f"{counted(layers, 'layer')} in {_SCHEMES[scheme]}"
    if Scheme.WEIGHT4 in (recipe.default, *others) and recipe.block_size != 32:
        yield f"blocks of {recipe.block_size}"
    if recipe.needs_data and recipe.calibration.ranges is Ranges.ENTROPY:
        yield "ranges by entropy"
    if recipe.needs_data and recipe.calibration.ranges is Ranges.PERCENTILE:
        yield f"ranges of {recipe.calibration.percentile:g} % of the values"


def name_flags(flags: Flags) -> str:
    """The runtime's settings where they are not its own, and the threads.

    >>> name_flags(OnnxRuntimeFlags())
    'the defaults, 1 thread'
    >>> name_flags(OnnxRuntimeFlags(arena=False, prepacking=False, threads=2))
    'no prepacking, no arena, 2 threads'
    """
    named = list(_named_flags(flags)) if isinstance(flags, OnnxRuntimeFlags) else []
    return ", ".join([*(named or ["the defaults"]), counted(flags.threads, "thread")])


def _named_flags(flags: OnnxRuntimeFlags) -> Iterator[str]:
    if flags.level is not OnnxRuntimeFlags().level:
        yield f"graph optimization {flags.level.value}"
    if flags.ahead:
        yield "graph optimized ahead"
    if not flags.prepacking:
        yield "no prepacking"
    if not flags.arena:
        yield "no arena"
    if not flags.memory_pattern:
        yield "no memory pattern"
    if flags.external_data:
        yield "weights in a file of their own"


# -- numbers as text -------------------------------------------------------------------------------------


def is_share(compressed: Compressed) -> bool:
    """Whether the metric is a share of samples, whose drop is told in points."""
    certificate = compressed.certificate
    return compressed.metric == "top1" or (
        certificate is not None and isinstance(certificate.evidence, Counts)
    )


def metric_word(compressed: Compressed) -> str:
    """The metric's name, short."""
    return "top-1" if compressed.metric == "top1" else plain(compressed.metric)


def metric_head(compressed: Compressed) -> str:
    """The metric's name for the head of a column."""
    name = metric_word(compressed)
    return name if len(name) <= 12 else f"{name[:11]}…"


def metric_text(compressed: Compressed, metric: float) -> str:
    """A metric: in percent where it is a share."""
    return f"{100 * metric:.2f} %" if is_share(compressed) else f"{metric:.4g}"


def drop_text(compressed: Compressed, drop: float) -> str:
    """A drop with its unit."""
    return points(drop) if is_share(compressed) else f"{drop:.4g}"


def _bare_drop(compressed: Compressed, drop: float) -> str:
    return f"{100 * drop:.2f}" if is_share(compressed) else f"{drop:.4g}"


def drop_note(compressed: Compressed) -> str:
    """What the columns of the drop and of the latency hold."""
    unit = "points" if is_share(compressed) else "the metric's units"
    return f"drop in {unit}, on the samples that choose; at most: its one-sided 95 % bound"


def times_text(quartiles: Quartiles | None, *, spread: bool = False) -> str:
    """A latency as a multiple of the original's, with its quartiles if asked for.

    >>> times_text(Quartiles(lower=0.598, median=0.61, upper=0.634, runs=50), spread=True)
    '×0.61 (0.60–0.63)'
    """
    if quartiles is None:
        return NONE
    text = f"×{quartiles.median:.2f}"
    return f"{text} ({quartiles.lower:.2f}–{quartiles.upper:.2f})" if spread else text


def bytes_text(nbytes: int) -> str:
    """Bytes, or that they were not measured."""
    return format_bytes(nbytes) if nbytes else NONE


def smaller(before: int, after: int) -> str:
    """How many times smaller something became.

    >>> smaller(100, 8), smaller(100, 125), smaller(100, 100), smaller(100, 0)
    ('12.5× smaller', '1.2× larger', 'the same', '')
    """
    if min(before, after) <= 0:  # not measured, or less than the runtime takes for itself
        return ""
    if before == after:
        return "the same"
    return f"{before / after:.1f}× smaller" if after < before else f"{after / before:.1f}× larger"


# -- candidates ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate with its name, its place among the others, and its numbers that are no bytes as text."""

    index: int
    candidate: Candidate
    name: str
    chosen: bool
    pareto: bool
    latency: str
    spread: str
    metric: str
    drop: str
    upper: str
    agreement: str
    coverage: str
    refused: str

    @property
    def marks(self) -> str:
        """Its marks for a column of one or two letters."""
        return (MARKS["chosen"] if self.chosen else "") + (MARKS["pareto"] if self.pareto else "")


def candidates(compressed: Compressed, *, limit: int | None = None) -> list[CandidateRow]:
    """Candidates in the order in which they were made; with a limit, those that matter most."""
    kept = range(len(compressed.candidates)) if limit is None else _most_telling(compressed, limit)
    return [_row(compressed, index) for index in kept]


def _most_telling(compressed: Compressed, limit: int) -> list[int]:
    """The original, the chosen one, the Pareto set, then those nearest to the limits; in their order."""
    nearest = sorted(range(len(compressed.candidates)), key=lambda index: _distance(compressed, index))
    pareto = set(compressed.pareto)
    wanted = [0, compressed.chosen, *(index for index in nearest if index in pareto), *nearest]
    return sorted([index for index in dict.fromkeys(wanted) if index >= 0][:limit])


def _row(compressed: Compressed, index: int) -> CandidateRow:
    each = compressed.candidates[index]
    is_made = each.settings is not None
    timed = any(other.latency for other in compressed.candidates)
    by_definition = "×1.00" if timed and not is_made else NONE  # a multiple of itself
    return CandidateRow(
        index=index,
        candidate=each,
        name=name_settings(each.settings),
        chosen=index == compressed.chosen,
        pareto=index in compressed.pareto,
        latency=times_text(each.latency) if each.latency else by_definition,
        spread=times_text(each.latency, spread=True) if each.latency else by_definition,
        metric=metric_text(compressed, each.metric),
        drop=_bare_drop(compressed, each.drop) if is_made else "",
        upper=_bare_drop(compressed, each.upper_drop) if is_made else "",
        agreement="" if each.agreement is None or not is_made else f"{100 * each.agreement:.1f} %",
        coverage=f"{100 * each.covered_ratio:.0f} %" if is_made else "",
        refused=plain(each.refused),
    )


def left_out(shown: int, compressed: Compressed) -> str:
    """How many candidates a table leaves out, or nothing."""
    more = len(compressed.candidates) - shown
    return f"{counted(more, 'more candidate')} in the JSON." if more > 0 else ""


# -- limits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limited:
    """One thing that may be limited: what a candidate takes of it, and what it may; 0 is no limit."""

    name: str
    has: float
    allowed: float
    limits: bool

    @property
    def overrun(self) -> float:
        """The multiple of what is allowed, where that is exceeded; else 0."""
        if not self.limits or self.has <= self.allowed:
            return 0.0
        return self.has / self.allowed if self.allowed > 0 else float("inf")


def _limited(candidate: Candidate, limits: Limits) -> list[_Limited]:
    taken: list[tuple[str, float, float]] = [
        ("file", candidate.file_bytes, limits.file),
        ("gzip", candidate.gzip_bytes, limits.gzip),
        ("peak RAM", candidate.ram_bytes, limits.ram),
        ("latency", candidate.latency.median if candidate.latency else 0.0, limits.latency_ratio),
    ]
    sizes = [_Limited(name=name, has=has, allowed=may, limits=bool(may)) for name, has, may in taken]
    return [*sizes, _Limited(name="drop", has=candidate.upper_drop, allowed=limits.max_drop, limits=True)]


def broken(candidate: Candidate, limits: Limits) -> list[str]:
    """The limits that a candidate's own numbers exceed, by name; the drop by its bound."""
    return [each.name for each in _limited(candidate, limits) if each.overrun]


def _distance(compressed: Compressed, index: int) -> tuple[float, int]:
    candidate = compressed.candidates[index]
    return max(each.overrun for each in _limited(candidate, compressed.limits)), candidate.file_bytes


def nearest(compressed: Compressed) -> int:
    """The candidate that exceeds its worst limit least, and is smallest; the original where it is alone."""
    made = range(1, len(compressed.candidates)) or range(1)
    return min(made, key=lambda index: _distance(compressed, index))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """What the original takes, what the artefact takes, what was asked for, and whether that is kept."""

    name: str
    before: Value
    after: Value
    ratio: str
    asked: Value
    kept: bool | None


def limits(compressed: Compressed) -> list[LimitRow]:
    """The chosen candidate, or the one nearest to the limits, beside the original and what was asked for."""
    index = compressed.chosen if compressed.chosen >= 0 else nearest(compressed)
    was, now = compressed.original, compressed.candidates[index]
    asked = {each.name: each for each in _limited(now, compressed.limits)}
    rows = [
        _bytes_row(asked["file"], was.file_bytes, now.file_bytes),
        _bytes_row(asked["gzip"], was.gzip_bytes, now.gzip_bytes),
        _bytes_row(asked["peak RAM"], was.ram_bytes, now.ram_bytes),
        LimitRow(
            name="parameters",
            before=f"{was.parameters:,}",
            after=f"{now.parameters:,}",
            ratio=smaller(was.parameters, now.parameters),
            asked="",
            kept=None,
        ),
        _latency_row(asked["latency"], now.latency),
        LimitRow(
            name=f"{metric_word(compressed)}, choosing",
            before=metric_text(compressed, was.metric),
            after=metric_text(compressed, now.metric),
            ratio="",
            asked="",
            kept=None,
        ),
        _drop_row(compressed, now, certified=index == compressed.chosen),
    ]
    return [row for row in rows if row.asked or NONE not in (row.before, row.after)]


def _bytes_row(limit: _Limited, before: int, after: int) -> LimitRow:
    return LimitRow(
        name=limit.name,
        before=before or NONE,
        after=after or NONE,
        ratio=smaller(before, after),
        asked=int(limit.allowed) or "",
        kept=not limit.overrun if limit.limits and after else None,
    )


def _latency_row(limit: _Limited, latency: Quartiles | None) -> LimitRow:
    return LimitRow(
        name="latency",
        before="×1.00",
        after=times_text(latency),
        ratio="",
        asked=f"×{limit.allowed:.2f}" if limit.limits else "",
        kept=not limit.overrun if limit.limits and latency else None,
    )


def _drop_row(compressed: Compressed, now: Candidate, *, certified: bool) -> LimitRow:
    """The bound of the drop: by the certificate where there is one, else as the choosing samples bound it."""
    certificate = compressed.certificate if certified else None
    upper = certificate.judgement.upper if certificate else now.upper_drop
    accepted = certificate is not None and certificate.accepted
    exceeded = upper > compressed.limits.max_drop
    return LimitRow(
        name="drop, at most",
        before="",
        after=drop_text(compressed, upper),
        ratio="certified" if accepted else "not certified",
        asked=drop_text(compressed, compressed.limits.max_drop),
        kept=False if exceeded else True if accepted else None,
    )


def kept_word(kept: bool | None) -> str:
    """Whether a limit is kept, in a word."""
    return "" if kept is None else "kept" if kept else "exceeded"


def why_nothing(compressed: Compressed) -> list[str]:
    """Where nothing was chosen: the candidate that comes nearest, and what speaks against it."""
    if compressed.chosen >= 0:
        return []
    index = nearest(compressed)
    best = compressed.candidates[index]
    if best.settings is None:
        return ["no candidate was made"]
    lines = [f"nearest: {name_settings(best.settings)}"]
    lines += [
        f"its {each.name} {'may be' if each.name == 'drop' else 'is'} "
        f"{_amount(compressed, each.name, each.has)}, "
        f"{_amount(compressed, each.name, each.allowed)} allowed"
        for each in _limited(best, compressed.limits)
        if each.overrun
    ]
    lines += [f"refused: {plain(best.refused)}"] if best.refused else []
    if certificate := compressed.certificate:
        lines.append(
            f"the certificate of {_certified_name(compressed, certificate)}: {decision(certificate)}"
        )
    return lines


def _certified_name(compressed: Compressed, certificate: Certificate) -> str:
    """The candidate that a certificate is of, known by the hash of its file."""
    sha256 = certificate.candidate.sha256
    of = [each for each in compressed.candidates if sha256 and each.sha256 == sha256]
    return name_settings(of[0].settings) if of else "one of them"


def needed(compressed: Compressed) -> list[str]:
    """Where nothing was chosen: what would do. Limits that one candidate alone exceeds come first."""
    if compressed.chosen >= 0 or len(compressed.candidates) < 2:
        return []
    best = nearest(compressed)
    names = broken(compressed.candidates[best], compressed.limits)
    single = [_wish(compressed, index, name) for index, name in _single_wishes(compressed)]
    wishes = (single or [_wish(compressed, best, names)]) if names else _certifying(compressed)
    return [wishes[0], *(f"or {wish}" for wish in wishes[1:])] if wishes else []


def _certifying(compressed: Compressed) -> list[str]:
    """What a certificate that did not accept would have needed."""
    certificate = compressed.certificate
    if certificate is None or certificate.accepted:
        return []
    found = certificate.judgement
    more = f"{found.needed_n:,} samples that certify" if found.needed_n else ""
    wider = f"a drop of {drop_text(compressed, found.upper)}"
    return [*([more] if more else []), wider]


def _single_wishes(compressed: Compressed) -> Iterator[tuple[int, list[str]]]:
    """For each limit, the candidate that comes nearest to it among those that exceed no other."""
    by_limit: dict[str, list[int]] = {}
    for index, candidate in enumerate(compressed.candidates[1:], start=1):
        names = broken(candidate, compressed.limits)
        if len(names) == 1:
            by_limit.setdefault(names[0], []).append(index)
    for name, able in by_limit.items():
        yield min(able, key=lambda index: _distance(compressed, index)), [name]


def _wish(compressed: Compressed, index: int, names: Sequence[str]) -> str:
    candidate = compressed.candidates[index]
    found = {each.name: each for each in _limited(candidate, compressed.limits)}
    amounts = " and ".join(f"a {name} of {_exact(compressed, found[name])}" for name in names)
    blind = [each.name for each in found.values() if each.limits and not each.has and each.name != "drop"]
    unknown = f" ({', '.join(blind)} not measured)" if blind else ""
    return f"{amounts}, with {name_settings(candidate.settings)}{unknown}"


def _amount(compressed: Compressed, name: str, value: float) -> str:
    """What a limit is about, in its unit."""
    if name == "drop":
        return drop_text(compressed, value)
    return f"×{value:.2f}" if name == "latency" else format_bytes(int(value))


def _exact(compressed: Compressed, limited: _Limited) -> str:
    text = _amount(compressed, limited.name, limited.has)
    return text if limited.name in ("drop", "latency") else f"{text} ({int(limited.has):,} bytes)"


# -- the whole -------------------------------------------------------------------------------------------


def headline(compressed: Compressed) -> str:
    """What became of the network, in one line."""
    chosen = compressed.artefact
    if chosen is None:
        return "nothing keeps the limits"
    was = compressed.original
    sizes = f"{format_bytes(was.file_bytes)} → {format_bytes(chosen.file_bytes)}"
    return f"{sizes}, {smaller(was.file_bytes, chosen.file_bytes)}: {name_settings(chosen.settings)}"


def certified(compressed: Compressed) -> str:
    """The certificate in a phrase, or that there is none."""
    if compressed.certificate is None:
        return "not certified"
    return decision(compressed.certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileParts:
    """Where the bytes of a file are; the two add up to it."""

    name: str
    weights: int
    rest: int


def file_parts(compressed: Compressed) -> list[FileParts]:
    """The original's and the chosen file's weights, and the rest: graph, scales, names."""
    files = [("original", compressed.original)]
    files += [("chosen", compressed.artefact)] if compressed.artefact else []
    return [
        FileParts(name=name, weights=each.weight_bytes, rest=each.file_bytes - each.weight_bytes)
        for name, each in files
    ]


def layers(compressed: Compressed, *, limit: int) -> list[LayerNeed]:
    """The most sensitive layers."""
    return list(compressed.layers[:limit])


def layer_text(layer: LayerNeed) -> tuple[str, str, str]:
    """A layer's name, its KL and the number of its weights.

    >>> layer_text(LayerNeed(layer="", weights=1_180_000, kl=0.0312))
    ('(outside modules)', '0.0312 nats', '1.18 M')
    """
    return plain(layer.layer) or "(outside modules)", f"{layer.kl:.3g} nats", format_count(layer.weights)


def more_layers(shown: int, compressed: Compressed) -> str:
    """How many layers a table leaves out, or nothing."""
    more = len(compressed.layers) - shown
    return f"{counted(more, 'more layer')}, less sensitive, in the JSON." if more > 0 else ""


def conditions(compressed: Compressed) -> list[tuple[str, str]]:
    """What was run and on what, as name and value; the notes come last."""
    chosen = compressed.artefact
    calibrated, chose, certified = compressed.samples
    missing = unmeasured_columns(compressed)
    rows = [
        ("workload", plain(compressed.workload)),
        ("runtime", plain(compressed.runtime)),
        ("its settings", name_flags(chosen.flags) if chosen else ""),
        ("peak RAM", "" if "peak RAM" in missing else "above what the runtime takes for itself"),
        ("latency", "" if "latency" in missing else "median of paired runs, as a multiple of the original's"),
        ("samples", f"{calibrated:,} calibrated, {chose:,} chose, {certified:,} were kept to certify"),
        ("not measured", ", ".join(missing)),
        ("artefact", f"SHA-256 {plain(chosen.sha256)[:_HASH]}…" if chosen and chosen.sha256 else ""),
        ("search", f"{counted(len(compressed.candidates), 'candidate')} in {compressed.seconds:.3g} s"),
    ]
    return [row for row in rows if row[1]] + [("note", plain(note)) for note in compressed.notes]


def unmeasured_columns(compressed: Compressed) -> list[str]:
    """What was measured of no candidate."""
    missing = [] if any(each.ram_bytes for each in compressed.candidates) else ["peak RAM"]
    return missing + ([] if any(each.latency for each in compressed.candidates) else ["latency"])
