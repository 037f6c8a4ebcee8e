"""`enxuto report`: draw a saved record again, on any machine and without PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer


def report(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A record that enxuto saved, the log of a run, the folder of an autopsy, or a memory snapshot "
            "of PyTorch.",
        ),
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write it as one HTML page instead.")
    ] = None,
    perfetto: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write what has a clock as trace events, for ui.perfetto.dev."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON on standard output, and nothing else.")
    ] = False,
) -> None:
    """Show a saved record: as a card, as JSON, as an HTML page, or in Perfetto."""
    from . import output

    output.check_writable(html, perfetto)
    record = _recorded(file)
    output.write_files(record, html=html)
    if perfetto is not None:
        from ..reporting import to_perfetto

        to_perfetto(record, perfetto)
        output.say_wrote(perfetto)
    if as_json or (html is None and perfetto is None):
        output.show(record, as_json=as_json)


def _recorded(path: Path) -> Any:
    """The record in a file; of a folder, the autopsy in it or the run that it is the log of."""
    from ..records import is_snapshot, read, read_snapshot
    from ..records.log import read_log

    if not path.is_dir():
        return read_snapshot(path) if is_snapshot(path) else read(path)
    if (path / "autopsy.json").is_file():
        return read(path / "autopsy.json")
    recording = read_log(path)
    if recording.causes:
        return recording
    try:
        from ..monitoring import diagnose
    except ImportError:  # a machine without PyTorch: what was said while it ran is there
        return recording
    return replace(recording, causes=diagnose(recording).causes)
