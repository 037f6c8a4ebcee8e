"""`compress`: a trained network as a file that a runtime executes within limits, with a certificate of its quality."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import UsageError, UserCodeError
from ..records import (
    Candidate,
    Certificate,
    Compressed,
    Decision,
    Limits,
    OnnxRuntimeFlags,
    OptimizationLevel,
    write,
    write_atomically,
)
from ..reporting import model_card
from ..samples import Samples, Splits
from ..verifying import Ledger, answered, certify
from ..verifying.quality import Metric
from ..workload import Workload
from .judging import Judge, as_executed
from .levels import Levels
from .making import Making
from .runtimes import runtime
from .runtimes.onnx_runtime import OnnxRuntime, int8_saturates
from .runtimes.tuning import Grid, tune
from .search import Effort, Search


def compress(
    work: Workload | nn.Module,
    data: Any,
    *,
    out: str | os.PathLike[str],
    limits: Limits | None = None,
    train: Any = None,
    metric: Metric | None = None,
    higher_is_better: bool = True,
    effort: Effort | None = None,
    smallest: bool | None = None,
    finalists: int = 2,
    seed: int = 0,
    change: Callable[[Any], Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compressed:
    """Make a trained network small enough to ship, and certify what it kept.

    Candidates are made by pruning, 8-bit quantization and repairs, and judged as onnxruntime executes them. The best
    one on the samples that choose is then certified on samples that chose nothing.

    Args:
        work: the trained network: a module, or a Workload whose `model()` gives it with its weights.
        data: labelled samples, `(inputs, targets)` or what else `Samples.of` takes; or `Splits`, whose three sets
            are kept as they are. One set is split under `seed`.
        out: a folder: `model.onnx`, `README.md`, `certificate.json`, `compressed.json`, and `search/`, from which a
            search that was stopped goes on.
        limits: of file, memory, latency and drop.
        train: samples that pruned networks learn from; None takes those that calibrate.
        metric: `metric(outputs, targets)` gives one score for each sample; None is top-1 accuracy.
        higher_is_better: of the metric.
        effort: how hard the search tries.
        smallest: go on below the limits as far as quality holds; None does so where nothing but the drop is limited.
        finalists: at most so many candidates look at the certifying samples, whose error is divided by it.
        seed: of the split and of all training.
        change: augments a batch of inputs while pruned networks learn.
        progress: takes lines of text as the work goes on.

    Returns:
        A Compressed. Limits that nothing keeps are a value, `chosen == -1`, with the reasons in the rows.

    Raises:
        UsageError: no labels, too few samples, or a network that cannot be exported.
        UserCodeError: `work.model()` raised.
        MissingDependency: the extra "compress" is not installed.
    """
    began = time.monotonic()
    limits, effort = limits or Limits(), effort or Effort()
    say = progress or (lambda line: None)
    folder = Path(out)
    (folder / "search").mkdir(parents=True, exist_ok=True)
    splits = data if isinstance(data, Splits) else Samples.of(data).split(seed=seed)
    learn = splits.calibrate if train is None else Samples.of(train)
    model, name = _trained(work)
    effort = replace(
        effort,
        distillation=replace(effort.distillation, seed=seed),
        reduce_range=int8_saturates() if effort.reduce_range is None else effort.reduce_range,
    )
    key = _key(model, splits, learn, effort, limits, seed)
    judge = Judge(model, splits.choose, limits.max_drop, metric=metric, higher_is_better=higher_is_better)
    search = Search(
        levels=Levels(model, learn, effort.distillation, folder / "search", key, change=change, say=say),
        making=Making(calibrate=splits.calibrate, train=learn),
        judge=judge,
        limits=limits,
        effort=effort,
        example=tuple(tensor[:1] for tensor in splits.choose.inputs),
        folder=folder / "search",
        key=key,
        smallest=not limits.any if smallest is None else smallest,
        say=say,
    )
    rows = search.run()
    for stale in ("model.onnx", "certificate.json", "README.md"):  # of an earlier search with other limits
        (folder / stale).unlink(missing_ok=True)
    rows, chosen, certificate = _finals(
        search, rows, model, splits, metric, higher_is_better, finalists, folder
    )
    found = Compressed(
        workload=name,
        runtime=" ".join(runtime().versions()[0]),
        limits=limits,
        metric=judge.metric_name,
        candidates=tuple(rows),
        chosen=chosen,
        certificate=certificate,
        layers=search.layers,
        samples=(len(splits.calibrate), len(splits.choose), len(splits.certify)),
        notes=tuple(dict.fromkeys(search.notes)),
        seconds=time.monotonic() - began,
    )
    write(found, folder / "compressed.json")
    if found.artefact is not None:
        inputs = OnnxRuntime().describe(folder / "model.onnx").inputs
        card = model_card(
            found,
            example_shape=tuple(splits.choose.inputs[0][:1].shape),
            input_names=tuple(each.name for each in inputs),
            dtype=str(splits.choose.inputs[0].dtype).removeprefix("torch."),
        )
        write_atomically(folder / "README.md", card.encode())
    return found


def answered_by(work: Workload | nn.Module, data: Any) -> Samples | Splits:
    """Data labelled by the network itself, for `compress` where there are no labels: what it then keeps is agreement.

    Args:
        work: the trained network, as for `compress`.
        data: inputs, as `Samples.of` takes them, or `Splits`; targets are not read.

    Raises:
        UsageError: its outputs are no scores of classes.
        UserCodeError: it raised.
    """
    model, _ = _trained(work)
    if isinstance(data, Splits):
        parts = (answered(model, part) for part in (data.calibrate, data.choose, data.certify))
        return Splits(**dict(zip(("calibrate", "choose", "certify"), parts, strict=True)))
    return answered(model, data)


def _finals(
    search: Search,
    rows: list[Candidate],
    model: nn.Module,
    splits: Splits,
    metric: Metric | None,
    higher_is_better: bool,
    finalists: int,
    folder: Path,
) -> tuple[list[Candidate], int, Certificate | None]:
    """The rows with reasons, the chosen one's index, and its certificate."""
    rows = [row if row.settings is None else replace(row, refused=_why_not(search, row)) for row in rows]
    order = sorted(
        (index for index, row in enumerate(rows) if index and not row.refused),
        key=lambda i: (
            (rows[i].file_bytes, rows[i].drop) if search.smallest else (rows[i].drop, rows[i].file_bytes)
        ),
    )
    ledger = Ledger(folder, planned=finalists)
    looked: tuple[int, Certificate] | None = None
    looks = 0
    for index in order:
        tuned = _tuned(search, rows[index])
        artefact, tuned = _prepared(search, tuned)
        rows[index] = replace(tuned, refused=search.broken(tuned))
        if rows[index].refused or looks == finalists:
            continue
        search.say("certifying on samples that chose nothing")
        looks += 1
        candidate = as_executed(artefact, rows[index].flags)
        certificate = certify(
            model, candidate, splits.certify, tolerance=search.limits.max_drop, metric=metric,
            higher_is_better=higher_is_better, looks=ledger,
        )  # fmt: skip
        looked = looked or (index, certificate)
        if certificate.decision is Decision.ACCEPTED:
            _keep(folder, artefact, rows[index], certificate)
            return _beside(rows, index), index, certificate
        rows[index] = replace(rows[index], refused=f"certificate: {certificate.decision.value}")
    return rows, -1, looked[1] if looked else None


