"""The census: which tensors outlive their step, more with each, and by which name Python holds them.

A recorded step leaves weak references to the blocks that it made and that are alive when it is over. Those that are
still alive some steps of the same kind later, when every variable of the loop has been given a new value, were
kept. Where two recorded steps kept something that the same line made, it grows; only then the walk through Python's
objects begins that names the owner. Tensors that only an autograd graph holds are told apart by the recorder's
saves, and belong to the named tensor whose graph it is.
"""

from __future__ import annotations

import gc
import inspect
import linecache
import logging
import re
import sys
import sysconfig
import time
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _torch_private as private
from ..records import Copied, Kept, Retained, Site, StepKind
from ..tracing.holders import Search, Way
from ..tracing.recorder import Recorder, Survivor
from ..tracing.sites import SiteTable, shorten
from .model_facts import Models

_AGE = 3  # steps of the kind after which nothing of a healthy loop is left; a GAN has two updates a round
_ALIVE = 2  # recorded steps that must have left something
_KEPT = 8  # recorded steps that are remembered for each kind
_LOOK_RATIO = 0.05  # of the time may go into looking, once the first look has named what grows
_LOOKS = 6  # at one kind, at most; the gaps between them double
_NODES = 20_000  # of one graph that are counted, at most
_SMALL = 2  # bytes: less is no tensor worth a name
_NAMES = 5  # of what was kept, at most


@dataclass(slots=True, eq=False, kw_only=True)
class Left:
    """What a recorded step left behind."""

    step: int
    kind: StepKind
    evaluating: bool
    blocks: list[Survivor]
    sites: list[Site]
    age: int = 0

    def alive(self) -> list[Survivor]:
        """What of it is alive still."""
        return [block for block in self.blocks if block.ref() is not None]


@dataclass(slots=True, eq=False)
class Census:
    """Looks for what grows. `retained` is what was found, the last state of each."""

    found: dict[tuple[Any, ...], Retained] = field(default_factory=dict)
    copies: list[Copied] = field(default_factory=list)
    looked: bool = False
    _left: dict[StepKind, list[Left]] = field(default_factory=dict)
    _steps: dict[StepKind, int] = field(default_factory=dict)
    _next: dict[StepKind, int] = field(default_factory=dict)
    _looks: dict[StepKind, int] = field(default_factory=dict)
    _not_before: dict[StepKind, float] = field(default_factory=dict)  # on the clock of perf_counter

    @property
    def retained(self) -> list[Retained]:
        """Everything found so far, most bytes a step first."""
        return sorted(self.found.values(), key=lambda each: -each.per_step)

    def recorded(self, step: int, kind: StepKind, evaluating: bool, recorder: Recorder) -> None:
        """A step was recorded: remember what it left."""
        blocks = [each for each in recorder.survivors() if each.nbytes >= _SMALL]
        left = self._left.setdefault(kind, [])
        left.append(
            Left(
                step=step, kind=kind, evaluating=evaluating, blocks=blocks, sites=recorder.sites.rows, age=-1
            )
        )
        del left[:-_KEPT]

    def step_over(self, kind: StepKind) -> None:
        """A step of a kind is over: everything that steps of this kind left is older by one."""
        self._steps[kind] = self._steps.get(kind, 0) + 1
        for left in self._left.get(kind, ()):
            left.age += 1
            if left.age >= _AGE and left.blocks:
                left.blocks = left.alive()

    def survivors(self) -> Iterator[Survivor]:
        """What recorded steps left, as far as it is remembered."""
        for of_kind in self._left.values():
            for left in of_kind:
                yield from left.blocks

    def kept(self, models: Models, sites: SiteTable) -> tuple[Kept, ...]:
        """What the last recorded update left and names hold still, by the time that memory is out."""
        left = self._left.get(StepKind.UPDATE)
        return () if not left else kept_by_names(left[-1], models.all(), sites)

    def look(self, kind: StepKind, step: int, models: Models, sites: SiteTable) -> list[Retained]:
        """Name the owners of what grew, if anything did; what is new since the last look."""
        self.looked = False
        old = [left for left in self._left.get(kind, ()) if left.age >= _AGE and left.blocks]
        steps = self._steps.get(kind, 0)
        if len(old) < _ALIVE or steps < self._next.get(kind, 0) or self._looks.get(kind, 0) >= _LOOKS:
            return []
        began = time.perf_counter()
        if began < self._not_before.get(kind, 0.0):
            return []
        self.looked = True
        self._looks[kind] = self._looks.get(kind, 0) + 1
        self._next[kind] = max(steps + 8, 2 * steps)
        found = owners(old, models.all(), sites, step)
        ended = time.perf_counter()
        self._not_before[kind] = ended + (ended - began) / _LOOK_RATIO
        self.found |= {(each.owner, each.place, each.kind): each for each in found}
        return found


