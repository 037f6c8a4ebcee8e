"""A watched run as one HTML page: what was found, its curve, the peak by category, and what died."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..records import Cause, Failure, RecordedStep, Recording, Steps
from ..units import format_bytes
from . import recording_figures, recording_rows, wording
from .markup import (
    bytes_cell,
    column_heads,
    document,
    number,
    percent_cell,
    picture,
    section,
    table_row,
    text,
)
from .palette import slug

_MOMENTS = 24
_POINTS = 1500


def recording_page(recording: Recording) -> str:
    """One self-contained page of a run; however long it was, its curve has at most 1,500 points."""
    curve = recording_rows.drawn(recording, points=_POINTS)
    figure = recording_figures.run(recording, curve)
    return document(
        thin(recording, curve),
        title=recording.source.name,
        header=_header(recording),
        body="".join(_sections(recording, curve)),
        pictures={"levels": figure} if figure else {},
    )


def thin(recording: Recording, curve: recording_rows.Drawn) -> Recording:
    """The record as the page embeds it: the rows that are drawn, without receipts of single steps."""
    drawn = set(curve.step)
    steps = Steps.of([row for row in recording.steps if row.step in drawn])
    return replace(recording, explanations=(), recorded=(), steps=steps)


def _header(recording: Recording) -> str:
    source = recording.source
    known = recording.peak >= 0
    hero = number(recording.peak) if known else number(max(recording.host_peak, 0))
    word = "of tensors" if known else "of the process, by the kernel"
    pairs = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in recording_rows.summary(recording)
    )
    return (
        f'<p class="eyebrow">A run, watched</p><h1>{text(source.name)}</h1>'
        f'<p class="conditions">{text(recording_rows.title(recording))}</p>'
        f'<div class="hero"><p class="peak">{hero}</p><p class="basis"><span class="tag">{word}</span></p></div>'
        f'<dl class="summary">{pairs}</dl>'
    )


def _sections(recording: Recording, curve: recording_rows.Drawn) -> Iterable[str]:
    if recording.failures:
        yield section("failure", "Out of memory", "measured", _failures(recording.failures))
    title = "Findings" if recording.causes else "No finding"
    yield section("findings", title, "measured", _causes(recording.causes))
    if len(curve.step) > 1:
        yield section("run", "Over the run", "measured", _curve(recording, curve))
    step = recording_rows.highest(recording)
    if step is not None:
        yield section("receipt", f"At the peak of step {step.step:,}", "recorded", _receipt(step))
        yield section("phases", "By phase", "recorded", _phases(step))
    if recording.retained:
        yield section("kept", "What outlives its step", "measured", _retained(recording))
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>"
        for name, value in recording_rows.conditions(recording.source)
    )
    yield section("facts", "How these numbers were made", "", f"<dl>{rows}</dl>")


def _causes(causes: Sequence[Cause]) -> str:
    if not causes:
        return '<p class="lead">Nothing that grows, and no situation that is known.</p>'
    return f'<ul class="findings">{"".join(map(_cause, causes))}</ul>'


def _cause(cause: Cause) -> str:
    notes = "".join(
        f'<p class="made">{text(name)}: {text(value)}</p>'
        for name, value in recording_rows.cause_notes(cause)
    )
    said = f'<p><strong class="id">{text(cause.id)}</strong> {text(cause.evidence)}</p>'
    return f"<li><div>{said}{notes}</div></li>"


def _failures(failures: Sequence[Failure]) -> str:
    lists = []
    for failure in failures[-3:]:
        rows = "".join(
            f"<dt>{text(name)}</dt><dd>{text(value)}</dd>"
            for name, value in recording_rows.failure_rows(failure)
        )
        went_on = '<p class="under">The script handled it and went on.</p>' if failure.handled else ""
        lists.append(f"<dl>{rows}</dl>{went_on}")
    return "".join(lists)


def _curve(recording: Recording, curve: recording_rows.Drawn) -> str:
    sentence = (
        f"{wording.counted(recording.total_steps, 'step')}: "
        f"{recording_rows.peak(recording)}; the process had at most {format_bytes(max(recording.host_peak, 0))}."
    )
    body = "".join(
        table_row(
            f'<td class="n">{curve.step[i]:,}</td>',
            *(_cell(values[i]) for values in (curve.peak, curve.host)),
        )
        for i in _spread(len(curve.step))
    )
    head = column_heads("step:n", "tensors, at most", "process, beyond its start")
    return (
        f'<ul class="legend">{_key("gradient", "tensors, highest in the step")}'
        f"{_key('unexplained', 'process, beyond what it had at the start (kernel)')}"
        + (_key("saved-activation", "its workers") if any(curve.workers) else "")
        + f"</ul>{picture('levels', sentence)}"
        f"<details><summary>The same, as a sentence and a table</summary><p>{text(sentence)}</p>"
        f"<table>{head}<tbody>{body}</tbody></table></details>"
    )


def _key(colour: str, label: str) -> str:
    return f'<li><i class="swatch" style="background:var(--{colour})"></i>{text(label)}</li>'


def _cell(nbytes: int | None) -> str:
    return '<td class="n"></td>' if nbytes is None else bytes_cell(nbytes)


def _spread(length: int) -> list[int]:
    return sorted({place * (length - 1) // max(_MOMENTS - 1, 1) for place in range(_MOMENTS)})


def _receipt(step: RecordedStep) -> str:
    body = "".join(
        table_row(
            f'<th scope=row><i class="swatch" style="background:var(--{slug(share.category)})"></i>'
            f"{text(share.category.value)}</th>",
            f'<td class="bar wide">{_bar(share.nbytes, step.peak, slug(share.category))}</td>',
            bytes_cell(share.nbytes),
            percent_cell(share.nbytes, step.peak),
        )
        for share in step.shares
    )
    total = table_row(
        "<th scope=row>total = peak</th>", '<td class="wide"></td>', bytes_cell(step.peak), percent_cell(1, 1)
    )
    head = column_heads("category", ":wide", "at the peak", "share")
    return f"<table>{head}<tbody>{body}</tbody><tfoot>{total}</tfoot></table>"


def _bar(nbytes: int, whole: int, colour: str) -> str:
    width = 100 * nbytes / whole if whole else 0
    return f'<span class="bars" aria-hidden="true"><i style="width:{width:.3f}%;background:var(--{colour})"></i></span>'


def _phases(step: RecordedStep) -> str:
    highest = max((cost.peak for cost in step.phases), default=0)
    body = "".join(
        table_row(
            f"<th scope=row>{text(cost.phase.value)}</th>",
            f'<td class="bar wide">{_bar(cost.peak, highest, "unexplained")}</td>',
            bytes_cell(cost.peak),
            f'<td class="n">{cost.ops:,}</td>',
        )
        for cost in step.phases
    )
    return f"<table>{column_heads('phase', ':wide', 'highest in it', 'ops')}<tbody>{body}</tbody></table>"


def _retained(recording: Recording) -> str:
    body = "".join(
        table_row(
            f"<th scope=row>{text(each.owner or each.place)}"
            f'<p class="made">{text(each.what)} of {text(each.place)}'
            + (f", made at {text(wording.place(each.made))}" if each.made else "")
            + "</p></th>",
            bytes_cell(each.per_step),
            bytes_cell(each.graph),
        )
        for each in recording.retained
    )
    return (
        f"<table>{column_heads('owner', 'each step adds', 'of it in a graph')}<tbody>{body}</tbody></table>"
    )
