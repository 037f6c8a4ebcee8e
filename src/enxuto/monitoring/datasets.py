"""What data sets keep as Python objects, one by one: forked workers copy the pages of all that they read."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..records import PythonObjects

_MANY = 1000  # elements: a shorter container is none of the samples
_SAMPLE = 100  # elements that are weighed
_DEPTH = 4  # data sets inside of data sets, containers inside of samples


def kept_objects() -> tuple[PythonObjects, ...]:
    """The containers of Python objects in the data sets of loaders with workers, most bytes first."""
    loaders = [each for each in gc.get_objects() if issubclass(type(each), DataLoader) and each.num_workers]
    found = {each.owner: each for loader in loaders for each in _in_dataset(loader.dataset, _DEPTH)}
    return tuple(sorted(found.values(), key=lambda each: -each.nbytes))


def _in_dataset(dataset: Any, depth: int) -> Iterator[PythonObjects]:
    for name, value in list(getattr(dataset, "__dict__", {}).items()):
        inner = value if type(value) in (list, tuple) and len(value) < _MANY else (value,)
        for each in inner:
            if depth and isinstance(each, Dataset):
                yield from _in_dataset(each, depth - 1)
        if type(value) in (list, tuple, dict) and len(value) >= _MANY:
            yield _weighed(f"{type(dataset).__name__}.{name}", value)


def _weighed(owner: str, container: Any) -> PythonObjects:
    """The bytes of a container by those of its first elements, what is inside of them included."""
    pairs = container.items() if type(container) is dict else container
    sample = list(islice(pairs, _SAMPLE))
    mean = sum(_python_bytes(each, _DEPTH) for each in sample) / len(sample)
    last = sample[-1][1] if type(container) is dict else sample[-1]
    return PythonObjects(
        owner=owner,
        container=type(container).__name__,
        element=type(last).__name__,
        count=len(container),
        nbytes=round(sys.getsizeof(container) + mean * len(container)),
    )


def _python_bytes(thing: Any, depth: int) -> int:
    """Bytes of a Python object and of those in it; numbers in arrays and tensors are none."""
    kind = type(thing)
    if kind in (int, float, complex, bool, str, bytes):
        return sys.getsizeof(thing)
    if kind in (list, tuple, set, frozenset):
        inside = thing
    elif kind is dict:
        inside = (*thing.keys(), *thing.values())
    else:
        return object.__sizeof__(thing)
    return sys.getsizeof(thing) + (sum(_python_bytes(each, depth - 1) for each in inside) if depth else 0)
