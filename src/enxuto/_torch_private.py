"""Every private torch API that enxuto touches, each behind one name, with what happens where it is missing.

Tested on torch 2.13 and 2.14. Nothing here runs at import beyond looking the names up.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from .errors import UsageError

__all__ = [
    "CPU_ATTENTION",
    "CPU_ATTENTION_BACKWARD",
    "DRY_REFUSALS",
    "BatchNorms",
    "DryCopies",
    "DryMode",
    "FakeTensor",
    "PythonNode",
    "TorchDispatchMode",
    "UnsupportedFakeTensorException",
    "backward_node",
    "dispatch_modes",
    "dump_cuda_snapshot",
    "hook_saved_number",
    "hooks_allowed",
    "is_traceable_wrapper_subclass",
    "node_sequence",
    "observed_backward",
    "observed_module_calls",
    "observed_rng_states",
    "onnx_registry_read_once",
    "pytree",
    "refused_clipping",
    "saved_tensor_hooks",
    "storage_key",
    "suspended_saved_tensor_hooks",
    "tensor_hooks",
    "tensor_sequence",
    "unwrapped",
]

#: Attention on the CPU, where torch fuses it.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

#: Every norm that keeps running statistics.
BatchNorms = torch.nn.modules.batchnorm._NormBase

#: What dry tensors raise when an answer depends on values that do not exist.
DRY_REFUSALS = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class DryMode(FakeTensorMode):
    """FakeTensorMode that survives what models do while they are built.

    Copying a module copies its dry tensors, which point to their mode: the copy must keep this one. And
    `module.to(...)` swaps tensors, which torch refuses while the mode's own memo refers to them weakly.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> DryMode:
        return self

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Active around user code that builds modules."""
        swap = torch.utils.swap_tensors
        converter = getattr(self.fake_tensor_converter, "meta_converter", None)
        memo = getattr(converter, "tensor_memo", None)

        def forgetful(left: Any, right: Any) -> None:
            if memo is not None:
                memo.clear()
            swap(left, right)  # type: ignore[no-untyped-call]

        torch.utils.swap_tensors = forgetful
        try:
            with self, DryCopies(self), warnings.catch_warnings():
                # torch's own deepcopy asks every tensor for its address
                warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
                yield
        finally:
            torch.utils.swap_tensors = swap


class DryCopies(FakeCopyMode):
    """Makes `copy.deepcopy` of real tensors dry; dry ones are copied as tensors of their own."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),  # type: ignore[override]
        kwargs: dict[str, Any] | None = None,  # type: ignore[override]
    ) -> Any:
        if args and isinstance(args[0], FakeTensor):
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


#: The base of the nodes that a `torch.autograd.Function` makes; what its `ctx` is given stays on them.
PythonNode: type = torch.autograd.function.BackwardCFunction

_current_node: Callable[[], Any] = getattr(torch._C, "_current_autograd_node", lambda: None)
_OPTIONAL_TENSOR = torch._C.OptionalType(torch._C.TensorType.get())
_SavedTensor: Any = getattr(torch._C._autograd, "SavedTensor", ())
_next_sequence: Callable[[], int] | None = getattr(torch._C._autograd, "_get_sequence_nr", None)


def backward_node() -> Any:
    """The autograd node that runs now, None outside a backward (or where torch does not tell)."""
    return _current_node()


def node_sequence(node: Any) -> int:
    """The number that links a backward node to the forward op that made it, -1 if it has none."""
    number = getattr(node, "_sequence_nr", None)
    # AccumulateGrad nodes carry 2^64 - 1: they were made by no op
    return -1 if number is None or (value := number()) >= 2**63 else int(value)


def dispatch_modes() -> int:
    """How many dispatch modes are active in this thread; 0 where torch does not tell."""
    count: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    return count()


def dump_cuda_snapshot(path: os.PathLike[str]) -> bool:
    """Write the CUDA allocator's snapshot in PyTorch's own format, for its memory viewer; whether it could be."""
    dump = getattr(torch.cuda.memory, "_dump_snapshot", None)
    if dump is None or not torch.cuda.is_initialized():
        return False
    dump(os.fspath(path))
    return True


