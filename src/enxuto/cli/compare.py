"""`enxuto compare`: nets side by side in one scenario, or nets to take instead of one that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError


def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Nets: zoo:NAME?width=0.5, timm:NAME, torchvision:NAME, file.py:name, and patterns: 'zoo:*net*'.",
            show_default=False,
        ),
    ],
    scenario: Annotated[
        str,
        typer.Option(
            "--for", metavar="SCENARIO", help="file, inference-ram, training or latency: what to sort by."
        ),
    ] = "training",
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the images; else each net's own.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Samples of a training step.", show_default="32")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="Output classes; else each net's own.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="adamw, adam or sgd; else each net's own.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Also look for the largest batch that trains in it: 2GiB."),
    ] = None,
    suggest: Annotated[
        bool,
        typer.Option("--suggest", help="Nets to take instead of TARGET, which --budget is too small for."),
    ] = False,
    onnxruntime: Annotated[
        bool,
        typer.Option("--onnxruntime", help="Also run each net in onnxruntime: file, memory and latency."),
    ] = False,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Do not measure kernel scratch that is not known yet.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Processes; else one a core.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the comparison as JSON.")
    ] = None,
) -> None:
    """Nets side by side: memory in training and inference, file, arithmetic, latency, published accuracy."""
    from . import output
    from .progress import progress

    output.check_writable(html, save)
    nbytes = _bytes(budget)
    if suggest:
        _check_suggest(targets, nbytes, {"--size": size, "--classes": classes, "--optimizer": optimizer})
    with progress() as say:
        record: Any
        if suggest:
            from ..comparing import suggest as suggested
            from ..targets import resolve

            work = resolve(targets[0], batch=batch)
            record = suggested(
                work, nbytes or 0, scenario, calibrate=not no_calibrate, jobs=jobs, progress=say
            )
        else:
            from ..comparing import compare as compared

            record = compared(
                targets,
                scenario=scenario,
                batch=32 if batch is None else batch,
                size=size,
                classes=classes,
                optimizer=optimizer,
                budget=nbytes,
                onnxruntime=onnxruntime,
                calibrate=not no_calibrate,
                jobs=jobs,
                progress=say,
            )
    output.write_files(record, html=html, save=save)
    output.show(record, as_json=as_json)
    if not any(net.figures for net in record.nets):
        raise typer.Exit(3)
    if suggest and not any(record.fits(net) for net in record.nets):
        raise typer.Exit(1)


def _bytes(budget: str | None) -> int | None:
    from ..units import parse_bytes

    return None if budget is None else parse_bytes(budget)


def _check_suggest(targets: list[str], budget: int | None, given: dict[str, Any]) -> None:
    """Suggestions take one net and its own conditions."""
    if len(targets) != 1 or budget is None:
        raise UsageError("--suggest takes one TARGET and --budget SIZE, for instance --budget 2GiB")
    if extra := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"--suggest takes {', '.join(extra)} from the TARGET itself; leave it out")
