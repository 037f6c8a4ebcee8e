"""Certificates as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ..records import Certificate, Outcome, Recheck
from . import certificate_rows as rows
from .terminal import Card, add_row, grid, pairs, section

_STYLES = {Outcome.PASSED: "", Outcome.FAILED: "bold", Outcome.NOT_CHECKED: "dim"}


def certificate_card(certificate: Certificate) -> Card:
    """The decision, what it rests on, and what was run."""
    return Card(lambda width: _parts(certificate))


def recheck_card(recheck: Recheck) -> Card:
    """What still holds of a certificate, and the certificate."""
    return Card(lambda width: _recheck_parts(recheck))


def _parts(certificate: Certificate) -> Iterator[RenderableType]:
    (_, decision), *others = rows.summary(certificate)
    yield Text.assemble(("certificate", "bold"), f"  {decision}")
    yield pairs(others)
    yield from section("How sure, and of what", pairs(rows.conditions(certificate)))


def _recheck_parts(recheck: Recheck) -> Iterator[RenderableType]:
    yield from _parts(recheck.certificate)
    table = grid()
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check, found, outcome in rows.rechecked(recheck):
        add_row(table, check, outcome.value, found, style=_STYLES[outcome])
    yield from section(f"Looked at again: {rows.recheck_outcome(recheck)}", table)
