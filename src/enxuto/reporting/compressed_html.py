"""A compression as one HTML page that works offline: what was reached, and what it was chosen from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..records import Compressed
from ..units import format_bytes, format_count
from . import certificate_rows, compressed_figures
from . import compressed_rows as rows
from .compressed_figures import GROUPS
from .compressed_rows import CandidateRow, LimitRow, Value
from .markup import column_heads, document, number, picture, section, table_row, text
from .wording import counted, percent

_CANDIDATES, _LAYERS = 12, 12


def compressed_page(compressed: Compressed) -> str:
    """The page of a compression; every number in it comes from the record."""
    pictures = {"choice-picture": compressed_figures.choice(compressed)}
    if drawn := compressed_figures.layers(compressed, limit=_LAYERS):
        pictures["layers-picture"] = drawn
    return document(
        compressed,
        title=compressed.workload,
        header=_header(compressed),
        body="".join(_sections(compressed)),
        pictures=pictures,
    )


def _header(compressed: Compressed) -> str:
    chosen, was = compressed.artefact, compressed.original
    if chosen is None:
        heroes = '<p class="peak second">Nothing keeps the limits</p>'
        reached = f"The original's file is {number(was.file_bytes)}."
    else:
        heroes = _hero(chosen.file_bytes, f"file, {rows.smaller(was.file_bytes, chosen.file_bytes)}")
        if chosen.ram_bytes:
            heroes += _hero(chosen.ram_bytes, "peak RAM above the runtime", also="second")
        reached = (
            f"From {number(was.file_bytes)}: {text(rows.name_settings(chosen.settings))}. "
            f"Certificate: {text(rows.certified(compressed))}."
        )
    return (
        f'<p class="eyebrow">A network compressed for deployment</p><h1>{text(compressed.workload)}</h1>'
        f'<p class="conditions">in {text(compressed.runtime)}</p>'
        f'<div class="hero">{heroes}</div><p class="reached">{reached}</p>'
    )


def _hero(nbytes: int, label: str, *, also: str = "") -> str:
    """A large number and what it is; the two stay together where the line wraps."""
    return (
        f'<div class="pair"><p class="peak {also}">{number(nbytes)}</p>'
        f'<p class="basis"><span class="tag">{text(label)}</span></p></div>'
    )


def _sections(compressed: Compressed) -> Iterable[str]:
    if compressed.chosen < 0:
        yield section("why", "Why nothing was chosen", "", _why(compressed))
    yield section("limits", "What was asked for", "measured", _limits(compressed))
    word = compressed.certificate.decision.value if compressed.certificate else "not certified"
    yield section("certificate", "Certificate", word, _certificate(compressed))
    yield section("choice", "What it was chosen from", "measured", _choice(compressed))
    yield section("bytes", "Where the bytes of the file are", "measured", _bytes(compressed))
    if compressed.layers:
        yield section("layers", "What each layer needs", "measured", _layers(compressed))
    yield section("facts", "How these numbers were made", "", _pairs(rows.conditions(compressed)))


def _pairs(named: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in named)}</dl>"


def _why(compressed: Compressed) -> str:
    needs = rows.needed(compressed)
    wishes = f'<p class="lead apart">What would have to be allowed:</p>{_list(needs)}' if needs else ""
    return f"{_list(rows.why_nothing(compressed))}{wishes}"


def _list(texts: Sequence[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{text(each)}</li>" for each in texts)}</ul>'


def _limits(compressed: Compressed) -> str:
    whose = "chosen" if compressed.chosen >= 0 else "nearest"
    body = "".join(_limit(row) for row in rows.limits(compressed))
    head = column_heads("", "original:n wide", whose, ":wide", "asked for", ":t")
    return f'<table class="limits">{head}<tbody>{body}</tbody></table>'


def _limit(row: LimitRow) -> str:
    outcome = {True: "passed", False: "failed", None: "not_checked"}[row.kept]
    mark = {True: "✓ ", False: "✕ ", None: ""}[row.kept]
    return table_row(
        f"<th scope=row>{text(row.name)}</th>",
        f'<td class="n wide">{_value(row.before)}</td>',
        f'<td class="n strong">{_value(row.after)}</td>',
        f'<td class="wide ratio">{text(row.ratio)}</td>',
        f'<td class="n">{_value(row.asked)}</td>',
        f'<td class="outcome {outcome}">{mark}{rows.kept_word(row.kept)}</td>',
    )


def _value(value: Value) -> str:
    return number(value) if isinstance(value, int) else text(value)


def _certificate(compressed: Compressed) -> str:
    certificate = compressed.certificate
    if certificate is None:
        return '<p class="lead">None was made: the drop is bounded on the samples that chose.</p>'
    whose = "" if compressed.chosen >= 0 else '<p class="lead">Of a candidate that was not chosen.</p>'
    return whose + _pairs([*certificate_rows.summary(certificate), *certificate_rows.conditions(certificate)])


def _choice(compressed: Compressed) -> str:
    every = rows.candidates(compressed)
    short = rows.candidates(compressed, limit=_CANDIDATES)
    rest = (
        f"<details><summary>All {len(every):,} candidates</summary>{_table(compressed, every)}</details>"
        if len(every) > len(short)
        else ""
    )
    return (
        '<p class="lead">Each mark is a candidate; its line reaches to the upper bound of the drop. '
        f"Point at one to see how it was made.</p>{_legend(compressed)}"
        f"{picture('choice-picture', _sentence(compressed))}"
        f"{_table(compressed, short)}"
        f'<p class="under">{text(rows.drop_note(compressed))}.</p>{rest}'
        f"<details><summary>The picture as a sentence</summary><p>{text(_sentence(compressed))}</p></details>"
    )


def _sentence(compressed: Compressed) -> str:
    front = ", ".join(
        f"{format_bytes(each.file_bytes)} at {rows.drop_text(compressed, each.drop)}"
        for each in (compressed.candidates[index] for index in compressed.pareto)
    )
    chosen, limits = compressed.artefact, compressed.limits
    said = f"chosen: {format_bytes(chosen.file_bytes)}" if chosen else "nothing was chosen"
    file = f"a file of {format_bytes(limits.file)} and " if limits.file else ""
    far = compressed_figures.far(compressed)
    beyond = f" {counted(far, 'candidate')} beyond the upper edge." if far else ""
    return (
        f"File size against drop of {counted(len(compressed.candidates), 'candidate')}; {said}. "
        f"Allowed: {file}a drop of {rows.drop_text(compressed, limits.max_drop)}. "
        f"Pareto front: {front}.{beyond}"
    )


def _legend(compressed: Compressed) -> str:
    items = "".join(f"<li>{_sign(name)}{text(name)}</li>" for name in GROUPS)
    if compressed_figures.far(compressed):
        items += f"<li>{_mark('▲', 'lossy')}loses more than is drawn</li>"
    return f'<ul class="legend">{items}</ul>'


def _sign(name: str) -> str:
    _, sign, colour = GROUPS[name]
    return _mark(sign, colour)


def _mark(sign: str, colour: str) -> str:
    return f'<span class="sign" aria-hidden="true" style="color:var(--{colour})">{sign}</span>'


def _table(compressed: Compressed, shown: Sequence[CandidateRow]) -> str:
    """The size table; what decides stands at the left, as a phone shows that much without scrolling."""
    unmeasured = rows.unmeasured_columns(compressed)
    heads = {
        "candidate": "candidate",
        "file": "file",
        "metric": rows.metric_head(compressed),
        "drop": "drop",
        "upper": "at most",
        "gzip": "gzip",
        "peak RAM": "peak RAM",
        "latency": "latency",
        "parameters": "parameters:n wide",
        "agreement": "agreement:n wide",
        "covered": "covered:n wide",
    }
    kept = [name for name in heads if name not in unmeasured]
    body = "".join(table_row(*(cells[name] for name in kept)) for cells in map(_cells, shown))
    head = column_heads(*(heads[name] for name in kept))
    return f'<div class="scroll"><table class="candidates">{head}<tbody>{body}</tbody></table></div>'


def _cells(row: CandidateRow) -> dict[str, str]:
    each = row.candidate
    chosen = ' <strong class="chosen">chosen</strong>' if row.chosen else ""
    refused = f'<p class="made">{text(row.refused)}</p>' if row.refused else ""
    sign = _sign(compressed_figures.group(row))
    return {
        "candidate": f"<th scope=row>{sign}{text(row.name)}{chosen}{refused}</th>",
        "file": f'<td class="n strong">{number(each.file_bytes)}</td>',
        "metric": f'<td class="n">{text(row.metric)}</td>',
        "drop": f'<td class="n">{text(row.drop)}</td>',
        "upper": f'<td class="n strong">{text(row.upper)}</td>',
        "gzip": f'<td class="n">{number(each.gzip_bytes)}</td>',
        "peak RAM": f'<td class="n">{number(each.ram_bytes) if each.ram_bytes else rows.NONE}</td>',
        "latency": f'<td class="n" title="{text(row.spread)}">{text(row.latency)}</td>',
        "parameters": f'<td class="n wide" title="{each.parameters:,}">{format_count(each.parameters)}</td>',
        "agreement": f'<td class="n wide">{text(row.agreement)}</td>',
        "covered": f'<td class="n wide">{text(row.coverage)}</td>',
    }


def _bytes(compressed: Compressed) -> str:
    parts = rows.file_parts(compressed)
    body = "".join(
        table_row(
            f"<th scope=row>{text(part.name)}</th>",
            f'<td class="bar wide">{_bar(part.weights, part.rest)}</td>',
            f'<td class="n strong">{number(part.weights)}</td>',
            f'<td class="n">{number(part.rest)}</td>',
            f'<td class="n">{text(percent(part.rest, part.weights + part.rest))}</td>',
        )
        for part in parts
    )
    head = column_heads("file", ":wide", "weights", "rest", "share of it")
    legend = (
        '<ul class="legend"><li><i class="swatch" style="background:var(--parameter)"></i>weights</li>'
        '<li><i class="swatch" style="background:var(--unexplained)"></i>rest: graph, scales, names</li></ul>'
    )
    return f"{legend}<table>{head}<tbody>{body}</tbody></table>"


def _bar(weights: int, rest: int) -> str:
    """Each file at full length: what is compared is its make-up. Decoration beside numbers."""
    whole = weights + rest or 1
    pieces = "".join(
        f'<i style="width:{100 * max(nbytes, 0) / whole:.3f}%;background:var(--{colour})"></i>'
        for nbytes, colour in ((weights, "parameter"), (rest, "unexplained"))
    )
    return f'<span class="bars" aria-hidden="true">{pieces}</span>'


def _layers(compressed: Compressed) -> str:
    shown = rows.layers(compressed, limit=_LAYERS)
    most = ", ".join(f"{name} {nats}" for name, nats, _ in map(rows.layer_text, shown[:3]))
    sentence = (
        f"How far the outputs move, as KL, where one layer alone is quantized, beside its weights: {most}."
    )
    body = "".join(
        table_row(
            f"<th scope=row>{text(name)}</th>",
            f'<td class="n">{text(nats)}</td>',
            f'<td class="n" title="{layer.weights:,}">{text(count)}</td>',
        )
        for layer, (name, nats, count) in ((layer, rows.layer_text(layer)) for layer in compressed.layers)
    )
    height = compressed_figures.layers_height(compressed, limit=_LAYERS)
    return (
        '<p class="lead">A long bar at the left beside a short one: a layer that is cheap to spare.</p>'
        f"{picture('layers-picture', sentence, height=height)}"
        f"<details><summary>All {counted(len(compressed.layers), 'layer')} as a table</summary>"
        f"<table>{column_heads('layer', 'KL', 'weights')}<tbody>{body}</tbody></table></details>"
    )
