"""`enxuto compress`: a trained network as a file that a runtime executes within limits, with a certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError


def compress(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="The trained network: file.py:name or pkg.mod:name of a Workload, whose model() loads its weights.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="file.py:name of labelled samples (inputs, targets), or of Splits."
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="file.py:name of samples that pruned networks learn from."),
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The most bytes of the file: 4MiB, 500kB or bytes.")
    ] = None,
    gzip: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The most bytes of the file compressed.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The most memory above the runtime's own.")
    ] = None,
    max_latency: Annotated[
        float, typer.Option(metavar="RATIO", help="The longest run, as a multiple of the original's; 0: any.")
    ] = 0.0,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="DROP", help="The drop tolerated: 1% is one point (the default); a number in --metric's."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="file.py:name of metric(outputs, targets), a score for each sample."
        ),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Of the metric: it is a loss.")
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Labels are what the original says: keep agreement with it; needs none in --data.",
        ),
    ] = False,
    prune_only: Annotated[
        bool, typer.Option("--prune-only", help="Round nothing: weights stay in 32 bits.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Where the artefact goes; a stopped search goes on."
        ),
    ] = Path("compressed"),
    smallest: Annotated[
        bool, typer.Option("--smallest", help="Go on below the limits as far as quality holds.")
    ] = False,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the samples after each cut.")] = 5,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="Begin no new candidate after this; 0: no limit.")
    ] = 0.0,
    finalists: Annotated[
        int, typer.Option(metavar="N", help="At most so many candidates look at the certifying samples.")
    ] = 2,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the split and of all training.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")] = None,
) -> None:
    """Prune, quantize and repair a trained network until it keeps the limits, and certify what quality is left."""
    from . import output
    from .progress import progress

    output.check_writable(html)
    if data is None:
        raise UsageError("compress needs --data file.py:name: labelled samples as (inputs, targets)")
    if metric and not max_drop:
        raise UsageError(
            "with --metric say --max-drop in its units: how much worse a sample may be on average"
        )
    from .certify import tolerance

    limits = _limits(file, gzip, ram, max_latency, tolerance(max_drop or "1%", own_metric=metric is not None))
    with progress() as say:
        from ..compressing import answered_by
        from ..compressing import compress as run
        from ..compressing.distilling import Distillation
        from ..compressing.search import Effort
        from ..records import Scheme
        from ..targets import load, resolve

        work, given = resolve(target), load(data, made=True)
        effort = Effort(distillation=Distillation(epochs=epochs), seconds=time_limit)
        found = run(
            work,
            answered_by(work, given) if agreement else given,
            out=out,
            limits=limits,
            train=None if train is None else load(train, made=True),
            metric=None if metric is None else load(metric),
            higher_is_better=not lower_is_better,
            effort=replace(effort, schemes=(Scheme.FLOAT32,)) if prune_only else effort,
            smallest=True if smallest else None,
            finalists=finalists,
            seed=seed,
            progress=say,
        )
    output.write_files(found, html=html)
    output.show(found, as_json=as_json)
    raise typer.Exit(_exit_code(found))


def _limits(file: str | None, gzip: str | None, ram: str | None, latency: float, drop: float) -> Any:
    from ..records import Limits
    from ..units import parse_bytes

    sizes = {"file": file, "gzip": gzip, "ram": ram}
    given = {name: parse_bytes(text) for name, text in sizes.items() if text is not None}
    for name, nbytes in given.items():
        if nbytes < 1:
            raise UsageError(f"--{name} is at least 1 byte, not {nbytes}")
    if latency < 0:
        raise UsageError(f"--max-latency is a multiple of the original's run, not {latency}")
    return Limits(latency_ratio=latency, max_drop=drop, **given)


def _exit_code(found: Any) -> int:
    """0 certified within the limits, 1 nothing keeps them or quality is lost, 3 too few samples to say."""
    from ..records import Decision

    if found.chosen >= 0:
        return 0
    undecided = found.certificate is not None and found.certificate.decision is Decision.UNDECIDABLE
    return 3 if undecided else 1