def saved_tensor_hooks() -> Any:
    """The pack and unpack hooks that a tensor saved now would go through, None where there are none."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore: None)
    return top(True)


def hooks_allowed() -> bool:
    """Whether hooks for saved tensors may be installed now: not inside of torch.func's transforms."""
    allowed = getattr(torch._C._autograd, "_saved_tensors_hooks_is_enabled", lambda: True)
    return bool(allowed())


def takes_tensor(argument: Any) -> bool:
    """Whether an argument of an op's schema is one tensor, or none."""
    return bool(argument.type.isSubtypeOf(_OPTIONAL_TENSOR))


def hook_saved_number(
    node: Any, argument: str, pack: Callable[[torch.Tensor], Any], unpack: Callable[[Any], torch.Tensor]
) -> None:
    """Hook the tensor that a node saved of a Python number, if it saved this argument at all: the default
    hooks for saved tensors pass numbers over."""
    saved = getattr(node, f"_raw_saved_{argument}", None)
    if not isinstance(saved, _SavedTensor):
        return
    with torch._C._DisableTorchDispatch():  # a mode would be shown a plain number, and lose the tensor
        if getattr(node, f"_saved_{argument}") is not None:
            saved.register_hooks(pack, unpack)


def tensor_sequence() -> int:
    """The number of the autograd node made last: inside a forward op's dispatch, that op's own node."""
    return _next_sequence() - 1 if _next_sequence is not None else -1


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The plain tensor inside the wrappers that torch.func puts around it while it transforms."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def tensor_over(reference: StorageWeakRef, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """A vector over the storage that a weak reference means; None where that is gone.

    A fake mode's cache would keep the storage that it sees given to `set_`, so it is off meanwhile.
    """
    storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    if storage is None:
        return None
    vector = torch.empty(0, dtype=dtype, device=device)
    mode = getattr(vector, "fake_mode", None)
    cached = getattr(mode, "cache_enabled", False)
    if cached:
        mode.cache_enabled = False  # type: ignore[union-attr]
    try:
        return vector.set_(storage)
    finally:
        if cached:
            mode.cache_enabled = True  # type: ignore[union-attr]


def storage_key(storage: torch.UntypedStorage) -> int:
    """The identity of the memory behind a storage; two Python wrappers of one storage agree on it."""
    return storage._cdata  # type: ignore[no-any-return]


def tensor_hooks(tensor: torch.Tensor) -> tuple[tuple[Any, ...], ...]:
    """The hooks of a tensor: on its gradient, and after a gradient was accumulated."""
    tables = (getattr(tensor, name, None) for name in ("_backward_hooks", "_post_accumulate_grad_hooks"))
    return tuple(tuple((table or {}).values()) for table in tables)


@contextlib.contextmanager
def observed_backward(enter: Callable[[], None], leave: Callable[[], None]) -> Iterator[None]:
    """Call `enter` and `leave` around every run of the autograd engine, whoever starts it."""
    run = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def observed(*args: Any, **kwargs: Any) -> Any:
        enter()
        try:
            return run(*args, **kwargs)
        finally:
            leave()

    torch.autograd._engine_run_backward = observed  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]


@contextlib.contextmanager
def observed_rng_states(made: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Tell of every random state that torch hands out as a tensor: checkpointing keeps one per call, and no
    op makes it."""
    read = torch.get_rng_state

    def observed() -> torch.Tensor:
        state = read()
        made(state)
        return state

    torch.get_rng_state = observed
    try:
        yield
    finally:
        torch.get_rng_state = read


