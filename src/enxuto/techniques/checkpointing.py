"""Activation checkpointing: regions of the forward run again in the backward, so that their saves go.

Exact to the bit: random numbers are drawn again from the state that the forward had, and batch-norm statistics
are updated once. Kept products (`keep`) make it selective: only what is cheap runs again.

Source: `torch.utils.checkpoint`, non-reentrant, early stop; Chen et al., "Training deep nets with sublinear
memory cost" (2016).
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from .. import _torch_private as private
from ..errors import UsageError
from ..records import CATEGORY_CODE, Category, Checkpoint, Timeline
from .edits import NOTHING, Edit, joined
from .forwards import replaced
from .regions import (
    PRODUCTS,
    Lives,
    Refused,
    Region,
    check_kept,
    in_forward,
    products,
    recomputation,
    region_of,
)

_MOST_IN_GROUP = 4
_SCRATCH = CATEGORY_CODE[Category.SCRATCH]
WORTH_RATIO = 1 / 2000  # of the peak: what saves less is not worth a region


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that could be made, and what it changes."""

    action: Checkpoint
    parts: tuple[tuple[Region, Edit], ...]  # one for each time the modules are called
    inside: tuple[Checkpoint, ...] = ()  # the actions within its regions

    @property
    def edit(self) -> Edit:
        """All parts at once."""
        return joined(edit for _, edit in self.parts)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The stretches of the forward that run again."""
        return tuple(region for region, _ in self.parts)


def simulate(timeline: Timeline, actions: Sequence[Checkpoint]) -> Edit:
    """The edit of several checkpoints at once, nested ones included.

    Raises:
        Refused: torch would refuse one of them, or compute something else.
        UsageError: a module is not called in this step.
    """
    return joined(c.edit for c in outermost(Lives(timeline), actions))


def outermost(lives: Lives, actions: Sequence[Checkpoint]) -> list[Candidate]:
    """Candidates of the actions, each with those inside it; inner ones are part of the outer."""
    calls = calls_by_path(lives.timeline)
    done: list[Candidate] = []
    with_regions = [(action, regions_of(lives, calls, action)) for action in actions]
    with_regions.sort(key=lambda pair: max(region.exit - region.enter for region in pair[1]))
    for action, regions in with_regions:
        inside = [c for c in done if _all_inside(c.regions, regions)]
        for other in done:
            if other not in inside and _overlap(other.regions, regions):
                raise Refused(f"{' + '.join(action.modules)} overlaps {' + '.join(other.action.modules)}")
        done = [c for c in done if c not in inside]
        done.append(candidate(lives, action, regions, inside))
    return done


def candidate(
    lives: Lives, action: Checkpoint, regions: Sequence[Region], inside: Sequence[Candidate] = ()
) -> Candidate:
    """What one checkpoint changes, with the regions inside it.

    Raises:
        Refused: see `recomputation`.
    """
    parts = []
    for region in regions:
        nested = [edit for c in inside for inner, edit in c.parts if inner in region]
        kept: Sequence[int] = ()
        if action.keep:
            ordered = products(lives, region)
            if max(action.keep) >= len(ordered):
                raise Refused(f"it keeps product {max(action.keep)} of {len(ordered)}")
            kept = ordered[list(action.keep)].tolist()
        edit = recomputation(
            lives, region, kept=kept, random=action.random, nested=joined(nested) if nested else NOTHING
        )
        parts.append((region, edit))
    return Candidate(action, tuple(parts), tuple(a for c in inside for a in (c.action, *c.inside)))


def calls_by_path(timeline: Timeline) -> dict[str, list[int]]:
    """The forward calls of each module path, in order."""
    found: dict[str, list[int]] = {}
    for call in range(len(timeline.calls)):
        if in_forward(timeline, call):
            found.setdefault(timeline.module_of(call), []).append(call)
    return found


def regions_of(lives: Lives, calls: dict[str, list[int]], action: Checkpoint) -> list[Region]:
    """The stretches of the forward that an action names: one for each time its modules are called.

    Raises:
        UsageError: a module is not called in this step.
        Refused: the modules are not called one after the other.
    """
    for path in action.modules:
        if path not in calls:
            raise UsageError(f"the plan checkpoints {path!r}, which is not called in this step")
    times = {len(calls[path]) for path in action.modules}
    if len(times) > 1:
        raise Refused("its modules are not called the same number of times")
    rows = zip(*(calls[path] for path in action.modules), strict=True)
    return [region_of(lives.timeline, row) for row in rows]


def find(timeline: Timeline) -> Found:
    """Every checkpoint worth considering in this step, and the modules that cannot have one, with the reason.

    Single module calls at any depth; neighbours that run one after the other, as one region; regions that keep
    some of their products; and large regions with all their parts checkpointed inside them.
    """
    lives = Lives(timeline)
    calls = {path: ids for path, ids in calls_by_path(timeline).items() if path}
    found = Found([], [])
    worth = timeline.peak * WORTH_RATIO
    for modules in [*((path,) for path in calls), *_neighbours(timeline, calls)]:
        alone = len(modules) == 1
        try:
            whole = _candidate_of(lives, calls, modules)
        except Refused as reason:
            if alone:
                found.refused.append((modules[0], str(reason)))
            continue
        if whole is None or freed_bytes(lives, whole.edit) < worth:
            continue
        found.candidates.append(whole)
        found.candidates.extend(_keeping_products(lives, whole))
    found.candidates.extend(list(_with_parts_inside(lives, found.candidates)))
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` found: candidates, and (module, reason) of those that cannot be one."""

    candidates: list[Candidate]
    refused: list[tuple[str, str]]