@dataclass(slots=True, eq=False)
class _Owner:
    """What one name holds of the steps that were looked at."""

    way: Way
    steps: dict[int, int] = field(default_factory=dict)  # bytes, by recorded step
    graph: dict[int, int] = field(default_factory=dict)
    has_graph: bool = False
    tensors: int = 0
    largest: int = -1
    made: Site | None = None
    sample: Tensor | None = None


def owners(left: list[Left], models: list[nn.Module], sites: SiteTable, step: int) -> list[Retained]:
    """Who holds what some recorded steps left, with the bytes that each step adds."""
    alive = [(each, block) for each in left for block in each.blocks]
    search = _searched([block for _, block in alive], models, sites)
    named = _named(alive, search)
    if len(search.found) < len(alive) and not any(owner.has_graph for owner in named.values()):
        _name_largest_graph(named, models, sites)
    _share_graphs(alive, search, named)
    retained = [_retained(owner, left, step) for owner in named.values()]
    return [each for each in retained if each is not None]


def kept_by_names(left: Left, models: list[nn.Module], sites: SiteTable) -> tuple[Kept, ...]:
    """What a step left that is alive still, by the names that lead to it, most bytes first."""
    blocks = left.alive()
    held: dict[tuple[str, str], int] = {}
    for index, way in _searched(blocks, models, sites).found.items():
        key = short_name(way), steady_place(way.place)
        held[key] = held.get(key, 0) + blocks[index].nbytes
    return _largest(held)


def kept_by_traceback(error: BaseException, sites: SiteTable) -> tuple[Kept, ...]:
    """What the variables of the user's functions hold that an exception came through, most bytes first."""
    held: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    link = error.__traceback__
    while link is not None:
        frame, link = link.tb_frame, link.tb_next
        globals_stay = not frame.f_code.co_flags & inspect.CO_NEWLOCALS
        if globals_stay or not sites.is_user(frame.f_code):
            continue
        for name, value in frame.f_locals.items():
            for tensor in _tensors_in(value):
                storage = tensor.untyped_storage()
                if private.storage_key(storage) not in seen:
                    seen.add(private.storage_key(storage))
                    key = name, f"{frame.f_code.co_name}()"
                    held[key] = held.get(key, 0) + storage.nbytes()
    return _largest(held)


def _tensors_in(value: Any) -> list[Tensor]:
    parts = value if type(value) in (list, tuple) else value.values() if type(value) is dict else (value,)
    return [each for each in parts if issubclass(type(each), Tensor) and each.layout is torch.strided]


def _largest(held: dict[tuple[str, str], int]) -> tuple[Kept, ...]:
    """Of what is equally large the last comes first: it was made of the others, or after them."""
    kept = [Kept(owner=owner, place=place, nbytes=nbytes) for (owner, place), nbytes in held.items() if owner]
    return tuple(sorted(kept, key=lambda each: each.nbytes)[: -_NAMES - 1 : -1])


def _searched(blocks: list[Survivor], models: list[nn.Module], sites: SiteTable) -> Search:
    """Which ways lead to some blocks, by their index."""
    keys: dict[int, int] = {}
    for index, block in enumerate(blocks):
        storage = block.ref()
        if storage is not None:
            keys[private.storage_key(storage)] = index
        del storage
    search = Search(
        blocks_of=lambda tensor: _known(tensor, keys),
        wanted=set(keys.values()),
        paths={id(m): path for model in models for path, m in model.named_modules()},
    )
    search.keepers(models, sites, _more_places(sites))
    return search


