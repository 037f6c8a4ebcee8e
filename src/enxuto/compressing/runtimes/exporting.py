"""What every export starts with: a copy of the model in eval mode, traced quietly, with errors that say where."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..silence import quietly

_OP = re.compile(r"op='(?P<op>[\w.]+)'")
_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in')
_COLOUR = re.compile(r"\x1b?\[\d+m")


def inputs_of(example_inputs: Any) -> tuple[Tensor, ...]:
    """The example as a tuple of tensors.

    Raises:
        UsageError: it is neither a tensor nor a tuple of them.
    """
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not given or not all(isinstance(value, Tensor) for value in given):
        raise UsageError("example_inputs is a tensor, or the tuple of tensors that forward() takes")
    return tuple(value.detach() for value in given)


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode, its parameters without gradients.

    Raises:
        UsageError: the model is a TorchScript module, which no exporter takes.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{type(model).__name__} is a TorchScript module, which torch.export cannot read: "
            "give the nn.Module that it was scripted or traced from"
        )
    return copy.deepcopy(model).eval().requires_grad_(False)


def traced(model: nn.Module, example_inputs: Any, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """The model as an ExportedProgram; the model, the generators and the console stay as they are.

    Raises:
        UsageError: `torch.export` cannot trace the model; the message has the line of the user's code.
    """
    inputs, shapes = inputs_of(example_inputs), None
    if dynamic_batch:
        inputs = tuple(_two_rows(tensor) for tensor in inputs)
        shapes = tuple({0: torch.export.Dim("batch")} if t.dim() else None for t in inputs)
    copied = eval_copy(model)
    try:
        with quietly(), torch.no_grad():
            return torch.export.export(copied, inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch.export lets every kind through
        raise UsageError(_why_not_traced(model, error)) from error


def not_converted(runtime: str, program: torch.export.ExportedProgram, error: Exception) -> UsageError:
    """The error for a traced model that a runtime cannot express: which op, and in which module."""
    text = " ".join(str(e) for e in (error, error.__cause__) if e is not None)
    found = _OP.search(text)
    if found is None:
        first = _COLOUR.sub("", text).strip().splitlines()[0]
        return UsageError(f"{runtime} cannot express this model: {first}")
    op = found["op"]
    where = _module_of(program, op)
    return UsageError(
        f"{runtime} has no translation of the op {op}{f', used in module {where!r}' if where else ''}; "
        "replace it in forward() with ops that have one"
    )


def _two_rows(tensor: Tensor) -> Tensor:
    """A batch of at least two: `torch.export` takes a size of 1 for a constant."""
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _why_not_traced(model: nn.Module, error: Exception) -> str:
    text = str(error)
    kind = type(error).__name__
    places = [place for place in _PLACE.finditer(text) if "/torch/" not in place["file"]]
    where = f" at {places[-1]['file']}:{places[-1]['line']}" if places else ""
    first = next((line for line in text.splitlines() if line.strip()), kind)
    return (
        f"{type(model).__name__} cannot be exported{where}: {first} ({kind}); "
        "forward() must not branch on the values of tensors, nor leave torch"
    )


def _module_of(program: torch.export.ExportedProgram, op: str) -> str | None:
    """The path of the innermost module that calls an op; decompositions keep the op's last name."""
    last = op.rpartition(".")[2]
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        if node.op == "call_function" and (name == last or name.endswith(f"_{last}")):
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            return str(paths[-1]) if paths and paths[-1] else None
    return None
