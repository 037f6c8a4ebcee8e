"""Who holds a temporary at the peak: the variable, attribute or container through which Python reaches it.

The peak is known only when a step is over, and looking at a frame's variables prolongs their lives. So the
step is run once more, dry, up to the tick of the peak, and looked at there; what was recorded stays as it is.
Nothing is said unless that step ran the same ops at the same ticks.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import types
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import _torch_private as private
from ..records import CATEGORY_CODE, PHASE_CODE, Category, Holder, Phase, Timeline
from .assembling import Window, rows_of
from .recorder import Recorder
from .sites import SiteTable, is_users_file, shorten

_WORTH = 0.01  # of the peak: smaller blocks are not looked for
_DEPTH = 4  # steps from a variable to the tensor
_CHAIN = 1000  # steps, where the first look found no name: each pair of a chain holds the one before
_NAME = 80  # letters: what lies deeper has the name of where it begins
_OBJECTS = 100_000  # opened at most
_ELEMENTS = 10_000  # of one container, at most
_NO_BLOCK = -1

_MADE = [
    CATEGORY_CODE[category]
    for category in (
        Category.SAVED_ACTIVATION,
        Category.TEMPORARY_FORWARD,
        Category.TEMPORARY_BACKWARD,
        Category.TEMPORARY_OPTIMIZER,
        Category.OTHER,
    )
]


class AnotherStepError(RuntimeError):
    """The step that was run to look at did not do what the recorded one did."""


class _Seen(BaseException):
    """Ends the step once the peak was looked at. No Exception, so that the user's own handlers let it pass."""


class Lookout:
    """Looks at the peak of a recorded step while that step runs once more.

    Args:
        recorder: what recorded the timeline.
        window: the timeline's step on the recorder's clock.
        timeline: whose peak it is.
        model: the module of the step, whose attributes are looked at.
    """

    def __init__(self, *, recorder: Recorder, window: Window, timeline: Timeline, model: nn.Module) -> None:
        self._recorder, self._window, self._timeline, self._model = recorder, window, timeline, model
        self._blocks = held_blocks(timeline)
        self._start = self._first_op = 0

    @property
    def needed(self) -> bool:
        """Whether there is any block to look for."""
        return len(self._blocks) > 0

    def holders(self, run: Callable[[Callable[[], None]], object]) -> tuple[Holder, ...]:
        """What holds each block that was found.

        Args:
            run: runs one more step under the recorder, and calls what it is given ahead of the step.

        Raises:
            AnotherStepError: this step ran other ops than the recorded one.
        """
        try:
            run(self._begin)
        except _Seen as seen:
            texts: Iterable[str] = seen.args
            tick = self._timeline.peak_tick
            return tuple(
                Holder(block=block, tick=tick, text=text)
                for block, text in zip(self._blocks.tolist(), texts, strict=True)
                if text
            )
        finally:
            self._recorder.call_at(-1, lambda: None)
        raise AnotherStepError("one more step ran other ops than the recorded one")

    def _begin(self) -> None:
        self._start, self._first_op = self._recorder.clock, len(self._recorder.o_name)
        self._recorder.call_at(self._start + self._timeline.peak_tick, self._look)

    def _look(self) -> None:
        recorder = self._recorder
        if not _same_ops(recorder, self._window.start, self._start, self._first_op):
            return
        rows = rows_of(recorder, self._window)[self._blocks].tolist()
        twins = _twins(recorder, rows, self._start - self._window.start)
        search = Search(
            blocks_of=recorder.blocks_of, wanted={*twins} - {_NO_BLOCK}, paths=recorder.module_paths
        )
        search.everywhere([self._model], recorder.sites)
        found = {block: str(way) for block, way in search.found.items()}
        raise _Seen(*(found.get(twin) or _unnamed(recorder, twin) for twin in twins))


def held_blocks(timeline: Timeline) -> np.ndarray:
    """Ids of the blocks whose holder is worth a look: of 1 % of the peak or more, made by the step, held by
    no save at the peak, and neither made nor read for the last time by the op that runs there."""
    tick, blocks, saves, ops = timeline.peak_tick, timeline.blocks, timeline.saves, timeline.ops
    held = (blocks.born < tick) & (tick < blocks.natural) & np.isin(blocks.category, _MADE)
    held &= blocks.nbytes >= max(1, _WORTH * timeline.peak)
    held[saves.block[(saves.pack <= tick) & (tick < saves.release)]] = False
    op = timeline.op_at(tick)
    if op >= 0 and ops.tick[op] == tick:
        following = int(ops.tick[op + 1]) if op + 1 < len(ops) else timeline.ticks
        read = np.array(ops.reads[op], np.int64)
        held[read] &= blocks.natural[read] > following
    return np.flatnonzero(held)


