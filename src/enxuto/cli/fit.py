"""`enxuto fit`: the cheapest way to run a training step within a budget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError


def fit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What to train: file.py:name, pkg.mod:name, zoo:NAME?batch=32, timm:NAME or hf:CONFIG.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The most bytes that may be alive: 2GiB, 8GB, 500MiB or bytes."),
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Another batch size.")] = None,
    max_slowdown: Annotated[
        float, typer.Option(metavar="RATIO", help="The longest step, as a multiple of the plain one; 0: any.")
    ] = 0.0,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Also allow levers that change the updates: a smaller batch.")
    ] = False,
    fixed: Annotated[
        list[str] | None,
        typer.Option(metavar="LEVER", help="A lever that must not be used, for instance micro-batches."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Apply this saved plan again instead of searching.")
    ] = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Plan and trace dry; run nothing for real.")
    ] = False,
    cap: Annotated[
        bool, typer.Option("--cap", help="Also run both steps under a real memory limit, in processes.")
    ] = False,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Do not measure kernel scratch that is not known yet.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Also save the plan, for --plan.")] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the plan as a plain PyTorch script.")
    ] = None,
) -> None:
    """Choose the cheapest levers whose peak is within a budget, apply them, measure, and compare gradients."""
    from . import output
    from .progress import progress

    output.check_writable(html, save, export)
    if (budget is None) == (plan is None):
        raise UsageError("fit needs --budget SIZE (for instance --budget 2GiB), or --plan FILE, and not both")
    asked = None if budget is None else _budget(budget, max_slowdown, fixed or [], lossy=lossy)
    with progress() as say:
        from ..fitting import Fit
        from ..records import Plan, read
        from ..targets import resolve

        saved: Any = None if plan is None else read(plan, expect=Plan)
        work = resolve(target, batch=batch)
        fitter = Fit(work, calibrate=not no_calibrate, progress=say)
        options: dict[str, Any] = {"measure": not no_measure, "target": target if cap else None}
        fitted = fitter.again(saved, **options) if asked is None else fitter.within(asked, **options)
    output.write_files(fitted, html=html)
    output.write_files(fitted.plan, save=save)
    if export is not None:
        from ..applying import export as export_script

        export_script(fitted.plan, export)
        output.say_wrote(export)
    output.show(fitted, as_json=as_json)
    if not fitted.plan.fits and not as_json:
        _point_to_leaner_nets(work, target, batch, fitted.plan.budget.bytes)
    if not fitted.plan.fits or not fitted.verdict.passed:
        raise typer.Exit(1)


def _point_to_leaner_nets(work: Any, target: str, batch: int | None, nbytes: int) -> None:
    """Where no lever is enough, another net may be."""
    from shlex import quote

    from ..comparing import has_others

    if has_others(work):
        size = "" if batch is None else f" --batch {batch}"
        command = f"enxuto compare {quote(target)} --suggest --budget {nbytes}{size}"
        print(f"Nets of the zoo that would train in it: {command}", file=sys.stderr)


def _budget(text: str, slowdown: float, fixed: list[str], *, lossy: bool) -> Any:
    from ..planning import NUMERICS
    from ..records import Budget, Numerics
    from ..units import parse_bytes

    known = sorted(
        str(kind.__struct_config__.tag)  # type: ignore[attr-defined]
        for kind in NUMERICS
    )
    for lever in fixed:
        if lever not in known:
            raise UsageError(f"--fixed knows {', '.join(known)}, not {lever!r}")
    if slowdown and slowdown < 1:
        raise UsageError(f"--max-slowdown is a multiple of the plain step, at least 1, not {slowdown}")
    usual = (Numerics.IDENTICAL, Numerics.ROUNDING)
    return Budget(
        bytes=parse_bytes(text),
        max_slowdown_ratio=slowdown,
        allow=(*usual, Numerics.LOSSY) if lossy else usual,
        fixed=tuple(fixed),
    )
