"""Where a subcommand's record goes: the terminal, JSON on standard output, files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..records import Timeline, write
from ..reporting import print_record, render, write_html


def check_writable(*paths: Path | None) -> None:
    """Refuse files that could not be written, before the work that they are to hold.

    Raises:
        UsageError: a folder is missing or not writable, the path is a folder, or two outputs share a file.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        folder = path.parent
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {folder}")
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"cannot write {path}: the folder {folder} is not writable")
    if len({path.resolve() for path in given}) < len(given):
        raise UsageError("two outputs have the same file; give each its own")


def write_files(record: Any, *, html: Path | None = None, save: Path | None = None) -> None:
    """Write a record's page and its JSON, whole or not at all, and say so on standard error."""
    if html is not None:
        write_html(record, html)
        say_wrote(html)
    if save is not None:
        write(record, save)
        say_wrote(save)


def write_timeline(timeline: Timeline, path: Path) -> None:
    """Write a Timeline's JSON, whole or not at all, and say so on standard error."""
    write(timeline, path)
    say_wrote(path)


def show(record: Any, *, as_json: bool) -> None:
    """Print a record: its card, or its JSON and nothing else."""
    if as_json:
        print(render(record, "json"))
    else:
        print_record(record)


def say_wrote(path: Path) -> None:
    """Tell where a file went, on standard error: standard output may be a pipe."""
    print(f"wrote {path}", file=sys.stderr)
