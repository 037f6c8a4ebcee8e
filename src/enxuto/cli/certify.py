"""`enxuto certify`: whether an artefact is no worse than the original, with a certificate; and one looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..records import Certificate, Recheck
    from ..verifying import Runnable


def certify(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="The original: file.py:name, pkg.mod:name, zoo:NAME, timm:NAME, hf:CONFIG, or an .onnx file.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="The candidate, an .onnx file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="file.py:name of (inputs, targets), or of a function that gives them."
        ),
    ] = None,
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
    confidence: Annotated[
        float, typer.Option(metavar="SHARE", help="Of all looks at the data together.")
    ] = 0.95,
    looks: Annotated[
        int,
        typer.Option(metavar="N", help="How many candidates these data will certify, fixed ahead; 0: open."),
    ] = 0,
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where looks are counted; beside the model by default."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples run at once.")] = 64,
    recheck: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Look at this certificate again instead of making one."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Also save the certificate.")] = None,
) -> None:
    """Run the original and an artefact over the same samples, and say whether quality holds, and how sure that is."""
    from . import output
    from .progress import progress

    output.check_writable(save)
    if recheck is None and not (target and model and data):
        raise UsageError("certify needs the original as TARGET, --model FILE and --data file.py:name")
    if recheck is not None and (max_drop or looks or ledger or save or lower_is_better or confidence != 0.95):
        raise UsageError(
            "--recheck takes a certificate as it is: only TARGET, --model, --data, --metric and --batch"
        )
    if lower_is_better and not metric:
        raise UsageError("--lower-is-better is said of a --metric; accuracy is higher-is-better")
    if metric and not (max_drop or recheck):
        raise UsageError(
            "with --metric say --max-drop in its units: how much worse a sample may be on average"
        )
    allowed = tolerance(max_drop or "1%", own_metric=metric is not None)
    with progress() as say:
        from .. import verifying
        from ..records import Certificate, read

        known = read(recheck, expect=Certificate) if recheck else None
        given = _given(target, model, data, metric) | {"batch": batch, "progress": say}
        record: Certificate | Recheck
        if known:
            record = verifying.recheck(known, **given)
        else:
            assert model is not None
            record = verifying.certify(
                **given,
                tolerance=allowed,
                higher_is_better=not lower_is_better,
                confidence=confidence,
                looks=verifying.Ledger(ledger or model.parent, planned=looks),
            )
    output.write_files(record, save=save)
    output.show(record, as_json=as_json)
    raise typer.Exit(exit_code(record))


def _given(target: str | None, model: Path | None, data: str | None, metric: str | None) -> dict[str, Any]:
    """What `verifying.certify` and `recheck` take alike, from where it lies."""
    from ..targets import load

    return {
        "original": _original(target) if target else None,
        "candidate": _predictor(model) if model else None,
        "data": load(data, made=True) if data else None,
        "metric": load(metric) if metric else None,
    }


def _original(target: str) -> Any:
    """The original: an artefact by its file, or the module of a Workload."""
    return _predictor(Path(target)) if target.endswith(".onnx") else built(target)


def built(target: str) -> Any:
    """The module that a TARGET's Workload builds.

    Raises:
        UserCodeError: its `model()` raised.
    """
    from ..errors import UserCodeError
    from ..targets import resolve

    work = resolve(target)
    try:
        return work.model()
    except Exception as error:
        raise UserCodeError(f"{target}: its model() raised {type(error).__name__}: {error}") from error


def _predictor(path: Path) -> Runnable:
    """An artefact as its runtime executes it, by the runtime's own defaults."""
    from ..compressing.judging import as_executed

    if path.suffix != ".onnx" or not path.is_file():
        raise UsageError(f"cannot run {path}: it is no .onnx file that is there")
    return as_executed(path)


def tolerance(text: str, *, own_metric: bool) -> float:
    """A tolerated drop: with a percent sign in points of accuracy, else in the metric's units.

    >>> tolerance("1%", own_metric=False), tolerance("0.25", own_metric=True)
    (0.01, 0.25)
    """
    number = text.removesuffix("%")
    percent = number != text
    if percent and own_metric:
        raise UsageError(f"--max-drop {text}: with --metric the drop is a number in the metric's own units")
    try:
        drop = float(number) / (100 if percent else 1)
    except ValueError:
        raise UsageError(f"--max-drop is such as 1% (one point) or 0.01, not {text!r}") from None
    return drop


def exit_code(record: Certificate | Recheck) -> int:
    """0 accepted, 1 rejected or no longer true, 3 undecidable."""
    from ..records import Certificate, Decision

    if not isinstance(record, Certificate):
        if not record.holds:
            return 1
        record = record.certificate
    return {Decision.ACCEPTED: 0, Decision.REJECTED: 1, Decision.UNDECIDABLE: 3}[record.decision]
