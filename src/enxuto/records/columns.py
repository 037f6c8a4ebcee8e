"""Columns: many equal rows kept as numpy arrays, read row by row as small frozen objects.

A Timeline of a million blocks holds a few arrays instead of a million objects; `blocks[3]`, `len(blocks)`
and iteration still give a `Block`. Rows whose field is a list of integers use `Ragged`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Self, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ragged:
    """Lists of integers, one per row: row i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Pack rows of integers."""
        lengths: list[int] = [0]
        values: list[int] = []
        for row in rows:
            values.extend(row)
            lengths.append(len(values))
        return cls(offsets=np.array(lengths, np.int64), values=np.array(values, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ragged) and same_values(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, row: int) -> tuple[int, ...]:
        return tuple(self.values[self.offsets[row] : self.offsets[row + 1]].tolist())

    def owners(self) -> Array:
        """The row that each value belongs to, one per value."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


class Columns(Sequence[RowT], Generic[RowT]):
    """Base of the column records: a frozen dataclass whose fields are arrays (or `Ragged`) of one length."""

    __slots__ = ()

    def row(self, index: int) -> RowT:
        """The object for one row."""
        raise NotImplementedError  # abstract: every column record says how its rows read

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.row(i) for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"row {index} of {size}")
        return self.row(int(index) % size)

    def __iter__(self) -> Iterator[RowT]:
        return (self.row(i) for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            same_values(getattr(self, f.name), getattr(other, f.name))
            for f in fields(self)  # type: ignore[arg-type]
        )

    __hash__ = None  # type: ignore[assignment]


def same_values(left: Any, right: Any) -> bool:
    """Whether two column fields hold the same rows."""
    if isinstance(left, Ragged):
        return np.array_equal(left.offsets, right.offsets) and np.array_equal(left.values, right.values)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    return bool(left == right)
