"""Kernel scratch: what an op takes while it runs and tensors do not show, from a table measured per machine.

A row belongs to one op call by shape, layout and type (a Timeline's signature), on one torch, CPU and thread
count. Nothing is fitted to a model. Rows of large batches are extended from two small ones, since scratch and
outputs grow affinely with the batch (`docs/log.md` has the measurement).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..records import write_atomically
from .calibration import OpMemory, measure_all

#: Arguments that carry the batch, as {argument: dimension}. Calls of these ops are measured at two small
#: batches instead of a large one.
_BATCHED: dict[str, dict[int, int]] = {
    "aten.convolution.default": {0: 0},
    "aten.convolution_backward.default": {0: 0, 1: 0},
    "aten.native_batch_norm.default": {0: 0},
    "aten.native_batch_norm_backward.default": {0: 0, 1: 0},
    "aten.native_layer_norm.default": {0: 0},
    "aten.native_group_norm_backward.default": {0: 0, 1: 0},
    "aten.max_pool2d_with_indices.default": {0: 0},
    "aten.max_pool2d_with_indices_backward.default": {0: 0, 1: 0, 7: 0},
    "aten.avg_pool2d.default": {0: 0},
    "aten.avg_pool2d_backward.default": {0: 0, 1: 0},
    "aten.mean.dim": {0: 0},
    "aten._scaled_dot_product_flash_attention_for_cpu.default": {0: 0, 1: 0, 2: 0},
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default": {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "aten.mkldnn_rnn_layer.default": {0: 1, 5: 1, 6: 1},
    "aten.mkldnn_rnn_layer_backward.default": dict.fromkeys((0, 5, 6, 7, 8, 9, 10, 11, 12), 1),
    "aten.embedding_dense_backward.default": {0: 0, 1: 0},
    "aten.upsample_nearest2d.default": {0: 0},
    "aten.upsample_bilinear2d.default": {0: 0},
}
#: Ops whose kernels take nothing beside their outputs when types agree: BLAS writes straight into them.
_MATRIX_PRODUCTS = frozenset(
    {"aten.mm.default", "aten.addmm.default", "aten.bmm.default", "aten.baddbmm.default"}
)
#: Ops that make or fill a tensor, or drop random numbers into one.
_FACTORIES = frozenset(
    {
        "empty",
        "empty_like",
        "zeros",
        "zeros_like",
        "ones",
        "ones_like",
        "full",
        "full_like",
        "new_empty",
        "new_zeros",
    }
    | {
        "empty_strided",
        "new_empty_strided",
        "arange",
        "fill_",
        "zero_",
        "copy_",
        "clone",
        "detach",
        "normal_",
    }
    | {"uniform_", "bernoulli_", "random_", "rand", "randn", "randint", "scalar_tensor", "lift_fresh", "set_"}
    | {"_local_scalar_dense", "resize_", "native_dropout", "_to_copy", "cat", "stack"}
)
_CHEAP_BYTES = (
    2**25
)  # a call whose arguments are larger runs at two smaller batches instead, where it has one
_MOST_BYTES = 2**28  # one that is larger still, and has no batch, is not run: its scratch is then assumed 0


@dataclass(frozen=True, slots=True)
class ScratchTable:
    """Measured op memory of one machine, kept as JSON between runs. `rows` maps a signature to its memory,
    None where the call could not be run; `path` None keeps it in memory only."""

    rows: dict[str, OpMemory | None]
    path: Path | None = None

    @classmethod
    def of_this_machine(cls) -> ScratchTable:
        """The table of this torch, CPU and thread count, in the user's cache folder; empty at first."""
        path = cache_folder() / f"scratch-{fingerprint(torch.get_num_threads())}.json"
        return cls(_stored(path), path)

    def save(self) -> None:
        """Write the table back, if it has a place and the place can be written; rows of other processes stay."""
        if self.path is None:
            return
        every = _stored(self.path) | self.rows
        rows = {key: None if row is None else [row.scratch, row.outputs] for key, row in every.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a read-only home costs a new measurement next time, nothing else
        if os.access(self.path.parent, os.W_OK):
            write_atomically(self.path, json.dumps({"machine": machine(), "rows": rows}).encode())

    def look_up(self, signature: str) -> OpMemory | None:
        """The memory of a call, extended from its small batches where it is a large one; None if unknown."""
        plan = _plan(signature)
        known = [self.rows.get(small) for small in plan.measured]
        if plan.only_scratch:
            return None if known[0] is None else OpMemory(known[0].scratch, ())
        if len(known) == 1 or not plan.measured:
            return known[0] if known else None
        low, high = known
        return None if low is None or high is None else _extended(low, high, plan)

    def missing(self, signatures: Iterable[str]) -> list[str]:
        """The calls to run so that `look_up` knows all of these."""
        wanted = dict.fromkeys(small for signature in signatures for small in _plan(signature).measured)
        return [signature for signature in wanted if signature not in self.rows]

    def measure(self, signatures: Sequence[str], progress: Callable[[int], None]) -> None:
        """Run the calls and keep what they took."""
        self.rows.update(measure_all(signatures, threads=torch.get_num_threads(), progress=progress))
        self.save()


def _stored(path: Path) -> dict[str, OpMemory | None]:
    """The rows that a file holds; none where there is no table yet, or not one of ours."""
    try:
        rows = json.loads(path.read_bytes())["rows"]
        return {key: None if row is None else OpMemory(row[0], tuple(row[1])) for key, row in rows.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


@cache
def needs_measuring(signature: str) -> bool:
    """Whether an op call can take memory that its outputs do not show."""
    name, args, _ = json.loads(signature)
    namespace, op, overload = name.split(".")
    function = getattr(getattr(getattr(torch.ops, namespace), op, None), overload, None)
    if function is None or op in _FACTORIES or op.startswith("_fused"):
        return False
    if op.startswith("_foreach"):
        return _takes_numbers(args)
    tensors = list(_tensors(args))
    if name in _MATRIX_PRODUCTS:
        return any(tensor[1] != "float32" for tensor in tensors)
    if torch.Tag.pointwise in function.tags:
        return _takes_numbers(args) or not all(_is_contiguous(tensor) for tensor in tensors)
    return bool(tensors)


def _takes_numbers(args: list[Any]) -> bool:
    """Whether a pointwise call turns a Python number into a tensor: 8 B, and its cast, while it runs."""
    return any(isinstance(arg, int | float) for arg in args)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which calls to run for one signature: itself, or one at each of the smaller `batches`."""

    measured: tuple[str, ...]
    batches: tuple[int, ...] = ()
    batch: int = 0
    only_scratch: bool = False  # the call stands for others of another shape: its outputs say nothing


@cache
def _plan(signature: str) -> _Plan:
    name, args, kwargs = json.loads(signature)
    if _is_contiguous_pointwise(name, args):
        return _Plan((json.dumps([name, [_as_one(arg) for arg in args], kwargs]),), only_scratch=True)
    size = _bytes_of(args)
    if size <= _CHEAP_BYTES:
        return _Plan((signature,))
    where = _BATCHED.get(name)
    batch = _batch_of(args, where) if where else 0
    if where and batch > 2:
        large = max(batch * _CHEAP_BYTES // size, 2)
        batches = (max(large // 2, 1), large)
        return _Plan(
            tuple(json.dumps([name, _at_batch(args, where, b), kwargs]) for b in batches), batches, batch
        )
    return _Plan((signature,)) if size <= _MOST_BYTES else _Plan(())


def _is_contiguous_pointwise(name: str, args: list[Any]) -> bool:
    namespace, op, overload = name.split(".")
    function = getattr(getattr(getattr(torch.ops, namespace), op, None), overload, None)
    if function is None or op.startswith("_foreach"):
        return function is not None
    return torch.Tag.pointwise in function.tags and all(map(_is_contiguous, _tensors(args)))


def _as_one(arg: Any) -> Any:
    """One element instead of a tensor, and a plain number: what numbers take depends on types alone."""
    if _is_tensor(arg):
        return [*arg[:2], [1] * len(arg[2]), [1] * len(arg[3])]
    if isinstance(arg, list):
        return [_as_one(item) for item in arg]
    return 0.5 if isinstance(arg, float) else arg


def _extended(low: OpMemory, high: OpMemory, plan: _Plan) -> OpMemory | None:
    """The line through two measured batches, read at the batch of the plan."""
    if len(low.outputs) != len(high.outputs):
        return None
    small, large = plan.batches

    def at(first: int, second: int) -> int:
        return max(second + round((plan.batch - large) * (second - first) / (large - small)), 0)

    outputs = tuple(at(a, b) for a, b in zip(low.outputs, high.outputs, strict=True))
    return OpMemory(at(low.scratch, high.scratch), outputs)


def _batch_of(args: list[Any], where: dict[int, int]) -> int:
    """The batch that all marked arguments agree on, 0 if they do not."""
    sizes = {
        args[index][2][dim]
        for index, dim in where.items()
        if index < len(args) and _is_tensor(args[index]) and len(args[index][2]) > dim
    }
    return sizes.pop() if len(sizes) == 1 else 0


def _at_batch(args: list[Any], where: dict[int, int], batch: int) -> list[Any]:
    return [
        _resized(arg, where[index], batch)
        if index in where and _is_tensor(arg) and len(arg[2]) > where[index]
        else arg
        for index, arg in enumerate(args)
    ]


def _resized(tensor: list[Any], dim: int, size: int) -> list[Any]:
    """A tensor's description with one dimension changed; dense layouts stay dense, in the same order."""
    kind, dtype, shape, stride = tensor
    shape = [size if i == dim else n for i, n in enumerate(shape)]
    if 0 in stride:  # expanded: its strides do not follow from its shape
        return [kind, dtype, shape, stride]
    order = sorted(range(len(shape)), key=lambda i: (stride[i], tensor[2][i]))
    dense = [0] * len(shape)
    step = stride[order[0]] if order else 1
    for i in order:
        dense[i] = step
        step *= shape[i]
    return [kind, dtype, shape, dense if _is_dense(tensor) else stride]


def _is_dense(tensor: list[Any]) -> bool:
    step = 1
    for size, stride in sorted(zip(tensor[2], tensor[3], strict=True), key=lambda pair: (pair[1], pair[0])):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _is_contiguous(tensor: list[Any]) -> bool:
    step = 1
    for size, stride in zip(reversed(tensor[2]), reversed(tensor[3]), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _is_tensor(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and value[0] == "tensor"


def _tensors(value: Any) -> Iterable[list[Any]]:
    if _is_tensor(value):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _tensors(item)


def _bytes_of(args: list[Any]) -> int:
    return sum(int(np.prod(tensor[2], dtype=np.int64)) * 4 for tensor in _tensors(args))


def machine() -> dict[str, str]:
    """What a table row depends on, besides the call."""
    return {
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "mkldnn": str(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
    }


def fingerprint(threads: int) -> str:
    return hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]


@cache
def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    base = os.environ.get("ENXUTO_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "enxuto"
