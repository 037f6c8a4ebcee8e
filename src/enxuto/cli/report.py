"""`enxuto report`: draw a saved record again, on any machine and without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A record that enxuto saved, or a memory snapshot of PyTorch."),
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write it as one HTML page instead.")
    ] = None,
    perfetto: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a timeline as trace events, for ui.perfetto.dev."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON on standard output, and nothing else.")
    ] = False,
) -> None:
    """Show a saved record: as a card, as JSON, as an HTML page, or a timeline in Perfetto."""
    from ..records import is_snapshot, read, read_snapshot
    from . import output

    output.check_writable(html, perfetto)
    record = read_snapshot(file) if is_snapshot(file) else read(file)
    output.write_files(record, html=html)
    if perfetto is not None:
        from ..reporting.trace_events import write_trace_events

        write_trace_events(record, perfetto)
        output.say_wrote(perfetto)
    if as_json or (html is None and perfetto is None):
        output.show(record, as_json=as_json)
