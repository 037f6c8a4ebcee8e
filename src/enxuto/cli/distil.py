"""`enxuto distil`: a lean network learns from a trained one, and is certified against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingDependency, UsageError


def distil(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="The trained network: file.py:name of a Workload, whose model() loads its weights.",
            show_default=False,
        ),
    ],
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="The network that learns, a TARGET: file.py:name, zoo:NAME or timm:NAME.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="file.py:name of what it learns from, (inputs, targets)."),
    ] = None,
    certify: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="file.py:name of labelled samples that certify; without, a quarter of --data is kept for it.",
        ),
    ] = None,
    max_drop: Annotated[
        str, typer.Option(metavar="DROP", help="The drop of accuracy tolerated: 1% is one point.")
    ] = "1%",
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the samples.")] = 5,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples of one step.")] = 128,
    rate: Annotated[float, typer.Option(metavar="RATE", help="The highest learning rate of AdamW.")] = 1e-3,
    labels: Annotated[
        float, typer.Option(metavar="SHARE", help="The labels' share of the loss; the teacher has the rest.")
    ] = 0.3,
    temperature: Annotated[float, typer.Option(metavar="T", help="By which logits are divided.")] = 4.0,
    change: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="file.py:name of change(inputs), which augments a batch."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The most bytes that a step may have alive, the teacher counted."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the student goes; a stopped run goes on."),
    ] = Path("distilled"),
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the student's first weights and of its training.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
    ] = False,
) -> None:
    """Train a lean network to say what a trained one says, and certify that it is no worse."""
    from . import output
    from .certify import exit_code, tolerance
    from .progress import progress

    if data is None:
        raise UsageError("distil needs --data file.py:name: what the student learns from, (inputs, targets)")
    allowed = tolerance(max_drop, own_metric=False)
    with progress() as say:
        from ..compressing.distilling import Distillation, distillation_workload
        from ..compressing.distilling import distil as run
        from ..fitting import fit
        from ..targets import load

        settings = Distillation(
            epochs=epochs, batch=batch, rate=rate, labels=labels, temperature=temperature, seed=seed
        )
        learn, guard = _sets(load(data, made=True), load(certify, made=True) if certify else None, seed)
        networks = _networks(teacher, student, seed)
        plan = (
            fit(distillation_workload(*networks, learn, settings), budget, measure=False).plan
            if budget
            else None
        )
        if plan is None or plan.fits:
            out.mkdir(parents=True, exist_ok=True)
            found = run(
                *networks,
                learn,
                settings,
                certify=guard,
                tolerance=allowed,
                plan=plan,
                checkpoint=out / "distil.pt",
                change=load(change) if change else None,
                progress=say,
            )
            _write(networks[1], found.certificate, out)
    if plan is not None and not plan.fits:
        output.show(plan, as_json=as_json)
        raise typer.Exit(1)
    output.say_wrote(out)
    output.show(found.certificate, as_json=as_json)
    assert found.certificate is not None  # samples for one were given
    raise typer.Exit(exit_code(found.certificate))


def _sets(data: Any, certify: Any, seed: int) -> tuple[Any, Any]:
    """What teaches, and what certifies."""
    import torch

    from ..samples import Samples

    samples = Samples.of(data)
    if certify is not None:
        return samples, Samples.of(certify)
    if len(samples) < 4:
        raise UsageError(f"--data has {len(samples)} samples: too few to keep a quarter for the certificate")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    kept = len(samples) // 4
    return samples.take(order[kept:]), samples.take(order[:kept])


def _networks(teacher: str, student: str, seed: int) -> tuple[Any, Any]:
    """The teacher, and the student with the first weights that a seed gives it."""
    import torch

    from .certify import built

    original = built(teacher)
    torch.manual_seed(seed)
    return original, built(student)


def _write(student: Any, certificate: Any, out: Path) -> None:
    try:
        from safetensors.torch import save
    except ImportError:
        raise MissingDependency("weights are kept as safetensors: pip install 'enxuto[compress]'") from None
    from ..records import write, write_atomically

    weights = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    write_atomically(out / "student.safetensors", save(weights))
    write(certificate, out / "certificate.json")
