"""`export`: a plan as a readable script in plain PyTorch, for whoever wants no dependency on enxuto."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..records import (
    Checkpoint,
    EarlyRelease,
    FrozenBatchNorm,
    MicroBatches,
    OneKernelStep,
    OptimizerInBackward,
    Plan,
    SingleTensorStep,
    write_atomically,
)
from ..techniques.regions import PRODUCTS
from ..units import format_bytes


def export(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan as a Python module with two functions: `fit_model(model)` and `train_step(...)`.

    Raises:
        RecordError: the file cannot be written.
    """
    write_atomically(path, script(plan).encode())


def script(plan: Plan) -> str:
    """The text of the module."""
    checkpoints = [a for a in plan.actions if isinstance(a, Checkpoint)]
    kinds = {type(a) for a in plan.actions}
    pieces = next((a.pieces for a in plan.actions if isinstance(a, MicroBatches)), 1)
    parts = [_head(plan), _IMPORTS, _checkpoint_part(checkpoints, frozen=FrozenBatchNorm in kinds)]
    if OptimizerInBackward in kinds:
        parts.append(_IN_BACKWARD)
    parts.append(
        _step_part(
            pieces,
            fused=OneKernelStep in kinds,
            single=SingleTensorStep in kinds,
            release=EarlyRelease in kinds,
            in_backward=OptimizerInBackward in kinds,
        )
    )
    return "\n".join(parts)


def _head(plan: Plan) -> str:
    before, after = format_bytes(plan.before.peak), format_bytes(plan.after.peak)
    lines = [f"  {number}. {lever.title}" for number, lever in enumerate(plan.levers, 1)]
    listed = "\n".join(lines) or "  nothing: the step fits as it is"
    return (
        f'"""{_plain(plan.workload)} within {format_bytes(plan.budget.bytes)}: written by enxuto, plain PyTorch.\n\n'
        f"The predicted peak of a step falls from {before} to {after}, by\n{_plain(listed)}\n\n"
        "Use: call fit_model(model) once, then train_step(model, optimizer, loss, batch) for every batch.\n"
        '"""\n'
    )


def _plain(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")


_IMPORTS = """from __future__ import annotations

import contextlib
import itertools

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
"""


_FREEZING = """
    for norm in _norms([model]):
        norm.forward = _in_eval(norm)"""

_IN_EVAL = """

def _in_eval(norm):
    forward = norm.forward

    def frozen(value):
        training, norm.training = norm.training, False
        try:
            return forward(value)
        finally:
            norm.training = training

    return frozen
"""


def _checkpoint_part(actions: Sequence[Checkpoint], *, frozen: bool) -> str:
    # inner regions first, so that outer ones wrap what is wrapped already
    ordered = sorted(actions, key=lambda action: -min(path.count(".") for path in action.modules))
    ordered.sort(key=lambda action: len(action.modules))
    rows = "".join(f"    ({a.modules!r}, {a.keep!r}, {a.random!r}),\n" for a in ordered)
    return f'''
#: Modules that run again in the backward: (paths, products that are kept, whether random numbers are drawn).
REGIONS = (
{rows})
PRODUCTS = {PRODUCTS!r}


def fit_model(model):
    """Checkpoint the regions of the plan; the forwards of its modules are replaced."""
    modules = dict(model.named_modules(remove_duplicate=False)){_FREEZING if frozen else ""}
    for paths, keep, random in REGIONS:
        members = [modules[path] for path in paths]
        first, others = members[0], members[1:]
        forwards = [member.forward for member in members]
        first.forward = _region(forwards, _norms(members), keep, random)
        for member in others:
            member.forward = _passed_on
    return model


def _region(forwards, norms, keep, random):
    def run(value, *rest, **named):
        for forward in forwards:
            value = forward(value, *rest, **named)
        return value

    def contexts():
        if not keep:
            return contextlib.nullcontext(), _counted_once(norms)
        counter = itertools.count()

        def policy(context, op, *args, **kwargs):
            kept = str(op).startswith(PRODUCTS) and next(counter) in keep
            return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

        forward, again = create_selective_checkpoint_contexts(policy)
        stack = contextlib.ExitStack()
        return forward, _both(again, _counted_once(norms), stack)

    def region(*args, **kwargs):
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        return checkpoint(
            run, *args, use_reentrant=False, preserve_rng_state=random, context_fn=contexts, **kwargs
        )

    return region


def _passed_on(value, *rest, **named):
    """The first module of the region has run this one already."""
    return value


def _norms(members):
    kind = torch.nn.modules.batchnorm._NormBase
    return [module for member in members for module in member.modules() if isinstance(module, kind)]


@contextlib.contextmanager
def _both(first, second, stack):
    with first, second:
        yield


@contextlib.contextmanager
def _counted_once(norms):
    """Batch norms must not update their statistics again when a region runs again."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, _ in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counted in before:
            norm.momentum, norm.num_batches_tracked = momentum, counted
{_IN_EVAL if frozen else ""}'''


_IN_BACKWARD = '''

def update_in_backward(optimizer):
    """Update each parameter as soon as its gradient is complete; do not clip or accumulate gradients."""

    def update(parameter):
        groups = optimizer.param_groups
        (own,) = [g for g in groups if any(p is parameter for p in g["params"])]
        optimizer.param_groups = [{**own, "params": [parameter]}]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
        parameter.grad = None

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(update)
'''


def _step_part(pieces: int, *, fused: bool, single: bool, release: bool, in_backward: bool) -> str:
    setup = []
    if single:
        setup.append("    for group in optimizer.param_groups:\n        group.update(foreach=False)\n")
    if fused:
        setup.append(
            "    for group in optimizer.param_groups:\n        group.update(fused=True, foreach=False)\n"
        )
    if in_backward:
        setup.append("    update_in_backward(optimizer)\n")
    prepared = (
        '\n\ndef fit_optimizer(optimizer):\n    """Call once, before the first step."""\n'
        + "".join(setup)
        + "    return optimizer\n"
        if setup
        else ""
    )
    body = (
        f"""    total = 0.0
    count = len(batch[0]) if isinstance(batch, (tuple, list)) else len(batch)
    for piece in cut(batch, {pieces}):
        size = len(piece[0]) if isinstance(piece, (tuple, list)) else len(piece)
        value = loss(model, piece)  # a mean over the piece's items
        value.backward(torch.full_like(value, size / count))
        total += value.item() * size / count
"""
        if pieces > 1
        else "    value = loss(model, batch)\n    value.backward()\n    total = value.item()\n"
    )
    cutting = (
        '''

def cut(batch, pieces):
    """The batch's tensors in pieces along their first dimension."""
    if isinstance(batch, torch.Tensor):
        return batch.tensor_split(pieces)
    return list(zip(*(cut(part, pieces) for part in batch)))
'''
        if pieces > 1
        else ""
    )
    freed = "    optimizer.zero_grad(set_to_none=True)\n" if release else ""
    return (
        f"{prepared}{cutting}\n\ndef train_step(model, optimizer, loss, batch):\n"
        f'    """One update; returns the loss of the batch."""\n'
        f"    optimizer.zero_grad(set_to_none=True)\n{body}    optimizer.step()\n{freed}    return total\n"
    )
