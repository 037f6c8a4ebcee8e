"""`enxuto report`: render a saved record again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    file: Annotated[Path, typer.Argument(help="A record saved by enxuto, as JSON.")],
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Show a saved record as a card, as JSON or as an HTML page."""
    from ..records import read
    from ..reporting import print_record, write_html

    record = read(file)
    if html is not None:
        write_html(record, html)
        print(f"wrote {html}", file=sys.stderr)
    elif as_json:
        sys.stdout.write(record.to_json().decode() + "\n")
    else:
        print_record(record)