def _known(tensor: Tensor, keys: dict[int, int]) -> list[int]:
    try:
        index = keys.get(private.storage_key(tensor.untyped_storage()))
    except (RuntimeError, NotImplementedError):  # a tensor without a storage of its own
        return []
    return [] if index is None else [index]


def _named(alive: list[tuple[Left, Survivor]], search: Search) -> dict[tuple[str, str], _Owner]:
    named: dict[tuple[str, str], _Owner] = {}
    for index, way in search.found.items():
        left, block = alive[index]
        name, place = short_name(way), steady_place(way.place)
        owner = named.setdefault((name, place), _Owner(way))
        owner.steps[left.step] = owner.steps.get(left.step, 0) + block.nbytes
        owner.tensors += 1
        tensor = search.tensors.get(index)
        owner.has_graph |= tensor is not None and tensor.grad_fn is not None
        if block.nbytes > owner.largest:
            owner.largest, owner.sample = block.nbytes, tensor
            owner.made = left.sites[block.site] if block.site >= 0 else None
    return named


def _share_graphs(
    alive: list[tuple[Left, Survivor]], search: Search, named: dict[tuple[str, str], _Owner]
) -> None:
    """Blocks that no name leads to are held by graphs: they go to the owners of tensors with a graph."""
    with_graph = [owner for owner in named.values() if owner.has_graph]
    holders = with_graph or [named.setdefault(("", ""), _Owner(Way("", "", "an autograd graph")))]
    used = False
    for index, (left, block) in enumerate(alive):
        if index in search.found:
            continue
        fitting = [owner for owner in holders if left.step in owner.steps] or holders
        owner = fitting[0]
        owner.graph[left.step] = owner.graph.get(left.step, 0) + block.nbytes
        if not with_graph:
            owner.tensors += 1
        used = True
        if not with_graph and block.nbytes > owner.largest:
            owner.largest = block.nbytes
            owner.made = left.sites[block.site] if block.site >= 0 else None
    if not used and not with_graph:
        named.pop(("", ""), None)


def _name_largest_graph(
    named: dict[tuple[str, str], _Owner], models: list[nn.Module], sites: SiteTable
) -> None:
    """Where all named tensors have gone, the graph hangs on a younger one: a running sum is a new tensor each step."""
    tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.grad_fn is not None]
    if not tensors:
        return
    largest = max(tensors, key=_nodes)
    keys = {private.storage_key(largest.untyped_storage()): 0}
    search = Search(blocks_of=lambda tensor: _known(tensor, keys), wanted={0}, paths={})
    search.keepers(models, sites, _more_places(sites))
    way = search.found.get(0)
    if way is not None:
        named[short_name(way), steady_place(way.place)] = _Owner(way, has_graph=True, tensors=1)


def _nodes(tensor: Tensor) -> int:
    """How many nodes a tensor's graph has; counting ends at a bound."""
    seen: set[Any] = set()
    rest = [tensor.grad_fn]
    while rest and len(seen) < _NODES:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [following for following, _ in node.next_functions]
    return len(seen)


def _retained(owner: _Owner, left: list[Left], step: int) -> Retained | None:
    steps = sorted({*owner.steps, *owner.graph})
    if len(steps) < _ALIVE:
        return None
    own = [owner.steps.get(each, 0) for each in steps]
    graph = [owner.graph.get(each, 0) for each in steps]
    per_step, of_graph = _middle([a + b for a, b in zip(own, graph, strict=True)]), _middle(graph)
    kind = left[0].kind
    return Retained(
        owner=short_name(owner.way),
        place=steady_place(owner.way.place),
        what=owner.way.what,
        kind=kind,
        first=steps[0],
        last=step,
        per_step=per_step,
        total=sum(own) + sum(graph),
        tensors=owner.tensors,
        graph=of_graph,
        has_graph=owner.has_graph,
        limit=_limit(owner.sample),
        evaluating=all(each.evaluating for each in left),
        made=owner.made,
        held=_held_at(owner.way),
    )