def _candidate_of(lives: Lives, calls: dict[str, list[int]], modules: tuple[str, ...]) -> Candidate | None:
    action = Checkpoint(modules=modules)
    regions = regions_of(lives, calls, action)
    if not any(len(lives.saves_packed(region.enter, region.exit)) for region in regions):
        return None
    if draws_random_numbers(lives, regions):
        action = msgspec.structs.replace(action, random=True)
    return candidate(lives, action, regions)


def _neighbours(timeline: Timeline, calls: dict[str, list[int]]) -> Iterator[tuple[str, ...]]:
    """Runs of 2 to 4 modules that are called one after the other by the same module."""
    children: dict[int, list[int]] = {}
    for call in sorted(call for ids in calls.values() for call in ids):
        children.setdefault(int(timeline.calls.parent[call]), []).append(call)
    seen: set[tuple[str, ...]] = set()
    for siblings in children.values():
        for size in range(2, _MOST_IN_GROUP + 1):
            for start in range(len(siblings) - size + 1):
                modules = tuple(timeline.module_of(call) for call in siblings[start : start + size])
                if modules not in seen and len(set(modules)) == size:
                    seen.add(modules)
                    yield modules


def _keeping_products(lives: Lives, whole: Candidate) -> Iterator[Candidate]:
    """The same regions with some products kept: all that may be, or the half that cost most per byte."""
    t = lives.timeline
    ordinals: list[tuple[float, int]] = []
    region, edit = whole.parts[0]
    for ordinal, op in enumerate(products(lives, region).tolist()):
        if t.ops.tick[op] >= edit.reruns[0].stop or _draws(t, op):
            continue
        outputs = np.flatnonzero((t.blocks.op == op) & (t.blocks.category != _SCRATCH))
        nbytes = int(t.blocks.nbytes[outputs].sum())
        try:
            check_kept(lives, outputs, region)
        except Refused:
            continue
        ordinals.append((t.ops.flops[op] / max(nbytes, 1), ordinal))
    ordinals.sort(reverse=True)
    for count in sorted({len(ordinals), (len(ordinals) + 1) // 2}, reverse=True):
        if count:
            keep = tuple(sorted(ordinal for _, ordinal in ordinals[:count]))
            with contextlib.suppress(Refused):
                yield candidate(lives, msgspec.structs.replace(whole.action, keep=keep), whole.regions)


def _with_parts_inside(lives: Lives, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Regions of several parts with each part a region again: the lowest peaks, at the highest cost."""
    plain = [c for c in candidates if not c.action.keep and len(c.action.modules) == 1 and len(c.parts) == 1]
    for outer in candidates:
        if outer.action.keep or len(outer.parts) > 1:
            continue
        inside = _largest_inside(outer, plain)
        if len(inside) > 1:
            with contextlib.suppress(Refused):
                yield candidate(lives, outer.action, outer.regions, inside)


def _largest_inside(outer: Candidate, plain: Sequence[Candidate]) -> list[Candidate]:
    (region,) = outer.regions
    within = [c for c in plain if c.regions[0] in region]
    return [c for c in within if not any(c.regions[0] in other.regions[0] for other in within)]


def freed_bytes(lives: Lives, edit: Edit) -> int:
    """Bytes that an edit no longer keeps between the forward and what runs again."""
    t = lives.timeline
    gone = np.unique(t.saves.block[edit.dropped])
    kept = np.ones(len(t.saves), bool)
    kept[edit.dropped] = False
    gone = gone[~lives.static[gone] & ~np.isin(gone, edit.hold_block)]
    gone = gone[~np.isin(gone, t.saves.block[kept])]
    return int(t.blocks.nbytes[gone].sum())


def draws_random_numbers(lives: Lives, regions: Sequence[Region]) -> bool:
    """Whether an op in the regions asks a generator.

    Raises:
        Refused: it asks a generator of the user's own, whose state torch does not restore.
    """
    t = lives.timeline
    drawing = [op for r in regions for op in lives.ops_within(r.enter, r.exit).tolist() if _draws(t, op)]
    if any('"Generator"' in t.signatures[t.ops.signature[op]] for op in drawing):
        raise Refused("it draws from a generator of its own, whose state would not be restored")
    return bool(drawing)


def _draws(timeline: Timeline, op: int) -> bool:
    """Whether an op draws random numbers; attention without dropout does not."""
    name = timeline.text(int(timeline.ops.name[op]))
    place = _dropout_argument(name)
    if not _is_random(name) or place < 0:
        return _is_random(name)
    arguments = json.loads(timeline.signatures[timeline.ops.signature[op]])[1]
    return place < len(arguments) and bool(arguments[place])


def _overload(name: str) -> Any:
    op: Any = torch.ops
    for part in name.split("."):
        op = getattr(op, part, None)
    return op


@cache
def _is_random(name: str) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(_overload(name), "tags", ())


@cache
def _dropout_argument(name: str) -> int:
    arguments = [a.name for a in _overload(name)._schema.arguments] if _is_random(name) else []
    return arguments.index("dropout_p") if "dropout_p" in arguments else -1


def _all_inside(inner: Sequence[Region], outer: Sequence[Region]) -> bool:
    return all(any(region in other for other in outer) for region in inner)


def _overlap(some: Sequence[Region], others: Sequence[Region]) -> bool:
    return any(a.enter < b.exit and b.enter < a.exit for a in some for b in others)


# -- on a real model -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def apply(model: nn.Module, actions: Sequence[Checkpoint]) -> Iterator[None]:
    """Make the modules' forwards checkpointed while the context lasts; what they were comes back.

    Raises:
        UsageError: a module is missing, or compiled or patched by others in a way that cannot be undone.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    # outer regions are wrapped last, around what is inside them
    ordered = sorted(actions, key=lambda action: -min(path.count(".") for path in action.modules))
    ordered.sort(key=lambda action: len(action.modules))
    with contextlib.ExitStack() as stack:
        for action in ordered:
            try:
                members = [modules[path] for path in action.modules]
            except KeyError as missing:
                raise UsageError(
                    f"the plan checkpoints {missing}, and this model has no such module; "
                    "was the plan made for another model?"
                ) from None
            stack.enter_context(_applied(members, action))
        yield


@contextlib.contextmanager
def _applied(members: Sequence[nn.Module], action: Checkpoint) -> Iterator[None]:
    group = _Group(members, action)
    with contextlib.ExitStack() as stack:
        for module, forward in zip(members, group.forwards, strict=True):
            stack.enter_context(replaced(module, forward))
        yield


class _Group:
    """Modules that run one after the other as one region: the first runs them all, the others pass on."""

    def __init__(self, members: Sequence[nn.Module], action: Checkpoint) -> None:
        self._inner = [module.forward for module in members]
        self._members = members
        self._action = action
        self._statistics = [
            m for module in members for m in module.modules() if isinstance(m, private.BatchNorms)
        ]
        self._passing: list[Any] = []
        self._others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # what is no tensor: the same for all
        self.forwards: list[Callable[..., Any]] = [
            self._first,
            *(partial(self._pass, n) for n in range(1, len(members))),
        ]

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        self._passing = []
        if not torch.is_grad_enabled():
            return self._inner[0](*args, **kwargs)
        flat, shape = private.pytree.tree_flatten((args, kwargs))

        def run(*leaves: Any) -> Any:
            inner_args, inner_kwargs = private.pytree.tree_unflatten(list(leaves), shape)
            value = self._inner[0](*inner_args, **inner_kwargs)
            for forward in self._inner[1:]:
                value = forward(value, *inner_args[1:], **inner_kwargs)
            return value

        result = checkpoint(
            run,
            *flat,
            use_reentrant=False,
            preserve_rng_state=self._action.random,
            context_fn=self._contexts,
        )
        if len(self._members) > 1:
            self._passing, self._others = [result] * (len(self._members) - 1), (args[1:], kwargs)
        return result

    def _pass(self, member: int, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._passing:
            return self._inner[member](value, *args, **kwargs)
        others, named = self._others
        same = len(args) == len(others) and all(a is b for a, b in zip(args, others, strict=True))
        same = same and kwargs.keys() == named.keys() and all(kwargs[k] is named[k] for k in kwargs)
        if self._passing.pop() is not value or not same:
            raise UsageError(
                f"{' + '.join(self._action.modules)} are checkpointed together, and their caller changes what "
                "passes between them; checkpoint them one by one"
            )
        return value

    def _contexts(self) -> tuple[Any, Any]:
        quiet = _frozen_statistics(self._statistics)
        if not self._action.keep:
            return contextlib.nullcontext(), quiet
        forward, again = create_selective_checkpoint_contexts(_keeping(frozenset(self._action.keep)))
        return forward, _both(again, quiet)


def _keeping(ordinals: frozenset[int]) -> Callable[..., CheckpointPolicy]:
    """A policy that keeps the outputs of some of a region's products, told by the order they run in."""
    counter = itertools.count()

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if str(op).startswith(PRODUCTS) and next(counter) in ordinals:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return policy


@contextlib.contextmanager
def _both(first: Any, second: Any) -> Iterator[None]:
    with first, second:
        yield


@contextlib.contextmanager
def _frozen_statistics(norms: Sequence[private.BatchNorms]) -> Iterator[None]:
    """While a region runs again, batch norms must not count the batch a second time.

    A momentum of 0 leaves running statistics as they are, to the bit: 1 * old + 0 * new.
    """
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, _ in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, counted in before:
            norm.momentum = momentum
            norm.num_batches_tracked = counted
