"""Activation offload: what chosen module calls save waits in host memory until the backward asks for it.

Exact to the bit: bytes are copied out when they are saved and back when they are needed. Whole storages travel,
each once for each version of its contents, however many views of it are saved; what several nodes unpack at the
same time comes back once. Parameters and buffers stay where they are.

On a GPU the copy out runs beside the forward, from pinned memory on a stream of its own (not checked: it never ran on
one); the copy back waits for its bytes. On a CPU, host memory is the device's own, so that there is nothing to gain
and only the law to show: there the copies count.

Source: `torch.autograd.graph.save_on_cpu`, which copies every save by itself; vDNN (Rhu et al., 2016).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from .. import _torch_private as private
from ..errors import UsageError
from ..records import CATEGORY_CODE, Category, Offload, Timeline
from .checkpointing import WORTH_RATIO, calls_by_path, freed_bytes, regions_of
from .edits import NOTHING, Births, Edit, position
from .forwards import replaced
from .regions import Lives, Refused

_STANDING = [CATEGORY_CODE[Category.INPUT], CATEGORY_CODE[Category.OPTIMIZER_STATE]]
_STAYS = [CATEGORY_CODE[Category.PARAMETER], CATEGORY_CODE[Category.BUFFER]]


def simulate(timeline: Timeline, actions: Sequence[Offload], *, host_counts: bool) -> Edit:
    """The edit that moves what the modules' calls save to the host.

    Args:
        timeline: of the plain step.
        actions: which modules; none inside another.
        host_counts: the copies lie in the memory that is budgeted, as on a CPU.

    Raises:
        Refused: a call saves nothing that could go; or a save is asked for more than once.
        UsageError: a module is not called in this step.
    """
    lives = Lives(timeline)
    calls = calls_by_path(timeline)
    regions = [region for action in actions for region in regions_of(lives, calls, _as_checkpoint(action))]
    own = np.concatenate([_moved(lives, region.enter, region.exit) for region in regions])
    if len(np.unique(own)) < len(own):
        raise Refused("a module lies inside another that is offloaded")
    rows: list[tuple[int, int, int, int]] = []
    for copy in _copies(lives, own):
        rows += copy.births(timeline, host_counts=host_counts)
    return replace(NOTHING, dropped=own, births=Births.of_rows(rows))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A module that could be offloaded: what that changes on the device, and the bytes that travel each way."""

    action: Offload
    edit: Edit
    moved: int


def find(timeline: Timeline) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Every module whose saves are worth moving, and (module, reason) of those that cannot be moved.

    The edits are of a device with memory of its own: the copies on the host do not count.
    """
    lives = Lives(timeline)
    worth = timeline.peak * WORTH_RATIO
    candidates, refused = [], []
    for path in calls_by_path(timeline):
        action = Offload(module=path)
        try:
            edit = simulate(timeline, [action], host_counts=False)
        except Refused as reason:
            refused.append((path, str(reason)))
            continue
        if path and freed_bytes(lives, edit) >= worth:
            candidates.append(Candidate(action, edit, moved_bytes(timeline, action)))
    return candidates, refused


def moved_bytes(timeline: Timeline, action: Offload) -> int:
    """Bytes that travel to the host in a step, and as many back."""
    lives = Lives(timeline)
    regions = regions_of(lives, calls_by_path(timeline), _as_checkpoint(action))
    own = np.concatenate([_moved(lives, region.enter, region.exit) for region in regions])
    return sum(int(timeline.blocks.nbytes[copy.block]) for copy in _copies(lives, own))


def _as_checkpoint(action: Offload) -> Any:
    from ..records import Checkpoint

    return Checkpoint(modules=(action.module,))


def _moved(lives: Lives, enter: int, leave: int) -> Any:
    t = lives.timeline
    own = lives.saves_packed(enter, leave)
    own = own[~np.isin(t.blocks.category[t.saves.block[own]], _STAYS)]
    if not len(own):
        raise Refused("it saves nothing that could leave the device")
    if np.isin(t.blocks.category[t.saves.block[own]], _STANDING).any():
        raise Refused("it saves the batch itself, which stays on the device all the same")
    return own


@dataclass(slots=True)
class _Copy:
    """One version of one block on the host, and the saves that share it."""

    block: int
    version: int
    saves: list[int] = field(default_factory=list)
    release: int = 0

    def births(self, timeline: Timeline, *, host_counts: bool) -> list[tuple[int, int, int, int]]:
        """Rows (of, nbytes, born, end): the copy on the host, and each return to the device."""
        s, nbytes = timeline.saves, int(timeline.blocks.nbytes[self.block])
        pack = int(s.pack[self.saves].min())
        rows = [(-1, nbytes, int(position(pack)), int(position(self.release)))] if host_counts else []
        uses = sorted(
            use for save in self.saves for use in zip(s.unpacks[save], s.local_ends[save], strict=True)
        )
        while uses:
            start, end = uses.pop(0)
            while uses and uses[0][0] <= end:
                end = max(end, uses.pop(0)[1])
            rows.append((self.block, nbytes, int(position(start)), int(position(end))))
        return rows


def _copies(lives: Lives, own: Any) -> list[_Copy]:
    t = lives.timeline
    done: list[_Copy] = []
    latest: dict[int, _Copy] = {}
    for save in own[np.argsort(t.saves.pack[own], kind="stable")].tolist():
        block, pack = int(t.saves.block[save]), int(t.saves.pack[save])
        version = int(((lives.written == block) & (lives.written_at <= pack)).sum())
        copy = latest.get(block)
        if copy is None or copy.version != version or copy.release < pack:
            copy = latest[block] = _Copy(block, version)
            done.append(copy)
        copy.saves.append(save)
        copy.release = max(copy.release, int(t.saves.release[save]))
    return done


# -- on a real model -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def apply(model: nn.Module, actions: Sequence[Offload]) -> Iterator[None]:
    """Offload what the modules' forwards save while the context lasts.

    Raises:
        UsageError: a module is missing.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    stays = [*model.parameters(), *model.buffers()]
    host = _Host({private.storage_key(t.untyped_storage()) for t in stays})
    with contextlib.ExitStack() as stack:
        for action in actions:
            if action.module not in modules:
                raise UsageError(
                    f"the plan offloads {action.module!r}, and this model has no such module; "
                    "was the plan made for another model?"
                )
            module = modules[action.module]
            stack.enter_context(replaced(module, host.saving(module.forward)))
        yield


