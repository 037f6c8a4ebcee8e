"""Why a run died of memory: what it asked for, what it held, the causes in their order, and a plan that fits.

The plan is that of `enxuto.fit` for the model, the optimizer and the shapes of the step that died, traced dry: it
needs no memory of its own. The loss is not known from outside, so the output's own `.loss` or its sum stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _torch_private as private
from ..errors import EnxutoError
from ..records import UNKNOWN, Autopsy, Budget, Plan, Recording, write
from ..reporting import write_html
from ..workload import Workload, live_workload
from .diagnosis import SITUATIONS, diagnose

if TYPE_CHECKING:
    from .watch import Watch

_FILE = "autopsy.json"


def autopsy(run: Watch, *, plan: bool = True) -> Autopsy | None:
    """What killed a watched run; None where memory did not.

    Args:
        run: a watch that is over, its model still alive.
        plan: also look for a plan of the step that died which would have fitted; takes seconds to minutes.
    """
    recording = run.recording
    failure = next((each for each in reversed(recording.failures) if not each.handled), None)
    if failure is None:
        return None
    diagnosis = diagnose(recording)
    receipt = max(recording.explanations, key=lambda each: each.peak, default=None)
    found, why = _plan(run, recording) if plan else (None, "not asked for")
    ruled_out = [text for cause in diagnosis.causes for text in cause.ruled_out]
    return Autopsy(
        source=recording.source,
        failure=failure,
        causes=diagnosis.causes,
        ruled_out=tuple(dict.fromkeys([*ruled_out, *_not_found(recording, diagnosis.silent)])),
        receipt=receipt,
        plan=found,
        no_plan=why,
    )


def write_autopsy(found: Autopsy, recording: Recording, folder: Path) -> Autopsy:
    """Write an autopsy, the run and its page into a folder, and a snapshot in PyTorch's format where CUDA ran.

    Raises:
        RecordError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = ["recording.json", "report.html"]
    write(recording, folder / "recording.json")
    write_html(recording, folder / "report.html")
    if recording.source.device.startswith("cuda") and private.dump_cuda_snapshot(folder / "snapshot.pickle"):
        files.append("snapshot.pickle")
    found = replace(found, files=tuple(files))
    write(found, folder / _FILE)
    return found


def _not_found(recording: Recording, silent: tuple[str, ...]) -> list[str]:
    texts = {
        "M03": "growth: no tensor outlived its step",
        "M04": "gradients in evaluation",
        "M05": "outputs kept through validation",
    }
    if not recording.recorded:
        return []
    return [texts[id] for id in SITUATIONS if id in silent and id in texts]


def _plan(run: Watch, recording: Recording) -> tuple[Plan | None, str]:
    """The cheapest plan within the budget, or why there is none."""
    budget = recording.source.budget or _of_device(recording)
    if not budget:
        return None, "no budget is known: run with --budget SIZE"
    work = run.last_workload()
    if work is None:
        return None, "the model or its optimizer was not seen, or is gone"
    try:
        from ..fitting import Fit

        fitted = Fit(work, calibrate=False).within(Budget(bytes=budget), measure=False)
    except (EnxutoError, RuntimeError, TypeError, ValueError) as error:
        return None, f"its step could not be traced dry: {str(error).splitlines()[0][:200]}"
    if not fitted.plan.fits:
        return fitted.plan, f"no lever brings it below {budget:,} bytes"
    return fitted.plan, ""


def _of_device(recording: Recording) -> int:
    device = recording.failures[-1].device
    return 0 if device == UNKNOWN else device


def workload_of(model: Any, optimizer: Any, inputs: Inputs, name: str) -> Workload:
    """The step that a model and an optimizer make, with inputs like those of a call of the model."""
    live = live_workload(model, (), optimizer=optimizer, name=name)
    return replace(live, batch=inputs, batch_size=inputs.size)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Makes inputs of a call's shapes anew, of any batch size, without holding its own: zeros."""

    leaves: tuple[Any, ...]
    structure: Any
    size: int | None

    @classmethod
    def like(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """The shapes of what a model is given; other arguments than tensors are kept as they are."""
        leaves, structure = private.pytree.tree_flatten((args, kwargs))
        sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
        made = tuple(_Zeros.like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        return cls(made, structure, sizes.pop() if len(sizes) == 1 else None)

    def __call__(self, n: int | None = None) -> Any:
        filled = [leaf.made(n) if isinstance(leaf, _Zeros) else leaf for leaf in self.leaves]
        args, kwargs = private.pytree.tree_unflatten(filled, self.structure)
        return tuple(args) if args else kwargs


@dataclass(frozen=True, slots=True)
class _Zeros:
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool

    @classmethod
    def like(cls, tensor: Tensor) -> _Zeros:
        return cls(tuple(tensor.shape), tensor.dtype, tensor.requires_grad and tensor.is_leaf)

    def made(self, n: int | None) -> Tensor:
        shape = (n, *self.shape[1:]) if n is not None and self.shape else self.shape
        return torch.zeros(shape, dtype=self.dtype, requires_grad=self.requires_grad)
