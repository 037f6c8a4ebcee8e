"""The recorder: one dispatch mode that writes down every block of memory, whatever the tensors are.

It tracks storages, never tensors, and holds weak references only, so that it does not lengthen the lives it
observes. Saved-tensor hooks tell a saved activation from a temporary. In the dry world the pack hook hands
autograd a *substitute* with a storage of its own: the original then dies when the forward lets go of it (its
natural death), and the substitute's release shows the save's end, both in one run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .. import _torch_private as private
from ..devices import OpMemory
from ..records import CATEGORY_CODE, PHASE_CODE, Category, Phase
from .flops import FORMULAS
from .sites import SiteTable

_NATURAL, _HELD, _LENT = range(3)  # what the death of a storage means: see _StorageRef
_BACKWARD = PHASE_CODE[Phase.BACKWARD]
_UNSET = -1
_NONE_DUE: tuple[int, Callable[[], None]] = (_UNSET, lambda: None)


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    """A weak reference that knows which storage and block it stands for and what its death means: the
    natural death of a block, nothing (a substitute held by autograd), or a save's local end (a substitute
    lent to a backward node)."""

    __slots__ = ("block", "key", "role", "use")

    key: int
    block: int
    role: int
    use: tuple[int, int]


class Survivor(NamedTuple):
    """A block that is still alive: the weak reference to its storage, its bytes, the index of the line that made
    it (-1: none), and whether autograd keeps it."""

    ref: weakref.ref[torch.UntypedStorage]
    nbytes: int
    site: int
    saved: bool


class _Held:
    """What autograd keeps for a saved tensor; its own end is the save's release."""

    __slots__ = ("recorder", "save", "tensor")

    def __init__(self, recorder: Recorder, save: int, tensor: Tensor) -> None:
        self.recorder, self.save, self.tensor = recorder, save, tensor

    def __del__(self) -> None:
        self.recorder._released(self.save)