class _Storage:
    """A whole storage on the host, and the copy of it that is on the device just now, if any."""

    __slots__ = ("__weakref__", "device", "ready", "there", "values")

    def __init__(self, tensor: Tensor, streams: dict[torch.device, Any]) -> None:
        flat = _whole(tensor)
        cuda = tensor.is_cuda
        self.device, self.ready = tensor.device, None
        self.there: StorageWeakRef | None = None
        self.values = torch.empty(flat.shape, dtype=flat.dtype, device="cpu", pin_memory=cuda)
        if not cuda:
            self.values.copy_(flat)
            return
        stream = streams.setdefault(self.device, None) or torch.cuda.Stream(self.device)
        streams[self.device] = stream
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.values.copy_(flat, non_blocking=True)
            self.ready = stream.record_event()
        flat.record_stream(stream)  # the allocator must not reuse it before the copy is done

    def back(self, dtype: torch.dtype) -> Tensor:
        """Every element, on the device again."""
        if self.there is not None:
            there = private.tensor_over(self.there, dtype, self.device)
            if there is not None:
                return there
        if self.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(self.ready)
        back = torch.empty(self.values.shape, dtype=self.values.dtype, device=self.device)
        back.copy_(self.values, non_blocking=self.device.type == "cuda")
        self.there = StorageWeakRef(back.untyped_storage())
        return back.view(dtype)


@dataclass(frozen=True, slots=True)
class _Packed:
    """One saved tensor: a view of a storage on the host."""

    kept: _Storage
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Host:
    """Storages on the host, each once for each version of its contents."""

    def __init__(self, stays: set[int]) -> None:
        self._stays = stays
        self._streams: dict[torch.device, Any] = {}
        # a weak reference to a storage keeps its key from being used again
        self._known: dict[int, tuple[StorageWeakRef, int, weakref.ref[_Storage]]] = {}

    def saving(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward whose saves come here."""

        def saved_here(*args: Any, **kwargs: Any) -> Any:
            with saved_tensors_hooks(self.pack, self.unpack):
                return forward(*args, **kwargs)

        return saved_here

    def pack(self, tensor: Tensor) -> Tensor | _Packed:
        storage = tensor.untyped_storage()
        key = private.storage_key(storage)
        if key in self._stays or not storage.nbytes() or tensor.layout is not torch.strided:
            return tensor
        kept = self._kept(key, tensor._version)
        if kept is None:
            kept = _Storage(tensor.detach(), self._streams)
            self._known = {k: row for k, row in self._known.items() if not row[0].expired()}
            self._known[key] = (StorageWeakRef(storage), tensor._version, weakref.ref(kept))
        return _Packed(kept, tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _kept(self, key: int, version: int) -> _Storage | None:
        weak, known, kept = self._known.get(key, (None, -1, None))
        if weak is None or kept is None or weak.expired() or known != version:
            return None
        return kept()

    def unpack(self, packed: Tensor | _Packed) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed.kept.back(packed.dtype).as_strided(packed.size, packed.stride, packed.offset)


def _whole(tensor: Tensor) -> Tensor:
    """A storage's every element, as a vector."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((count,), (1,), 0)
