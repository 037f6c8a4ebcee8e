"""`enxuto report`: draw a saved record again, on any machine and without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A record that enxuto saved.")],
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write it as one HTML page instead.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON on standard output, and nothing else.")
    ] = False,
) -> None:
    """Show a saved record: as a card, as JSON or as an HTML page."""
    from ..records import read
    from . import output

    output.check_writable(html)
    record = read(file)
    output.write_files(record, html=html)
    if as_json or html is None:
        output.show(record, as_json=as_json)
