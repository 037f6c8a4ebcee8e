"""`enxuto explain`: where the memory of one step goes, what changed between two, which batch fits a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from .situations import is_situation, situation

if TYPE_CHECKING:
    from ..records import Difference, Explanation, LargestBatch, Timeline
    from ..workload import Workload

WorldName = Literal["dry", "cpu", "cuda"]
Unknown = Literal["batch"]


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What to run: file.py:name, pkg.mod:name, zoo:NAME?batch=32, timm:NAME or hf:CONFIG; "
            "a saved record, FILE.json; or a situation, M03, whose page is printed.",
            show_default=False,
        ),
    ] = "",
    batch: Annotated[int | None, typer.Option(metavar="N", help="Another batch size.")] = None,
    world: Annotated[
        WorldName | None, typer.Option(help="dry (the default) computes nothing; cpu and cuda run the step.")
    ] = None,
    inference: Annotated[bool, typer.Option("--inference", help="No optimizer and no backward.")] = False,
    grad: Annotated[bool, typer.Option("--grad", help="In inference, leave gradient recording on.")] = False,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Do not measure kernel scratch that is not known yet.")
    ] = False,
    solve: Annotated[
        Unknown | None,
        typer.Option(
            help="Find the largest batch size within --budget instead; exit code 1 if not even 1 fits."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="With --solve: 2GiB, 8GB, 500MiB or bytes.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the explanation, for report and --diff.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the timeline that it is made from.")
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two saved explanations instead."),
    ] = None,
) -> None:
    """Say which bytes are alive at the peak of a step, who owns them and why they are alive."""
    from . import output

    run_options = {
        "--batch": batch is not None,
        "--world": world is not None,
        "--inference": inference,
        "--grad": grad,
        "--no-calibrate": no_calibrate,
        "--timeline": timeline is not None,
        "--solve": solve is not None,
    }
    if budget is not None and solve is None:
        raise UsageError("--budget goes with --solve batch")
    record: Any
    output.check_writable(html, save, timeline)
    if is_situation(target):
        _refuse("a situation's page is printed as it is", {**run_options, "--html": html is not None})
        print(situation(target), end="")
        return
    if diff is not None:
        _refuse("--diff compares saved explanations", {**run_options, f"TARGET {target}": bool(target)})
        record = _difference(*diff)
    elif target.endswith(".json") and not target.startswith("hf:"):
        _refuse(f"{target} is a saved record, which is not run again", run_options)
        record = _saved(target)
    elif solve is not None:
        if world not in (None, "dry"):
            raise UsageError("--solve batch traces dry by itself: leave out --world")
        unused = {
            "--batch": batch is not None,
            "--html": html is not None,
            "--timeline": timeline is not None,
        }
        _refuse("--solve batch finds the batch size", unused)
        record = _largest_batch(target, budget, inference=inference, grad=grad, calibrate=not no_calibrate)
    else:
        run = _Run(world=world or "dry", calibrate=not no_calibrate)
        record = run.explained(target, batch, inference=inference, grad=grad, timeline=timeline)
    output.write_files(record, html=html, save=save)
    output.show(record, as_json=as_json)
    if solve is not None and not record.fits:
        raise typer.Exit(1)


def _refuse(why: str, options: dict[str, bool]) -> None:
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise UsageError(f"{why}: leave out {', '.join(given)}")


def _difference(before: Path, after: Path) -> Difference:
    from ..explaining import difference
    from ..records import Explanation, read

    return difference(read(before, expect=Explanation), read(after, expect=Explanation))


def _saved(file: str) -> Explanation | Difference:
    """The record in a file; a timeline is explained."""
    from ..records import Timeline, read

    record: Explanation | Difference | Timeline = read(file)
    if not isinstance(record, Timeline):
        return record
    from ..explaining import explain

    return explain(record)


def _largest_batch(
    target: str, budget: str | None, *, inference: bool, grad: bool, calibrate: bool
) -> LargestBatch:
    from ..units import parse_bytes
    from .progress import progress

    if budget is None:
        raise UsageError("--solve batch needs --budget SIZE, for instance --budget 2GiB")
    nbytes = parse_bytes(budget)
    with progress() as say:
        work = _workload(target, None, inference=inference, grad=grad)
        from ..predicting import largest_batch

        return largest_batch(work, nbytes, calibrate=calibrate, progress=say)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """How a target is traced."""

    world: WorldName
    calibrate: bool

    def explained(
        self, target: str, batch: int | None, *, inference: bool, grad: bool, timeline: Path | None
    ) -> Explanation:
        """The Explanation of a target's step; its Timeline goes to a file where one is named."""
        from .output import write_timeline
        from .progress import progress

        with progress() as say:
            work = _workload(target, batch, inference=inference, grad=grad)
            if timeline is None:
                return self._explain(work, say)
            traced = self._trace(work, say)
            # a timeline alone does not tell the peak of inference under the other gradient mode
            explanation = self._explain(traced if work.training else work, say)
        write_timeline(traced, timeline)
        return explanation

    def _explain(self, work: Workload | Timeline, say: Any) -> Explanation:
        from ..explaining import explain

        return explain(work, world=self.world, calibrate=self.calibrate, progress=say)

    def _trace(self, work: Workload, say: Any) -> Timeline:
        from ..tracing import trace

        return trace(work, world=self.world, calibrate=self.calibrate, progress=say)


def _workload(target: str, batch: int | None, *, inference: bool, grad: bool) -> Workload:
    if not target:
        raise UsageError("what shall be explained? Name a TARGET, for instance zoo:resnet18?batch=8")
    from ..targets import resolve

    work = resolve(target, batch=batch, inference=inference)
    if not grad:
        return work
    if work.training:
        raise UsageError("a training step records gradients anyway: --grad goes with --inference")
    return work.inference(grad=True)
