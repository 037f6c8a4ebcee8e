"""Actions in plain words: one, or many at once, so that forty checkpoints are one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import assert_never

from ..records import (
    Action,
    Checkpoint,
    EarlyRelease,
    FrozenBatchNorm,
    HostAllocator,
    InferenceMode,
    MicroBatches,
    Offload,
    OneKernelStep,
    OptimizerInBackward,
    SingleTensorStep,
    SmallerBatch,
)
from .wording import counted, plain

_MOST_PIECES = 4  # of a list of modules; beyond, their number and the two ends


def name_action(action: Action) -> str:
    """One action in plain words.

    >>> name_action(MicroBatches(pieces=4))
    'batch in 4 pieces, one update'
    """
    return name_actions([action])[0]


def name_actions(actions: Iterable[Action]) -> list[str]:
    """A set of actions in plain words, alike ones in one phrase; in the order of their first appearance.

    >>> name_actions([Checkpoint(modules=(f"h.{i}",), keep=(0, 1)) for i in range(3, 12)])
    ['h.3–h.11 run again, keeping 2 products each']
    >>> name_actions([OneKernelStep(), Checkpoint(modules=("h.0.mlp",)), Checkpoint(modules=("h.1.mlp",))])
    ['fused optimizer step', 'mlp of h.0–h.1 run again']
    """
    groups: dict[Action | str, list[Action]] = defaultdict(list)
    for action in actions:
        groups[kind_of(action)].append(action)
    return [_name_group(group) for group in groups.values()]


def kind_of(action: Action) -> Action | str:
    """What alike actions have in common; an action that stands alone is its own kind."""
    match action:
        case Checkpoint(modules=modules, keep=keep):
            regions = "regions" if len(modules) > 1 else "modules"
            return f"{regions} keeping products" if keep else regions
        case Offload():
            return "offloads"
        case _:
            return action


def name_modules(paths: Iterable[str]) -> str:
    """A set of module paths, numbered ones as ranges.

    >>> name_modules(["h.0", "h.1", "h.2", "h.5"])
    'h.0–h.2, h.5'
    >>> name_modules([f"h.{i}" for i in range(0, 12, 2)])
    'every 2nd of h.0–h.10'
    >>> name_modules([f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1)])
    'conv1 of layer1.0–layer1.1, conv1 of layer2.0–layer2.1, conv1 of layer3.0–layer3.1'
    >>> name_modules(["stem", "a.1", "b.3", "c.5", "head"])
    '5 modules from stem to head'
    """
    known = list(dict.fromkeys(paths))
    pieces = min((_pieces(known, rule) for rule in (_split_last, _split_first)), key=len)
    if len(pieces) > _MOST_PIECES:
        return f"{counted(len(known), 'module')} from {_shown(known[0])} to {_shown(known[-1])}"
    return ", ".join(pieces)


def _name_group(actions: Sequence[Action]) -> str:
    """Actions of one kind in one phrase."""
    checkpoints = [action for action in actions if isinstance(action, Checkpoint)]
    if checkpoints:
        return f"{_rerun(checkpoints)}{_kept(checkpoints)}"
    action = actions[0]
    match action:
        case Checkpoint():
            raise AssertionError("checkpoints are named above")
        case Offload():
            modules = name_modules(each.module for each in actions if isinstance(each, Offload))
            return f"what {modules} save waits in host memory"
        case MicroBatches(pieces=pieces):
            return f"batch in {counted(pieces, 'piece')}, one update"
        case OptimizerInBackward():
            return "each parameter updated in the backward"
        case OneKernelStep():
            return "fused optimizer step"
        case SingleTensorStep():
            return "optimizer step parameter by parameter (foreach off)"
        case FrozenBatchNorm():
            return "batch norm frozen at its running statistics"
        case EarlyRelease():
            return "gradients released after the update"
        case InferenceMode():
            return "inference mode"
        case HostAllocator(kind=kind):
            return f"freed memory given back at once ({plain(kind)})"
        case SmallerBatch(size=size, rate=rate):
            return f"batch size {size:,}" + (f", learning rate ×{rate:g}" if rate != 1 else "")
        case _:
            assert_never(action)


def _rerun(checkpoints: Sequence[Checkpoint]) -> str:
    regions = [each.modules for each in checkpoints]
    paths = [path for region in regions for path in region]
    verb = "runs again" if len(set(paths)) == 1 else "run again"
    if max(map(len, regions)) == 1:
        return f"{name_modules(paths)} {verb}"
    if len(regions) == 1:
        return f"{name_modules(paths)} {verb} as one region"
    sizes = sorted({len(region) for region in regions})
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{name_modules(paths)} {verb} in {len(regions)} regions of {each}"


def _kept(checkpoints: Sequence[Checkpoint]) -> str:
    """How many products (matrix products and convolutions) do not run again."""
    sizes = sorted({len(each.keep) for each in checkpoints})
    if sizes == [0]:
        return ""
    count = counted(sizes[0], "product") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} products"
    return f", keeping {count}" + (" each" if len(checkpoints) > 1 else "")


Split = tuple[str, int, str]  # what is before the number, the number, what is after it


def _pieces(paths: Sequence[str], rule: Callable[[str], Split | None]) -> list[str]:
    """The paths as ranges, where a rule says which number of a path counts."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for path in paths:
        before, number, after = rule(path) or (path, -1, "")
        families[before, after].append(number)
    pieces: list[str] = []
    for (before, after), numbers in families.items():
        of = f"{plain(after)} of " if after else ""
        pieces += [f"{of}{_shown(before)}"] if numbers == [-1] else _ranges(sorted(numbers), before, of)
    return pieces


def _ranges(numbers: Sequence[int], before: str, of: str) -> list[str]:
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        ends = f"{plain(before)}{numbers[0]}–{plain(before)}{numbers[-1]}"
        return [f"every {_ordinal(step)} of {ends}" if not of else f"{of}every {_ordinal(step)} of {ends}"]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        of + "–".join(f"{plain(before)}{end}" for end in dict.fromkeys((run[0], run[-1]))) for run in runs
    ]


def _ordinal(number: int) -> str:
    """A small number as an ordinal.

    >>> [_ordinal(n) for n in (2, 3, 4, 11, 22)]
    ['2nd', '3rd', '4th', '11th', '22nd']
    """
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"


def _split_last(path: str) -> Split | None:
    """A path around its last number: ("h.", 3, "mlp") for "h.3.mlp"."""
    return _split(path, last=True)


def _split_first(path: str) -> Split | None:
    return _split(path, last=False)


def _split(path: str, *, last: bool) -> Split | None:
    parts = path.split(".")
    places = [place for place, part in enumerate(parts) if part.isascii() and part.isdigit()]
    if not places:
        return None
    place = places[-1 if last else 0]
    before = "".join(f"{part}." for part in parts[:place])
    return before, int(parts[place]), ".".join(parts[place + 1 :])


def _shown(path: str) -> str:
    return plain(path) or "the whole model"