@contextlib.contextmanager
def observed_loads(loaded: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Tell of every storage that `torch.load` brings in, where it comes to lie: on the device asked for.

    A restorer of torch's own kind that comes before all others and asks them (`torch.serialization.register_package`
    adds one and takes none away). What a function given as `map_location` restores by itself is not seen, nor is
    anything where there is no such registry.
    """
    registry = getattr(torch.serialization, "_package_registry", None)
    if not isinstance(registry, list):
        yield
        return

    def restore(storage: Any, location: str) -> Any:
        others = (each for _, _, each in registry if each is not restore)
        restored = next((result for each in others if (result := each(storage, location)) is not None), None)
        if isinstance(restored, torch.UntypedStorage):
            loaded(restored)
        return restored

    entry = (-1, lambda storage: None, restore)
    registry.insert(0, entry)
    try:
        yield
    finally:
        registry.remove(entry)


@contextlib.contextmanager
def observed_module_calls(
    enter: Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], None], leave: Callable[[Any], None]
) -> Iterator[None]:
    """Call `enter` and `leave` around every module call, keyword arguments and exceptions included; `leave` is
    given what the call returns, None after an exception.

    One patched method instead of hooks: no module is changed, and the extra frame holds no tensor that
    torch's own frames do not hold already.
    """
    call = torch.nn.Module.__call__

    def observed(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        enter(self, args, kwargs)
        result = None
        try:
            result = call(self, *args, **kwargs)
        finally:
            leave(result)
        return result

    torch.nn.Module.__call__ = observed  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.__call__ = call  # type: ignore[method-assign]


@contextlib.contextmanager
def suspended_saved_tensor_hooks(
    pack: Callable[[Any], Any], unpack: Callable[[Any], Any], suspended: Callable[[bool], None]
) -> Iterator[None]:
    """Install saved-tensor hooks, and take them off wherever torch.func, which refuses them, asks for none."""
    graph = torch.autograd.graph
    disable = graph.disable_saved_tensors_hooks
    push = torch._C._autograd._push_saved_tensors_default_hooks
    pop = torch._C._autograd._pop_saved_tensors_default_hooks
    depth = 0

    @contextlib.contextmanager
    def polite(message: str) -> Iterator[None]:
        nonlocal depth
        if depth == 0:
            pop()
            suspended(True)
        depth += 1
        try:
            with disable(message):
                yield
        finally:
            depth -= 1
            if depth == 0:
                push(pack, unpack)
                suspended(False)

    graph.disable_saved_tensors_hooks = polite  # type: ignore[assignment]
    push(pack, unpack)
    try:
        yield
    finally:
        pop()
        graph.disable_saved_tensors_hooks = disable


@contextlib.contextmanager
def refused_clipping(message: str) -> Iterator[None]:
    """Raise a UsageError wherever gradients are clipped by norm or value, however the function was imported.

    `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` look up module globals; those are replaced. Where
    they are missing, nothing is watched.
    """
    clip = torch.nn.utils.clip_grad
    watched = [n for n in ("_get_total_norm", "_group_tensors_by_device_and_dtype") if hasattr(clip, n)]
    before = {name: getattr(clip, name) for name in watched}

    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError(message)

    for name in watched:
        setattr(clip, name, refuse)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(clip, name, function)


_onnx_functions: dict[
    int, dict[Any, list[Any]]
] = {}  # by opset, as the first export of this process read them


@contextlib.contextmanager
def onnx_registry_read_once() -> Iterator[None]:
    """In the block `torch.onnx.export` builds its registry of 500 functions from what an earlier one parsed.

    Parsing takes two thirds of the export of a small net, anew each time
    (torch/onnx/_internal/exporter/_registration.py, `ONNXRegistry.from_torchlib`). Without that method as it was
    in torch 2.13 nothing is changed.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry as Registry

        original: Any = Registry.__dict__["from_torchlib"]
        usual = int(Registry().opset_version)
    except (ImportError, KeyError, AttributeError):
        yield
        return

    def from_torchlib(cls: Any, opset_version: int = usual) -> Any:
        if opset_version not in _onnx_functions:
            first = original.__get__(None, cls)(opset_version=opset_version)
            _onnx_functions[opset_version] = first.functions
        registry = cls()
        registry._opset_version = opset_version
        registry.functions = {op: list(ways) for op, ways in _onnx_functions[opset_version].items()}
        return registry

    method: Any = classmethod(from_torchlib)
    setattr(Registry, "from_torchlib", method)  # noqa: B010 - a method of the library, for the block
    try:
        yield
    finally:
        setattr(Registry, "from_torchlib", original)  # noqa: B010