def _same_ops(recorder: Recorder, recorded: int, start: int, first_op: int) -> bool:
    """Whether the ops since `first_op` are those of the recorded step, at the same ticks."""
    before = bisect_left(recorder.o_tick, recorded, hi=first_op)
    count = len(recorder.o_name) - first_op
    then, now = slice(before, before + count), slice(first_op, first_op + count)
    ticks_then = [tick - recorded for tick in recorder.o_tick[then]]
    ticks_now = [tick - start for tick in recorder.o_tick[now]]
    return recorder.o_name[then] == recorder.o_name[now] and ticks_then == ticks_now


def _twins(recorder: Recorder, rows: Iterable[int], shift: int) -> list[int]:
    """For each recorded block the living one that stands for it now: itself, or the one that the same line
    made `shift` ticks later, -1 if there is none."""
    first: dict[int, int] = {}
    for block, born in enumerate(recorder.b_born):
        first.setdefault(born, block)

    def twin(row: int) -> int:
        if recorder.b_natural[row] < 0:
            return row
        born = recorder.b_born[row]
        later = first.get(born + shift, _NO_BLOCK) + row - first[born]
        same = 0 <= later < len(recorder.b_born) and _origin(recorder, later) == _origin(recorder, row)
        return later if same and recorder.b_natural[later] < 0 else _NO_BLOCK

    return [twin(row) for row in rows]


def _origin(recorder: Recorder, block: int) -> tuple[int, int]:
    """The op and the source line that made a block."""
    op = recorder.b_op[block]
    return recorder.o_name[op] if op >= 0 else -1, recorder.b_site[block]


def _unnamed(recorder: Recorder, block: int) -> str:
    """What can be said of a block that no Python object refers to."""
    if block == _NO_BLOCK or recorder.b_phase[block] != recorder.phase:
        return ""
    if recorder.phase == PHASE_CODE[Phase.BACKWARD]:
        return "the running backward (no Python object refers to it)"
    return "an expression under evaluation (no Python object refers to it)"


class Way(NamedTuple):
    """How Python reaches an object: `list element` `outputs[...]` of `forward() at model.py:52`."""

    what: str
    name: str
    place: str

    def __str__(self) -> str:
        return f"{self.what} `{self.name}` of {self.place}" if self.name else self.place

    def attribute(self, name: str) -> Way:
        if len(self.name) > _NAME:
            return self
        return Way("attribute", f"{self.name}.{name}" if self.name else name, self.place)

    def element(self, container: Any, key: Any = None) -> Way:
        if len(self.name) > _NAME:
            return self
        kind = next(kind for kind in _CONTAINERS if issubclass(type(container), kind)).__name__
        index = repr(key) if isinstance(key, str) and len(key) < 40 else "..."
        return Way(f"{kind} element", f"{self.name}[{index}]", self.place)