def _beside(rows: list[Candidate], chosen: int) -> list[Candidate]:
    """The rows, with a reason for those that would have done."""
    reason = "another keeps the limits and is better"
    return [
        row if index in (0, chosen) or row.refused else replace(row, refused=reason)
        for index, row in enumerate(rows)
    ]


def _why_not(search: Search, row: Candidate) -> str:
    if not search.holds(row):
        return "quality does not hold on the choosing samples"
    # memory may be brought within its limit by the runtime's settings: that is seen when a candidate's turn comes
    return "" if search.over_ram(row) else search.broken(row)


def _tuned(search: Search, row: Candidate) -> Candidate:
    """A candidate under the runtime's settings that keep the limits on memory and latency."""
    limits = search.limits
    if not limits.ram or row.ram_bytes <= limits.ram:
        return row
    search.say("tuning the runtime's settings")
    found = tune(
        search.artefact(row),
        search.example,
        ram=limits.ram,
        grid=Grid(external_data=(False,)),  # one file to ship
        cache=search.folder / "tuning",
        progress=search.say,
    )
    if found.best is None:
        return row
    flags = found.best.flags
    ratio = search.latency(search.artefact(row), flags)
    return replace(row, flags=flags, ram_bytes=found.best.cost.above_base_bytes, latency=ratio)


def _prepared(search: Search, row: Candidate) -> tuple[Path, Candidate]:
    """The file that is shipped: where the runtime's settings ask for it, the graph optimized ahead."""
    artefact, flags = search.artefact(row), row.flags
    if not isinstance(flags, OnnxRuntimeFlags) or not flags.ahead:
        return artefact, row
    ahead = artefact.with_suffix(".ahead.onnx")
    made = OnnxRuntime().prepare(artefact, flags, ahead)
    if flags.level is OptimizationLevel.ALL:
        search.notes.append(
            "the file is optimized ahead for the vector width of this CPU: build it where it will run"
        )
    return ahead, replace(row, file_bytes=made.file_bytes, gzip_bytes=made.gzip_bytes, sha256=made.sha256)


def _keep(folder: Path, artefact: Path, row: Candidate, certificate: Certificate) -> None:
    """Copy the chosen artefact and its certificate where the user looks for them."""
    part = folder / "model.onnx.part"
    shutil.copyfile(artefact, part)
    os.replace(part, folder / "model.onnx")
    write(certificate, folder / "certificate.json")


def _trained(work: Workload | nn.Module) -> tuple[nn.Module, str]:
    if isinstance(work, nn.Module):
        return copy.deepcopy(work).eval(), type(work).__name__
    if not isinstance(work, Workload):
        raise UsageError(f"compress takes a module or a Workload, not {type(work).__name__}")
    try:
        return work.model().eval(), work.name
    except Exception as error:
        raise UserCodeError(f"{work.name}: its model() raised {type(error).__name__}: {error}") from error


def _key(model: nn.Module, splits: Splits, learn: Samples, effort: Effort, limits: Limits, seed: int) -> str:
    """Everything that a row depends on besides its settings."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    prints = (splits.calibrate.fingerprint, splits.choose.fingerprint, learn.fingerprint)
    made = asdict(effort.distillation), limits.max_drop, seed, torch.__version__, __version__
    return f"{digest.hexdigest()} {prints} {made}"