def _middle(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


def short_name(way: Way) -> str:
    """The name of what holds: `val_hist` for its elements, `self.acts` for those of one of its lists."""
    return re.sub(r"(\[[^\]]*\])+$", "", way.name)


def steady_place(place: str) -> str:
    """A place without the line that happened to run."""
    return re.sub(r":\d+$", "", place) if " at " in place else place


def _limit(tensor: Tensor | None) -> int:
    """The most elements that the container of a tensor takes: of a deque, itself or one level up."""
    if tensor is None:
        return 0
    for referrer in gc.get_referrers(tensor):
        if type(referrer) is deque and referrer.maxlen:
            return referrer.maxlen
        if type(referrer) in (tuple, dict, list):
            for outer in gc.get_referrers(referrer):
                if type(outer) is deque and outer.maxlen:
                    return outer.maxlen
    return 0


def _held_at(way: Way) -> Site | None:
    """The line that adds to a container, read in the source of the files that run: the only one that does."""
    name = short_name(way).rsplit(".", 1)[-1]
    if not name.isidentifier():
        return None
    grows = re.compile(
        rf"\b{name}(\[.*\])?\s*(\.(append|extend|add|insert|appendleft|update|setdefault)\(|\+=|\[.*\]\s*=[^=])"
    )
    found = []
    for file in dict.fromkeys(_users_files()):
        for number, line in enumerate(linecache.getlines(file), start=1):
            if grows.search(line) and not line.lstrip().startswith("#"):
                found.append(Site(file=shorten(file), line=number, function=""))
    return found[0] if len(found) == 1 else None


def _users_files() -> Iterator[str]:
    for module in _users_modules():
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            yield file


def _users_modules() -> Iterator[types.ModuleType]:
    """Modules of files that are neither installed nor Python's nor ours."""
    ours = str(Path(__file__).resolve().parents[1])
    standard = sysconfig.get_paths()["stdlib"]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file.startswith((ours, standard)):
            continue
        if "site-packages" not in file and "dist-packages" not in file:
            yield module


def _more_places(sites: SiteTable) -> Iterable[tuple[Way, Any]]:
    """Places that no frame on the stack leads to: loggers, and the globals of other modules of the user's."""
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            name = f"{type(handler).__name__}"
            yield Way("", name, f"the handlers of logger {getattr(logger, 'name', '')!r}"), handler
    for module in _users_modules():
        for name, value in list(vars(module).items()):
            if not name.startswith("__") and not isinstance(value, types.ModuleType):
                yield Way("variable", name, f"the globals of {shorten(str(module.__file__))}"), value


def copies_of_weights(
    models: list[nn.Module], sites: SiteTable, *, step: int, known: set[int], loaded: set[int]
) -> list[Copied]:
    """Names that hold tensors out of a file with the shapes of most of a model's parameters.

    A copy that the script made by itself (the best weights so far, those to go back to) is there on purpose.

    Args:
        models: whose parameters.
        sites: finds the user's frames.
        step: when this is asked.
        known: keys of storages that belong to models, optimizers or are used by the step.
        loaded: keys of storages that were loaded.
    """
    shapes = {(tuple(p.shape), p.dtype) for model in models for p in model.parameters() if p.numel() > 1}
    whole = sum(p.numel() * p.element_size() for model in models for p in model.parameters())
    keys: dict[int, int] = {}
    sizes: list[int] = []
    if not loaded:
        return []
    for thing in gc.get_objects():
        if not issubclass(type(thing), Tensor) or isinstance(thing, nn.Parameter | private.FakeTensor):
            continue  # what an export leaves behind has shapes, some of them symbols, and no bytes
        if (tuple(thing.shape), thing.dtype) not in shapes or thing.layout is not torch.strided:
            continue
        key = private.storage_key(thing.untyped_storage())
        if key in loaded and key not in known and key not in keys:
            keys[key] = len(sizes)
            sizes.append(thing.untyped_storage().nbytes())
    if not sizes or sum(sizes) < 0.5 * whole:
        return []
    search = Search(blocks_of=lambda tensor: _known(tensor, keys), wanted=set(keys.values()), paths={})
    search.keepers(models, sites, _more_places(sites))
    held: dict[tuple[str, str], int] = {}
    for index, way in search.found.items():
        name = (short_name(way), steady_place(way.place))
        held[name] = held.get(name, 0) + sizes[index]
    return [
        Copied(owner=owner, place=place, nbytes=nbytes, step=step)
        for (owner, place), nbytes in held.items()
        if nbytes >= 0.5 * whole and owner
    ]