_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_LEAVES = frozenset({int, float, complex, bool, str, bytes, type(None), types.ModuleType})
_MODULE_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(slots=True, kw_only=True)
class Search:
    """Walks from places where Python keeps names to tensors; the first way that reaches a block is kept.

    So the places come in the order in which they are likely to let go last: attributes of modules, autograd
    nodes, globals, then the functions on the stack, the outermost first.
    """

    blocks_of: Callable[[Tensor], list[int]]
    wanted: set[int]
    paths: Mapping[int, str]
    found: dict[int, Way] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    _opened: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def everywhere(self, models: Iterable[nn.Module], sites: SiteTable) -> None:
        """Look through the models, the autograd nodes, the frames of the stack and waiting generators."""
        things = gc.get_objects()
        self.walk(_modules(models))
        self.walk(_nodes(things))
        for variables in _variables(sites, things):
            self.walk(variables)
        if missing := self.wanted - self.found.keys():
            self._referrers(self._tensors(things, missing), things)

    def keepers(
        self, models: list[nn.Module], sites: SiteTable, more: Iterable[tuple[Way, Any]] = ()
    ) -> None:
        """Look for what keeps tensors from step to step: what is kept may be a node, so the nodes come last, and
        may be the end of a long chain, so what has no name yet is looked for once more, and deeper."""
        things, more = gc.get_objects(), list(more)
        self._rounds(models, sites, things, more)
        self.walk(_nodes(things))
        tensors = self._tensors(things, self.wanted - self.found.keys())
        if tensors:
            self._opened.clear()
            self._rounds(models, sites, things, more, depth=_CHAIN)
        if tensors and self.wanted - self.found.keys():
            self._referrers(tensors, things)

    def _rounds(
        self,
        models: list[nn.Module],
        sites: SiteTable,
        things: list[Any],
        more: list[tuple[Way, Any]],
        *,
        depth: int = _DEPTH,
    ) -> None:
        self.walk(_modules(models), depth)
        for variables in _variables(sites, things):
            self.walk(variables, depth)
        for root in more:
            self.walk([root], depth)

    def _tensors(self, things: list[Any], blocks: set[int]) -> list[Tensor]:
        """The tensors in memory that have some blocks; what only a graph holds is none."""
        return [t for t in things if issubclass(type(t), Tensor) and blocks.intersection(self._of(t))]

    def _referrers(self, tensors: list[Tensor], things: list[Any]) -> None:
        """Say at least what kind of object has the tensors that no name leads to."""
        ours = {id(things), id(tensors)}
        for referrer in gc.get_referrers(*tensors):
            kind = type(referrer)
            observer = kind.__module__.startswith("enxuto.tracing")  # what we gave to autograd
            if id(referrer) not in ours and kind is not types.FrameType and not observer:
                way = Way("", "", f"a {type(referrer).__name__} that no variable was found to lead to")
                for tensor in gc.get_referents(referrer):
                    if issubclass(type(tensor), Tensor):
                        self._reached(way, tensor)

    def walk(self, roots: Iterable[tuple[Way, Any]], most: int = _DEPTH) -> None:
        """Look through what some names lead to, the nearest first."""
        queue = deque((0, way, value) for way, value in roots)
        while queue and len(self.found) < len(self.wanted):
            depth, way, value = queue.popleft()
            if type(value) in _LEAVES:
                continue
            if issubclass(type(value), Tensor):
                self._reached(way, value)
            before, _ = self._opened.get(id(value), (most, None))
            if depth < before and len(self._opened) < _OBJECTS:
                self._opened[id(value)] = depth, value  # held, so that its id stays its own
                queue.extend((depth + 1, *step) for step in self._inside(way, value))

    def _reached(self, way: Way, tensor: Tensor) -> None:
        for block in self.wanted.intersection(self._of(tensor)):
            if block not in self.found:
                self.found[block] = way
                self.tensors[block] = tensor

    def _of(self, tensor: Tensor) -> list[int]:
        return self.blocks_of(tensor) if tensor.layout is torch.strided else []

    def _inside(self, way: Way, value: Any) -> Iterator[tuple[Way, Any]]:
        """What an object refers to, with the way there."""
        kind = type(value)  # isinstance would ask the object, and a proxy may answer by doing things
        if issubclass(kind, Tensor):
            if value.is_leaf or value.retains_grad:
                yield way.attribute("grad"), value.grad
        elif issubclass(kind, nn.Module):
            yield from self._in_module(way, value)
        elif kind is types.FunctionType:
            yield from _in_closure(value)
        elif kind is types.MethodType:
            yield way, value.__self__
        elif issubclass(kind, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                yield way, part
        elif issubclass(kind, type):
            yield from _in_class(way, value)
        elif issubclass(kind, BaseException):
            yield from _in_exception(way, value)
        elif not str(kind.__module__).startswith(_INTERNAL):
            yield from _in_object(way, value)

    def _in_module(self, way: Way, module: nn.Module) -> Iterator[tuple[Way, Any]]:
        path = self.paths.get(id(module))
        if path is not None:
            title = f"module {path}" if path else "the model"
            way = Way("", "", f"{title} ({type(module).__name__})")
        tables = (vars(module).get(table, {}) for table in _MODULE_TABLES)
        for name, value in chain(vars(module).items(), *(table.items() for table in tables)):
            if name not in _MODULE_TABLES:
                yield way.attribute(name), value


#: Of these packages' objects no user's variable is reached.
_INTERNAL = ("enxuto.tracing", "enxuto.monitoring", "enxuto._torch_private", "torch._", "torch.fx")


def _in_closure(function: types.FunctionType) -> Iterator[tuple[Way, Any]]:
    place = f"the closure of {_called(function.__code__)} at {_line(function.__code__)}"
    yield from _defaults(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield Way("variable", name, place), cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue


def _defaults(function: types.FunctionType) -> Iterator[tuple[Way, Any]]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    place = f"the defaults of {_called(code)} at {_line(code)}"
    for name, value in (*zip(names, values, strict=True), *(function.__kwdefaults__ or {}).items()):
        yield Way("default", name, place), value


def _in_class(way: Way, value: type) -> Iterator[tuple[Way, Any]]:
    """What a class of the user's has: a list that is written in its body belongs to nobody else."""
    module = sys.modules.get(value.__module__)
    if value.__module__ == "__main__" or is_users_file(getattr(module, "__file__", None) or "<none>"):
        for name, item in list(vars(value).items()):
            if not name.startswith("__"):
                yield way.attribute(name), item


def _in_exception(way: Way, error: BaseException) -> Iterator[tuple[Way, Any]]:
    """An exception holds the frames that it passed through, and they their variables."""
    yield from _in_object(way, error)
    for cause in (error.__cause__, error.__context__):
        yield way, cause
    link = error.__traceback__
    while link is not None:
        frame, link = link.tb_frame, link.tb_next
        if frame.f_code.co_flags & inspect.CO_NEWLOCALS:  # a function's: those of a module are its globals
            for value in frame.f_locals.values():
                yield Way("traceback", way.name, way.place), value


def _in_object(way: Way, value: Any) -> Iterator[tuple[Way, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        for key, item in islice(dict.items(value), _ELEMENTS):
            yield way.element(value, key), item
    elif issubclass(kind, _CONTAINERS):
        for item in islice(_newest_first(value), _ELEMENTS):
            yield way.element(value), item
    if kind in _CONTAINERS:
        return
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        for name, item in list(attributes.items()):
            yield way.attribute(name), item
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if type(slot) is types.MemberDescriptorType and "__slots__" in vars(base):
                yield way.attribute(name), getattr(value, name, None)


def _newest_first(container: Any) -> Iterable[Any]:
    """Of a long list the end counts: that is where it grows."""
    return list.__reversed__(container) if issubclass(type(container), list) else container


def _modules(models: Iterable[nn.Module]) -> Iterator[tuple[Way, Any]]:
    return ((Way("", "", ""), module) for model in models for module in model.modules())


def _variables(sites: SiteTable, things: list[Any]) -> Iterator[Iterator[tuple[Way, Any]]]:
    """The variables of the user's functions that run or wait, their globals first, and of the libraries between."""
    frames = list(sites.frames())
    users = [frame for frame in reversed(frames) if sites.is_user(frame.f_code)]
    yield from (*map(_globals, users), *map(_locals, users))
    for frame in _waiting(things, frames):
        if sites.is_user(frame.f_code):
            yield _locals(frame, "generator ")
    for frame in frames:
        if not sites.is_user(frame.f_code):
            yield _locals_of_library(frame, sites)


def _nodes(things: Iterable[Any]) -> Iterator[tuple[Way, Any]]:
    """The autograd nodes written in Python: what `ctx` was given stays on them."""
    for thing in things:
        if issubclass(type(thing), private.PythonNode):
            yield Way("", "", f"autograd node {type(thing).__name__}"), thing


def _waiting(things: Iterable[Any], running: list[types.FrameType]) -> Iterator[types.FrameType]:
    """The frames of generators that wait for their next turn."""
    for thing in things:
        if (
            type(thing) is types.GeneratorType
            and thing.gi_frame is not None
            and thing.gi_frame not in running
        ):
            yield thing.gi_frame


def _globals(frame: types.FrameType) -> Iterator[tuple[Way, Any]]:
    for name, value in list(frame.f_globals.items()):
        if not name.startswith("__"):
            yield Way("variable", name, f"the globals of {shorten(frame.f_code.co_filename)}"), value


def _locals(frame: types.FrameType, kind: str = "") -> Iterator[tuple[Way, Any]]:
    place = f"{kind}{_called(frame.f_code)} at {_line(frame.f_code, frame.f_lineno)}"
    return _variables_of(frame, place)


def _locals_of_library(frame: types.FrameType, sites: SiteTable) -> Iterator[tuple[Way, Any]]:
    """Variables of a library's function, which the user knows by the line that called it."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    caller = next((f for f in sites.frames(frame) if sites.is_user(f.f_code)), None)
    called = f", called at {_line(caller.f_code, caller.f_lineno)}" if caller else ""
    passed_on = _stars(frame.f_code)  # `*args` of a wrapper: what it wraps has the same by name
    for way, value in _variables_of(frame, f"{package}'s {_called(frame.f_code)}{called}"):
        if way.name not in passed_on:
            yield way, value


def _variables_of(frame: types.FrameType, place: str) -> Iterator[tuple[Way, Any]]:
    code = frame.f_code
    arguments = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *_stars(code)}
    for name, value in list(frame.f_locals.items()):
        if name.startswith("."):  # what a comprehension runs through
            continue
        if name in arguments:
            yield Way("argument", name, place), value
        else:
            yield Way("variable" if name in code.co_freevars else "local variable", name, place), value


def _stars(code: types.CodeType) -> tuple[str, ...]:
    """The names of a function's `*args` and `**kwargs`."""
    named = code.co_argcount + code.co_kwonlyargcount
    count = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[named : named + count]


def _called(code: types.CodeType) -> str:
    if code.co_name == "__call__":  # what is called is the object
        return f"{code.co_qualname.split('.')[-2]}()"
    if code.co_name.startswith("<"):
        return "a lambda" if code.co_name == "<lambda>" else "a comprehension"
    return f"{code.co_name}()"


def _line(code: types.CodeType, line: int = 0) -> str:
    return f"{shorten(code.co_filename)}:{line or code.co_firstlineno}"
