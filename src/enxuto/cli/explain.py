"""`enxuto explain`: trace a target and show the receipt of its peak."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

_WORLDS = ("dry", "cpu", "cuda")


def explain(
    target: Annotated[
        str, typer.Argument(help="file.py:name, pkg.mod:name, zoo:NAME?batch=32, or a saved .json")
    ] = "",
    batch: Annotated[int | None, typer.Option(help="Another batch size than the target's own.")] = None,
    world: Annotated[str, typer.Option(help="dry computes nothing; cpu and cuda run the step.")] = "dry",
    inference: Annotated[
        bool, typer.Option("--inference", help="Leave the optimizer and the backward out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the Explanation as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the Explanation as JSON, for report and --diff.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Measure kernel scratch that is not known yet.")
    ] = True,
    diff: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two saved Explanations: --diff A.json B.json")
    ] = None,
) -> None:
    """Say which bytes are alive at the peak of a step, who owns them and why they are alive."""
    from ..records import write
    from ..reporting import print_record, write_html

    if diff is not None:
        return _print_difference(*diff, as_json=as_json)
    if not target:
        raise UsageError("what shall be explained? Name a target, for instance zoo:resnet18?batch=8")
    for path in (html, save):
        if path is not None and not path.resolve().parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    explanation = _explanation(target, batch, world, inference, calibrate)
    if as_json:
        sys.stdout.write(explanation.to_json().decode() + "\n")
    else:
        print_record(explanation)
    if save is not None:
        write(explanation, save)
    if html is not None:
        write_html(explanation, html)
        print(f"wrote {html}", file=sys.stderr)


def _explanation(target: str, batch: int | None, world: str, inference: bool, calibrate: bool):  # type: ignore[no-untyped-def]
    from ..explaining import explain as explain_work
    from ..records import Explanation, read
    from ..targets import resolve

    if target.endswith(".json"):
        record = read(target)
        return record if isinstance(record, Explanation) else explain_work(record)
    if world not in _WORLDS:
        raise UsageError(f"--world is one of {', '.join(_WORLDS)}, not {world!r}")
    work = resolve(target, batch=batch)
    with progress_line() as say:
        return explain_work(
            work.inference() if inference else work, world=world, calibrate=calibrate, progress=say
        )


def _print_difference(before: Path, after: Path, *, as_json: bool) -> None:
    from ..explaining import difference
    from ..records import Explanation, read
    from ..reporting import print_record

    record = difference(read(before, expect=Explanation), read(after, expect=Explanation))
    if as_json:
        sys.stdout.write(record.to_json().decode() + "\n")
    else:
        print_record(record)


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what goes on; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda line: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda line: status.update(line)
