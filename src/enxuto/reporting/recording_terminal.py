"""Watched runs, diagnoses and autopsies as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from ..records import Autopsy, Cause, Diagnosis, Recording
from ..units import format_bytes
from . import recording_rows, wording
from .terminal import Bar, Card, Sparkline, add_row, grid, pairs, section

_BOLD, _DIM = "bold", "dim"
_POINTS = 80


def recording_card(recording: Recording) -> Card:
    """A run: its peak, its growth, where the bytes are, what is wrong."""
    return Card(lambda width: _recording_parts(recording, width))


def diagnosis_card(diagnosis: Diagnosis) -> Card:
    """What is wrong with a run."""
    return Card(lambda width: _diagnosis_parts(diagnosis))


def autopsy_card(autopsy: Autopsy) -> Card:
    """Why a run died of memory."""
    return Card(lambda width: _autopsy_parts(autopsy))


def _recording_parts(recording: Recording, width: int) -> Iterator[RenderableType]:
    name = wording.plain(recording.source.name)
    yield Text.assemble((name, _BOLD), (f"  {recording_rows.title(recording)}", _DIM))
    yield pairs(recording_rows.summary(recording))
    curve = recording_rows.drawn(recording, points=min(width, _POINTS))
    for title, values in (
        ("Peak of each step", curve.peak),
        ("Process, beyond its start (kernel)", curve.host),
    ):
        known = [value for value in values if value is not None]
        if len(known) > 1:
            yield from section(
                f"{title}, {format_bytes(min(known))} to {format_bytes(max(known))}",
                Sparkline(known, max(known)),
            )
    step = recording_rows.highest(recording)
    if step is not None:
        yield from section(f"At the peak of step {step.step:,}, recorded", _shares(recording))
    if recording.causes:
        yield from section("Findings", *_causes(recording.causes))
    elif recording.total_steps:
        yield from section("Findings", Text("none: nothing that grows, no situation that is known"))


def _shares(recording: Recording) -> RenderableType:
    step = recording_rows.highest(recording)
    table = grid(expand=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    if step is not None:
        for share in step.shares:
            bar = Bar(((share.category, share.nbytes),), step.peak)
            add_row(table, share.category.value, format_bytes(share.nbytes), bar)
        for name, nbytes in recording_rows.phases(recording):
            add_row(
                table,
                f"highest in {name}",
                format_bytes(nbytes),
                Bar(((None, nbytes),), step.peak),
                style=_DIM,
            )
    return table


def _causes(causes: Sequence[Cause]) -> Iterator[RenderableType]:
    for cause in causes:
        table = grid()
        table.add_column(no_wrap=True, style=_BOLD)
        table.add_column(overflow="fold")
        add_row(table, cause.id, wording.plain(cause.evidence))
        for name, value in recording_rows.cause_notes(cause):
            add_row(table, "", Text.assemble((f"{name}: ", _DIM), value))
        yield table


def _diagnosis_parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    found = wording.counted(len(diagnosis.causes), "finding") if diagnosis.causes else "no finding"
    yield Text.assemble((wording.plain(diagnosis.source.name), _BOLD), (f"  {found}", _DIM))
    yield from _causes(diagnosis.causes)
    if diagnosis.silent:
        yield from section("Looked for and not found", Text(", ".join(diagnosis.silent), style=_DIM))


def _autopsy_parts(autopsy: Autopsy) -> Iterator[RenderableType]:
    name = wording.plain(autopsy.source.name)
    yield Text.assemble((name, _BOLD), (f"  {recording_rows.autopsy_title(autopsy)}", _BOLD))
    yield pairs(recording_rows.failure_rows(autopsy.failure))
    if autopsy.causes:
        yield from section("Causes, the likeliest first", *_causes(autopsy.causes))
    if autopsy.ruled_out:
        yield from section("Ruled out", *(Text(wording.plain(each)) for each in autopsy.ruled_out))
    if autopsy.receipt is not None:
        receipt = autopsy.receipt
        shares = [(s.category.value, format_bytes(s.nbytes)) for s in receipt.shares]
        yield from section(f"Receipt of the recorded step, {format_bytes(receipt.peak)}", pairs(shares))
    if autopsy.plan is not None:
        from .plan_terminal import plan_card

        fits = "that would have fitted" if autopsy.plan.fits else "with the lowest peak that was found"
        yield from section(f"A plan of that step {fits}", plan_card(autopsy.plan))
    if autopsy.no_plan:
        yield from section("No plan", Text(wording.plain(autopsy.no_plan)))
