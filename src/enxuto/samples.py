"""Samples: the user's inputs and targets that quality is judged on, and their split into three disjoint sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError

#: Shares of calibrate, choose and certify when the user gives one set.
SHARES = (0.1, 0.3, 0.6)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs, and the targets where there are any; row i of every tensor belongs to sample i.

    Args:
        inputs: what the model takes, in its order, each of shape `[n, ...]`.
        targets: `[n, ...]`, or None where nothing is labelled.

    Raises:
        UsageError: there are no inputs, or their first dimensions differ.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("samples need at least one input tensor")
        sizes = [len(tensor) if tensor.dim() else 0 for tensor in self._tensors()]
        if len(set(sizes)) != 1 or sizes[0] == 0:
            raise UsageError(
                f"every tensor of the samples needs one row for each sample; their first dimensions are {sizes}"
            )

    @classmethod
    def of(cls, given: Any) -> Samples:
        """Samples from what users have at hand: `(inputs, targets)`, or a sequence of `(input, target)` pairs.

        Inputs may be a tensor, an array, or a tuple of these for a model with several arguments; a Dataset of
        pairs is read whole. Bare inputs (no pair) are unlabelled.

        Raises:
            UsageError: nothing of the kind was given.
        """
        if isinstance(given, Samples):
            return given
        if isinstance(given, Tensor | np.ndarray):
            return cls((torch.as_tensor(given),))
        if isinstance(given, tuple | list) and len(given) == 2 and not isinstance(given[0], int | float):
            inputs, targets = given
            if isinstance(inputs, Tensor | np.ndarray):
                return cls((torch.as_tensor(inputs),), _tensor_or_none(targets))
            if isinstance(inputs, tuple | list) and all(isinstance(x, Tensor | np.ndarray) for x in inputs):
                return cls(tuple(torch.as_tensor(x) for x in inputs), _tensor_or_none(targets))
        if hasattr(given, "__len__") and hasattr(given, "__getitem__"):
            return cls._from_pairs(given)
        raise UsageError(
            "data is (inputs, targets), tensors or arrays with one row for each sample, or a Dataset of "
            f"(input, target) pairs; not {type(given).__name__}"
        )

    @classmethod
    def _from_pairs(cls, pairs: Any) -> Samples:
        rows = [pairs[index] for index in range(len(pairs))]
        if not rows or not all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
            raise UsageError("a Dataset has to give (input, target) pairs")
        inputs = torch.stack([torch.as_tensor(row[0]) for row in rows])
        return cls((inputs,), torch.stack([torch.as_tensor(row[1]) for row in rows]))

    def __len__(self) -> int:
        return len(self.inputs[0])

    def take(self, rows: Sequence[int] | Tensor) -> Samples:
        """The samples of these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        targets = None if self.targets is None else self.targets[index]
        return Samples(tuple(tensor[index] for tensor in self.inputs), targets)

    def first(self, n: int) -> Samples:
        """At most the first n samples."""
        targets = None if self.targets is None else self.targets[:n]
        return Samples(tuple(tensor[:n] for tensor in self.inputs), targets)

    def batches(self, size: int) -> Iterator[Samples]:
        """The samples in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes, shapes and types of every tensor, as hex: the same samples, the same text."""
        digest = hashlib.sha256()
        for tensor in self._tensors():
            array = np.ascontiguousarray(tensor.detach().cpu().numpy())
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data if array.size else b"")
        return digest.hexdigest()

    def split(self, shares: Sequence[float] = SHARES, *, seed: int = 0) -> Splits:
        """Three disjoint sets, drawn without replacement under `seed`.

        Raises:
            UsageError: shares are not three positive numbers of sum 1, or a set would be empty.
        """
        if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise UsageError(f"shares are three positive numbers that sum to 1, not {tuple(shares)}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        first = max(1, round(len(self) * shares[0]))
        second = first + max(1, round(len(self) * shares[1]))
        if second >= len(self):
            raise UsageError(f"{len(self)} samples are too few for three disjoint sets")
        return Splits(
            calibrate=self.take(order[:first]),
            choose=self.take(order[first:second]),
            certify=self.take(order[second:]),
        )

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.inputs if self.targets is None else (*self.inputs, self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """What calibrates ranges, what chooses between candidates, and what certifies: no sample is in two of them."""

    calibrate: Samples
    choose: Samples
    certify: Samples


def _tensor_or_none(given: Any) -> Tensor | None:
    return None if given is None else torch.as_tensor(given)
