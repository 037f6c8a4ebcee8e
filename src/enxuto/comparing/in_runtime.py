"""Nets measured in onnxruntime: exported with batch norms folded, run one after the other, beside the first of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..compressing.folding import fold_batch_norms
from ..compressing.ram import forecast_ram
from ..compressing.runtimes import runtime
from ..compressing.runtimes.measuring import base_bytes, compare_latency, measure
from ..errors import EnxutoError, UndecidableError, UsageError
from ..records import ComparedNet, RuntimeFigures
from ..workload import Workload
from .examining import Asked, own_workloads, workloads

_RUNTIME = "onnxruntime"


def measured(
    rows: Sequence[ComparedNet],
    nets: Mapping[str, str | Workload],
    asked: Asked,
    *,
    say: Callable[[str], None],
) -> list[ComparedNet]:
    """The rows with what onnxruntime took for each net; latency is a ratio to the first that it can run.

    A net that cannot be exported keeps its other figures, and a note says why.

    Raises:
        MissingDependency: onnxruntime or its exporter is not installed.
    """
    runtime(_RUNTIME).imported()
    done: list[ComparedNet] = []
    with tempfile.TemporaryDirectory(prefix="enxuto-") as folder:
        reference: Path | None = None
        for place, row in enumerate(rows):
            if row.figures is None:
                done.append(row)
                continue
            say(f"onnxruntime: {row.target}")
            path = Path(folder) / f"{place}.onnx"
            try:
                figures = _figures(
                    _inference(nets.get(row.target, row.target), asked), path, reference or path
                )
            except (EnxutoError, RuntimeError, ValueError) as error:
                notes = (*row.figures.notes, f"not measured in onnxruntime: {error}")
                done.append(replace(row, figures=replace(row.figures, notes=notes)))
                continue
            reference = reference or path
            done.append(replace(row, measured=figures))
    return done


def _inference(net: str | Workload, asked: Asked) -> Workload:
    both = workloads(net, asked) if isinstance(net, str) else own_workloads(net, asked)
    return both[1]


def _figures(work: Workload, path: Path, reference: Path) -> RuntimeFigures:
    torch.manual_seed(0)
    model = work.model().eval()
    inputs = forward_inputs(model, work)
    with suppress(UndecidableError):  # what torch.fx cannot trace is exported as it is
        model = fold_batch_norms(model).model
    runs_in = runtime(_RUNTIME)
    artefact = runs_in.export(model, inputs, path)
    cost = measure(path, inputs, runtime=runs_in)
    forecast = forecast_ram(path, [tuple(t.shape) for t in inputs], base_bytes=base_bytes(runs_in))
    ratio = compare_latency((path, None), (reference, None), inputs, runtime=runs_in)
    return RuntimeFigures(
        runtime=_RUNTIME,
        file_bytes=artefact.file_bytes,
        predicted_ram=forecast.above_base_bytes,
        ram=cost.above_base_bytes,
        latency_ratio=ratio.ratio,
    )


def forward_inputs(model: nn.Module, work: Workload) -> tuple[Tensor, ...]:
    """The tensors that a Workload hands to its model, seen in one run of it.

    Raises:
        UsageError: it hands on anything but tensors by position.
    """
    seen: list[tuple[Any, Any]] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            work.loss(model, work.batch())
    finally:
        handle.remove()
    args, kwargs = seen[0] if seen else ((), {})
    if not args or kwargs or not all(isinstance(arg, Tensor) for arg in args):
        raise UsageError(f"{work.name} does not hand its model tensors by position, which an export needs")
    return tuple(args)