class _OpInfo:
    """What is true of every call of one op, looked up once."""

    __slots__ = ("flops", "is_view", "makes_several", "name", "tensors", "writes")

    def __init__(self, func: Any) -> None:
        arguments = func._schema.arguments
        self.name = str(func)
        self.writes = [
            (index, argument.name)
            for index, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        self.tensors = [
            (index, argument.name)
            for index, argument in enumerate(arguments)
            if private.takes_tensor(argument)
        ]
        self.flops: Callable[..., int] | None = FORMULAS.get(func.overloadpacket)
        results = func._schema.returns
        self.is_view = bool(results) and all(
            result.alias_info is not None and not result.alias_info.is_write for result in results
        )
        self.makes_several = len(results) > 1 and all(result.alias_info is None for result in results)


@dataclass(frozen=True, slots=True)
class _NumberedOp:
    """An op that was given Python numbers for tensors: `numbers` names the arguments, `out` is its result."""

    op: int
    call: int
    sequence: int
    numbers: tuple[str, ...]
    out: weakref.ref[Tensor]


class Recorder(private.TorchDispatchMode):
    """Records blocks, saves, calls and ops between `with recorder:` and its end, on one clock.

    Args:
        dry: the tensors hold no memory, so substitutes may stand in for saved tensors.
        hooked: see module calls and optimizer steps by itself; without, whoever sees them calls `call_begins`,
            `call_ends`, `optimizer_begins` and `optimizer_ends`.

    The raw rows (lists of integers) become a Timeline in `assembling.py`.
    """

    def __init__(self, *, dry: bool, hooked: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dry = dry
        self.hooked = hooked
        self.live = 0  # bytes alive now; on real tensors, where a block has one death
        self.ceiling = sys.maxsize  # of `live`; what goes beyond it is told to `over_ceiling`
        self.over_ceiling: Callable[[int], None] = lambda nbytes: None
        self._retired = False
        self.clock = 0
        self.phase = PHASE_CODE[Phase.BEFORE]
        self.phase_marks: list[tuple[int, int]] = []
        self.sites = SiteTable()
        self.names: list[str] = []
        self.signatures: list[str] = []
        self.notes: set[str] = set()
        self._name_index: dict[str, int] = {}
        self._signature_index: dict[Any, int] = {}
        # blocks
        self.b_nbytes: list[int] = []
        self.b_category: list[int] = []
        self.b_phase: list[int] = []
        self.b_born: list[int] = []
        self.b_natural: list[int] = []
        self.b_name: list[int] = []
        self.b_op: list[int] = []
        self.b_call: list[int] = []
        self.b_site: list[int] = []
        # saves
        self.s_block: list[int] = []
        self.s_pack: list[int] = []
        self.s_unpacks: list[list[int]] = []
        self.s_local_ends: list[list[int]] = []
        self.s_release: list[int] = []
        self.s_call: list[int] = []
        self.s_sequence: list[int] = []
        # calls
        self.c_module: list[int] = []
        self.c_parent: list[int] = []
        self.c_phase: list[int] = []
        self.c_enter: list[int] = []
        self.c_exit: list[int] = []
        self.c_arguments: list[list[int]] = []
        self.c_hooked: list[bool] = []
        self.c_extras: list[int] = []
        self.c_returns: list[int] = []
        self._extras: dict[tuple[Any, ...], int] = {((), ()): 0}
        # ops
        self.o_name: list[int] = []
        self.o_tick: list[int] = []
        self.o_phase: list[int] = []
        self.o_call: list[int] = []
        self.o_site: list[int] = []
        self.o_node: list[int] = []
        self.o_signature: list[int] = []
        self.o_flops: list[int] = []
        self.o_reads: list[list[int]] = []
        self.o_writes: list[list[int]] = []
        self.o_outputs: list[list[int]] = []
        self.o_scratch: list[int] = []
        self.accumulations: list[tuple[int, int, int]] = []
        self.node_names: dict[int, int] = {}

        self._block_at: dict[int, int] = {}
        self._refs: dict[int, _StorageRef] = {}
        self._stack: list[int] = []
        self._paths: dict[int, str] = {}
        self._forward_of: dict[int, tuple[int, int]] = {}
        self._infos: dict[Any, _OpInfo] = {}
        self._plain: dict[type, bool] = {}
        self._parameters: list[tuple[str, nn.Parameter]] = []
        self._numbered: _NumberedOp | None = None
        self._kept_numbers: dict[int, int] = {}
        self._lent_number: tuple[int, int] = (_UNSET, 0)
        self._paused = False
        self._hooked = True
        self._stack_of_contexts: contextlib.ExitStack | None = None
        self._appointment = _NONE_DUE

    # -- what is there before the step ------------------------------------------------------------------

    def adopt_model(self, model: nn.Module) -> None:
        """Register parameters, buffers and module paths; shared ones count once, under their first name."""
        for path, module in model.named_modules():
            self._paths.setdefault(id(module), path)
        parameters = list(model.named_parameters())
        self._parameters += parameters
        for name, parameter in parameters:
            self.adopt(parameter, Category.PARAMETER, name)
            if parameter.grad is not None:
                self.adopt(parameter.grad, Category.GRADIENT, name)
        for name, buffer in model.named_buffers():
            self.adopt(buffer, Category.BUFFER, name)

    def adopt_optimizer(self, optimizer: Optimizer) -> None:
        """Register optimizer state that exists already, or label what a step has just made."""
        names = {id(parameter): name for name, parameter in self._parameters}
        for parameter, state in list(optimizer.state.items()):
            owner = names.get(id(parameter), "")
            values = state.items() if isinstance(state, dict) else [("state", state)]
            for key, value in values:
                self.adopt(value, Category.OPTIMIZER_STATE, f"{owner}.{key}" if owner else str(key))

    def adopt(self, tree: Any, category: Category, name: str = "") -> None:
        """Register (or relabel) every storage of every tensor in a nested container."""
        for leaf in private.pytree.tree_leaves(tree):
            if isinstance(leaf, Tensor) and not is_lazy(leaf):
                for storage in self._storages(leaf):
                    block = self._block_at.get(private.storage_key(storage), _UNSET)
                    if block == _UNSET:
                        block = self._born(storage, self._tick(), op=_UNSET)
                    if self.b_category[block] not in _FINAL:
                        self.b_category[block] = CATEGORY_CODE[category]
                        self.b_name[block] = self._intern(name)

    def adopt_survivors(self, survivors: Iterable[Survivor]) -> None:
        """Register what earlier steps left and is alive still: it is there whether this step touches it or not."""
        for survivor in survivors:
            storage = survivor.ref()
            if storage is not None and private.storage_key(storage) not in self._block_at:
                self._born(storage, self._tick(), op=_UNSET)

    def adopt_gradients(self) -> None:
        """Label the gradients that stand at a step's end, however they came there."""
        for name, parameter in self._parameters:
            if parameter.grad is not None:
                self.adopt(parameter.grad, Category.GRADIENT, name)

    # -- the run -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            super().__enter__()  # type: ignore[no-untyped-call]
            stack.callback(super().__exit__, None, None, None)
            stack.enter_context(private.observed_backward(self._backward_begins, self._backward_ends))
            if self.hooked:
                stack.enter_context(private.observed_module_calls(self.call_begins, self.call_ends))
                stack.callback(register_optimizer_step_pre_hook(self.optimizer_begins).remove)
                stack.callback(register_optimizer_step_post_hook(self.optimizer_ends).remove)
            stack.enter_context(
                private.suspended_saved_tensor_hooks(self._pack, self._unpack, self._suspended)
            )
            stack.enter_context(private.observed_rng_states(self._state_made))
            stack.enter_context(self._observed_accumulations())
            self._stack_of_contexts = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._stack_of_contexts is not None
        self._stack_of_contexts.close()

    def survivors(self) -> list[Survivor]:
        """What the recorded ops made and is alive still: no weights, gradients or optimizer state."""
        open_saves = {self.s_block[i] for i, release in enumerate(self.s_release) if release == _UNSET}
        return [
            Survivor(ref, self.b_nbytes[block], self.b_site[block], block in open_saves)
            for block, ref in ((ref.block, ref) for ref in list(self._refs.values()))
            if self.b_op[block] != _UNSET and self.b_category[block] not in _LASTING
        ]

    def retire(self) -> None:
        """Forget everything that was recorded, once the recording is over. A graph that outlives its step keeps
        its recorder alive, and shall keep no more than that. While it is on still, everything passes by it."""
        self._retired = self._paused = True
        lists = [name for name, value in vars(self).items() if isinstance(value, list) and name[1:2] == "_"]
        for name in lists:
            setattr(self, name, [])
        for table in (self._refs, self._block_at, self._forward_of, self._signature_index, self._infos):
            table.clear()
        self._parameters, self._paths, self.signatures, self._numbered = [], {}, [], None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let ops pass unrecorded: those of the recorder itself."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def call_at(self, tick: int, action: Callable[[], None]) -> None:
        """Call something once, when the clock comes to a tick: before what the tick stands for happens."""
        self._appointment = (tick, action)

    def blocks_of(self, tensor: Tensor) -> list[int]:
        """The known blocks behind a tensor."""
        keys = map(private.storage_key, self._storages(tensor))
        return [self._block_at[key] for key in keys if key in self._block_at]

    @property
    def known_storages(self) -> set[int]:
        """The keys of all storages that were registered or that an op has touched, and that are alive."""
        return set(self._block_at)

    @property
    def on_top(self) -> bool:
        """Whether no hook for saved tensors was installed after ours, so that ours can be taken off."""
        return bool(private.saved_tensor_hooks() == (self._pack, self._unpack))

    @property
    def calls_open(self) -> bool:
        """Whether a module's call has begun and not ended."""
        return bool(self._stack)

    @property
    def module_paths(self) -> Mapping[int, str]:
        """The path of every module of the model, by its `id`."""
        return self._paths

    def enter_phase(self, phase: Phase) -> None:
        """Mark the clock: from here on, this phase."""
        self.phase = PHASE_CODE[phase]
        self.phase_marks.append((self._tick(), self.phase))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused or func.namespace in _NO_OPS:
            return func(*args, **kwargs)
        if not all(self._is_plain(kind) for kind in types):
            return NotImplemented  # the subclass unwraps itself; its inner ops come by here again
        info = self._infos.get(func)
        if info is None:
            info = self._infos[func] = _OpInfo(func)
        self._follow_numbers()
        reads: list[int] = []
        for value in args:
            self._collect(value, reads)
        for value in kwargs.values():
            self._collect(value, reads)
        tick = self._tick()  # before the op runs: what it frees itself (`set_`) was alive at its tick
        out = func(*args, **kwargs)
        if self.dry and info.makes_several:
            out = self._told_apart(out)
        self._record(func, info, args, kwargs, out, reads, tick)
        self._notice_numbers(info, args, out)
        if self.live > self.ceiling and self.o_outputs[-1]:
            self.over_ceiling(sum(self.b_nbytes[block] for block in self.o_outputs[-1]))
        return out

    def add_op_memory(self, of_signature: Sequence[OpMemory | None]) -> int:
        """Give every op the scratch and the output sizes that its kernel really has; how many sizes changed.

        Scratch becomes a block that lives for the op's own tick.
        """
        corrected = 0
        for op, signature in enumerate(self.o_signature):
            memory = of_signature[signature] if signature >= 0 else None
            if memory is None:
                continue
            if len(memory.outputs) == len(self.o_outputs[op]):
                for block, nbytes in zip(self.o_outputs[op], memory.outputs, strict=True):
                    corrected += self.b_nbytes[block] != nbytes
                    self.b_nbytes[block] = nbytes
            # a number that autograd keeps is a block of its own, and was measured as scratch
            self.o_scratch[op] = max(memory.scratch - self._kept_numbers.get(op, 0), 0)
            if self.o_scratch[op]:
                block = self._made_by(op, self.o_scratch[op], natural=self.o_tick[op] + 1)
                self.b_category[block] = CATEGORY_CODE[Category.SCRATCH]
        return corrected

    # -- ops ---------------------------------------------------------------------------------------------

    def _record(
        self,
        func: Any,
        info: _OpInfo,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        reads: list[int],
        tick: int,
    ) -> None:
        op = len(self.o_name)
        call, site, node = self._whereabouts()
        outputs: list[int] = []
        self._record_births(out, tick, op, call, site, outputs)
        writes: list[int] = []
        for index, name in info.writes:
            value = args[index] if index < len(args) else kwargs.get(name)
            self._collect(value, writes)
            self._record_resize(value, tick, op, call, site)
        self.o_name.append(self._intern(info.name))
        self.o_tick.append(tick)
        self.o_phase.append(self.phase)
        self.o_call.append(call)
        self.o_site.append(site)
        self.o_node.append(node)
        self.o_signature.append(_UNSET if info.is_view else self._signature(info, args, kwargs))
        self.o_flops.append(int(info.flops(*args, **kwargs, out_val=out)) if info.flops else 0)
        self.o_reads.append(reads)
        self.o_writes.append(writes)
        self.o_outputs.append(outputs)
        self.o_scratch.append(0)

    def _told_apart(self, results: Sequence[Any]) -> Sequence[Any]:
        """Results that are new by the op's schema; torch's dry kernels may return one tensor for two of them
        (the gradients of both biases of an LSTM layer)."""
        apart: list[Any] = []
        for result in results:
            if isinstance(result, Tensor) and any(result is other for other in apart):
                with self.paused():
                    result = torch.empty_like(result)
            apart.append(result)
        return tuple(apart)

    def _whereabouts(self) -> tuple[int, int, int]:
        """Module call, source line and autograd node of the op that runs now."""
        call = self._open_call()
        node = private.backward_node()
        if node is None:
            site = self.sites.here(4)
            sequence = private.tensor_sequence()
            if sequence >= 0:
                self._forward_of.setdefault(sequence, (call, site))
            return call, site, _UNSET
        sequence = private.node_sequence(node)
        name = self._intern(node.name())
        self.node_names[sequence] = name
        forward_call, site = self._forward_of.get(sequence, (_UNSET, _UNSET))
        if self._stack:  # recomputed by a checkpoint: the module runs again, inside the backward
            own = self.sites.here(4)
            return call, own if own != _UNSET else site, name
        return forward_call, site, name

    def _record_births(self, out: Any, tick: int, op: int, call: int, site: int, outputs: list[int]) -> None:
        if isinstance(out, Tensor):
            for storage in self._storages(out):
                key = private.storage_key(storage)
                if key not in self._block_at:
                    self._born(storage, tick, op=op, call=call, site=site)
                block = self._block_at.get(key, _UNSET)
                if block != _UNSET and self.b_op[block] == op:
                    outputs.append(block)
        elif isinstance(out, list | tuple):
            for item in out:
                self._record_births(item, tick, op, call, site, outputs)

    def _record_resize(self, value: Any, tick: int, op: int, call: int, site: int) -> None:
        """An in-place op that changed a storage's size frees the old memory and takes new."""
        if isinstance(value, Tensor):
            for storage in self._storages(value):
                block = self._block_at.get(private.storage_key(storage), _UNSET)
                if block == _UNSET:
                    self._born(storage, tick, op=op, call=call, site=site)
                elif storage.nbytes() != self.b_nbytes[block]:
                    self.b_natural[block] = tick
                    self.live -= self.b_nbytes[block]
                    renewed = self._born(storage, tick, op=op, call=call, site=site)
                    self.b_category[renewed] = self.b_category[block]
                    self.b_name[renewed] = self.b_name[block]
        elif isinstance(value, list | tuple):
            for item in value:
                self._record_resize(item, tick, op, call, site)

    def _signature(self, info: _OpInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Index of this call's shape: op, tensor shapes and layouts, other arguments."""
        key = (info.name, _spec(args), _spec(tuple(kwargs.items())) if kwargs else ())
        index = self._signature_index.get(key)
        if index is None:
            index = self._signature_index[key] = len(self.signatures)
            self.signatures.append(
                json.dumps([info.name, _spec(args), {k: _spec(v) for k, v in kwargs.items()}])
            )
        return index

    # -- blocks ------------------------------------------------------------------------------------------

    def _storages(self, tensor: Tensor) -> list[torch.UntypedStorage]:
        """All storages behind a tensor: its own, or those inside a wrapper subclass or a sparse tensor."""
        if not self._is_plain(type(tensor)) and private.is_traceable_wrapper_subclass(tensor):
            names, _ = tensor.__tensor_flatten__()
            return [storage for name in names for storage in self._storages(getattr(tensor, name))]
        tensor = private.unwrapped(tensor)  # under torch.func; vmap leaves the hooks where they are
        if tensor.layout is torch.strided:
            return [tensor.untyped_storage()]
        if self.dry:
            raise private.UnsupportedFakeTensorException("a sparse tensor holds no bytes without its values")
        with self.paused():
            parts = _sparse_parts(tensor)
        return [storage for part in parts for storage in self._storages(part)]

    def _collect(self, value: Any, blocks: list[int]) -> None:
        """Append the blocks behind a value; tensors that were made elsewhere are adopted on first sight."""
        if isinstance(value, Tensor):
            for storage in self._storages(value):
                block = self._block_at.get(private.storage_key(storage), _UNSET)
                if block == _UNSET and storage.nbytes():
                    block = self._born(storage, self._tick(), op=_UNSET)
                    self.b_category[block] = CATEGORY_CODE[Category.OTHER]
                if block != _UNSET:
                    blocks.append(block)
        elif isinstance(value, list | tuple):
            for item in value:
                self._collect(item, blocks)
        elif isinstance(value, dict):
            for item in value.values():
                self._collect(item, blocks)

    def _born(
        self, storage: torch.UntypedStorage, tick: int, *, op: int, call: int = _UNSET, site: int = _UNSET
    ) -> int:
        nbytes = storage.nbytes()
        block = self._block(nbytes, self.phase, tick, _UNSET, op, call, site)
        self._follow(storage, block, _NATURAL)
        self.live += nbytes
        return block

    def _made_by(self, op: int, nbytes: int, *, natural: int) -> int:
        """A block that an op made and that no storage of a tensor shows."""
        return self._block(
            nbytes, self.o_phase[op], self.o_tick[op], natural, op, self.o_call[op], self.o_site[op]
        )

    def _block(self, nbytes: int, phase: int, born: int, natural: int, op: int, call: int, site: int) -> int:
        block = len(self.b_nbytes)
        self.b_nbytes.append(nbytes)
        self.b_category.append(_UNSET)
        self.b_phase.append(phase)
        self.b_born.append(born)
        self.b_natural.append(natural)
        self.b_name.append(_UNSET)
        self.b_op.append(op)
        self.b_call.append(call)
        self.b_site.append(site)
        return block

    def _follow(
        self, storage: torch.UntypedStorage, block: int, role: int, use: tuple[int, int] = (0, 0)
    ) -> None:
        key = private.storage_key(storage)
        ref = _StorageRef(storage, self._storage_died)
        ref.key, ref.block, ref.role, ref.use = key, block, role, use
        self._refs[key] = ref
        self._block_at[key] = block

    def _storage_died(self, ref: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(ref, _StorageRef)
        if self._retired:
            return
        if self._refs.get(ref.key) is ref:
            del self._refs[ref.key], self._block_at[ref.key]
        if ref.role == _NATURAL:
            if self.b_natural[ref.block] == _UNSET:
                self.b_natural[ref.block] = self._tick()
                self.live -= self.b_nbytes[ref.block]
        elif ref.role == _LENT:
            save, use = ref.use
            self.s_local_ends[save][use] = self._tick()

    # -- saved tensors -----------------------------------------------------------------------------------

    def _pack(self, tensor: Tensor) -> _Held:
        if self._retired:
            return _Held(self, _UNSET, tensor if tensor.grad_fn is None else tensor.detach())
        blocks: list[int] = []
        self._collect(tensor, blocks)
        block = blocks[0] if blocks else _UNSET
        save = self._save(block, self._tick(), self._open_call(), private.tensor_sequence())
        if self._may_substitute(tensor, block):
            tensor = self._substitute(tensor, block, _HELD)
        elif tensor.grad_fn is not None:  # a node that saves its own output must not keep itself alive
            with self.paused():
                tensor = tensor.detach()
        return _Held(self, save, tensor)

    def _save(self, block: int, tick: int, call: int, sequence: int) -> int:
        save = len(self.s_block)
        self.s_block.append(block)
        self.s_pack.append(tick)
        self.s_unpacks.append([])
        self.s_local_ends.append([])
        self.s_release.append(_UNSET)
        self.s_call.append(call)
        self.s_sequence.append(sequence)
        return save

    def _unpack(self, held: _Held) -> Tensor:
        if self._retired:
            return held.tensor
        save = held.save
        tick = self._unpacked(save)
        block = self.s_block[save]
        if not self._may_substitute(held.tensor, block):
            self.s_local_ends[save].append(tick)
            return held.tensor
        self.s_local_ends[save].append(_UNSET)
        return self._substitute(held.tensor, block, _LENT, (save, len(self.s_unpacks[save]) - 1))

    def _unpacked(self, save: int) -> int:
        tick = self._tick()
        self.s_unpacks[save].append(tick)
        node = private.backward_node()
        if node is not None:
            self.node_names[self.s_sequence[save]] = self._intern(node.name())
        return tick

    def _released(self, save: int) -> None:
        if not self._retired:
            self.s_release[save] = self._tick()

    def _may_substitute(self, tensor: Tensor, block: int) -> bool:
        return (
            self.dry
            and block != _UNSET
            and self.b_category[block] not in _FINAL
            and self._is_plain(type(tensor))
            and tensor.layout is torch.strided
        )

    def _substitute(self, tensor: Tensor, block: int, role: int, use: tuple[int, int] = (0, 0)) -> Tensor:
        """A dry tensor of the same geometry over a storage of its own, which stands for the same block."""
        storage = tensor.untyped_storage()
        items = storage.nbytes() // tensor.element_size()
        with self.paused(), torch.no_grad():
            base = torch.empty_strided((items,), (1,), dtype=tensor.dtype, device=tensor.device)
            twin = base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        self._follow(twin.untyped_storage(), block, role, use)
        return twin

    # -- numbers that autograd keeps ---------------------------------------------------------------------

    def _notice_numbers(self, info: _OpInfo, args: tuple[Any, ...], out: Any) -> None:
        """Torch makes a tensor of a number given for one, as in `x * 2`, and a node may save that tensor.

        Saved-tensor hooks pass such tensors over, and the result has its node only once this dispatch is over.
        A view written in place has another node, and asking for it while torch makes that node never returns.
        """
        numbers = [
            name
            for index, name in info.tensors
            if index < len(args) and isinstance(args[index], int | float | complex)
        ]
        if not numbers:
            return
        op, sequence = len(self.o_name) - 1, private.tensor_sequence()
        node, nbytes = self._lent_number
        if node == private.node_sequence(private.backward_node()) != _UNSET:
            self._kept_numbers[op] = nbytes  # no new number: the node was lent the one that it kept
        if isinstance(out, Tensor) and not out._is_view() and torch.is_grad_enabled():
            self._numbered = _NumberedOp(op, self._open_call(), sequence, tuple(numbers), weakref.ref(out))

    def _follow_numbers(self) -> None:
        """Hook the numbers that the last op's node saved, before anything else can happen to that node."""
        numbered, self._numbered = self._numbered, None
        out = numbered.out() if numbered is not None else None
        if numbered is None or out is None:
            return
        for name in numbered.numbers:
            private.hook_saved_number(
                out.grad_fn, name, partial(self._pack_number, numbered), self._unpack_number
            )

    def _pack_number(self, numbered: _NumberedOp, tensor: Tensor) -> _Held:
        """A number is born with its op, and then only autograd holds it; a double backward keeps it again."""
        op, storage = numbered.op, tensor.untyped_storage()
        tick = self.o_tick[op]
        block = self._block_at.get(private.storage_key(storage), _UNSET)
        if block == _UNSET:
            block = self._made_by(op, storage.nbytes(), natural=tick + 1)
            self._kept_numbers[op] = self._kept_numbers.get(op, 0) + storage.nbytes()
            self._follow(storage, block, _HELD)
        return _Held(self, self._save(block, tick, numbered.call, numbered.sequence), tensor)

    def _unpack_number(self, held: _Held) -> Tensor:
        if self._retired:
            return held.tensor
        self.s_local_ends[held.save].append(self._unpacked(held.save))
        node = private.node_sequence(private.backward_node())
        self._lent_number = (node, held.tensor.untyped_storage().nbytes())
        return held.tensor

    def _suspended(self, suspended: bool) -> None:
        self._hooked = not suspended
        if suspended:
            self.notes.add(
                "saved tensors under torch.func are not told from temporaries: it refuses their hooks"
            )
            for call in self._stack:
                self.c_hooked[call] = False

    # -- module calls, phases, gradients -----------------------------------------------------------------

    def _state_made(self, state: Tensor) -> None:
        call, site, _ = self._whereabouts()
        self._born(state.untyped_storage(), self._tick(), op=_UNSET, call=call, site=site)

    def call_begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is called; the calls nest like the stack."""
        arguments: list[int] = []
        self._collect(args, arguments)
        self._collect(kwargs, arguments)
        path = self._paths.get(id(module))
        call = len(self.c_module)
        self.c_module.append(self._intern(type(module).__name__ if path is None else path))
        self.c_parent.append(self._open_call())
        self.c_phase.append(self.phase)
        self.c_enter.append(self._tick())
        self.c_exit.append(_UNSET)
        self.c_arguments.append(arguments)
        self.c_hooked.append(self._hooked)
        positions = tuple((i, id(a)) for i, a in enumerate(args) if not isinstance(a, Tensor))
        names = tuple((k, _UNSET if isinstance(v, Tensor) else id(v)) for k, v in kwargs.items())
        self.c_returns.append(_UNSET)
        self.c_extras.append(self._extras.setdefault((positions, names), len(self._extras)))
        self._stack.append(call)

    def call_ends(self, result: Any) -> None:
        """The call that began last returned this, None after an exception."""
        call = self._stack.pop()
        returned: list[int] = []
        if isinstance(result, Tensor):
            self._collect(result, returned)
        self.c_returns[call] = returned[0] if len(returned) == 1 else _UNSET
        self.c_exit[call] = self._tick()

    def _backward_begins(self) -> None:
        self._follow_numbers()
        if self.phase != _BACKWARD:
            self.enter_phase(Phase.BACKWARD)

    def _backward_ends(self) -> None:
        if private.backward_node() is None:  # a backward inside a backward does not end the outer one
            self.enter_phase(Phase.FORWARD)

    def optimizer_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer's step begins."""
        self.enter_phase(Phase.OPTIMIZER)

    def optimizer_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer's step is over."""
        self.adopt_optimizer(optimizer)
        if private.backward_node() is not None:  # an optimizer step inside the backward
            self.enter_phase(Phase.BACKWARD)
        else:
            self.enter_phase(Phase.FORWARD)

    @contextlib.contextmanager
    def _observed_accumulations(self) -> Iterator[None]:
        """Watch every parameter's gradient; what the parameters carried before is put back."""
        before = [(p, p._post_accumulate_grad_hooks) for _, p in self._parameters]
        handles = []
        for _, parameter in self._parameters:
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._accumulated)
                # ours first: a user's own hook may update the parameter and drop the gradient. Filled anew,
                # since torch walks the dict below the OrderedDict, which move_to_end leaves as it is
                hooks = parameter._post_accumulate_grad_hooks
                own = hooks.pop(handle.id)
                others = list(hooks.items())
                hooks.clear()
                hooks.update([(handle.id, own), *others])
                handles.append(handle)
        names = {id(parameter): name for name, parameter in self._parameters}
        self._parameter_names = names
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, hooks in before:
                if hooks is None:
                    parameter._post_accumulate_grad_hooks = None

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        gradient: list[int] = []
        self._collect(parameter.grad, gradient)
        owner: list[int] = []
        self._collect(parameter, owner)
        name = self._intern(self._parameter_names.get(id(parameter), ""))
        tick = self._tick()
        for block in gradient:
            if self.b_category[block] not in _FINAL:
                self.b_category[block] = CATEGORY_CODE[Category.GRADIENT]
                self.b_name[block] = name
        if gradient and owner:
            self.accumulations.append((tick, owner[0], gradient[0]))

    def _open_call(self) -> int:
        return self._stack[-1] if self._stack else _UNSET

    # -- small things ------------------------------------------------------------------------------------

    def _tick(self) -> int:
        clock = self.clock
        self.clock = clock + 1
        due, action = self._appointment
        if clock == due:
            self._appointment = _NONE_DUE
            action()
        return clock

    def _intern(self, text: str) -> int:
        index = self._name_index.get(text)
        if index is None:
            index = self._name_index[text] = len(self.names)
            self.names.append(text)
        return index

    def _is_plain(self, kind: type) -> bool:
        """Whether tensors of this type are dispatched as themselves (not a subclass that unwraps itself)."""
        plain = self._plain.get(kind)
        if plain is None:
            dispatch = getattr(kind, "__torch_dispatch__", None)
            plain = self._plain[kind] = (
                issubclass(kind, private.FakeTensor)
                or dispatch is None
                or getattr(dispatch, "__func__", dispatch)
                is getattr(Tensor.__torch_dispatch__, "__func__", Tensor.__torch_dispatch__)
            )
        return plain


#: Namespaces of dispatched calls that touch no tensor: questions about a dry tensor's device, profiler marks.
_NO_OPS = frozenset({"prim", "profiler"})

#: Categories that a block never leaves once it has them.
_FINAL = frozenset(
    CATEGORY_CODE[category]
    for category in (
        Category.PARAMETER,
        Category.BUFFER,
        Category.INPUT,
        Category.OPTIMIZER_STATE,
    )
)

_LASTING = _FINAL | {CATEGORY_CODE[Category.GRADIENT]}


def _sparse_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def _spec(value: Any) -> Any:
    """A hashable, JSON-able description of an argument: what a kernel's memory can depend on."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            return ("sparse", str(value.dtype), tuple(value.shape))
        return ("tensor", str(value.dtype)[6:], tuple(map(int, value.shape)), tuple(map(int, value.stride())))
    if isinstance(value, list | tuple):
        return tuple(_spec(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, torch.device):
        return f"device:{value.type}"
    return type(value).__name__
