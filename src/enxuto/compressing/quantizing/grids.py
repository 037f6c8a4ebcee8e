"""Grids: weights that a repair has already rounded, found again in the exported file by their very values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """A weight `codes · scale`, one scale for each output channel (axis 0, as torch's layers have it).

    Attributes:
        name: of the parameter.
        codes: int8 of the weight's shape, in `bits` symmetric bits.
        scale: float32 `[channels]`.
        bits: 4 or 8, or another width that a runtime stores as one of them.
    """

    name: str
    codes: Tensor
    scale: Tensor
    bits: int

    @property
    def weight(self) -> Tensor:
        """The rounded weight, float32: what a module that is exported has to hold."""
        return self.codes.float() * self.scale.reshape(-1, *[1] * (self.codes.dim() - 1))


class GridIndex:
    """Grids by the values of their weights: exporters rename, transpose and merge, but change no value."""

    def __init__(self, grids: Iterable[Grid] = ()) -> None:
        self._grids: dict[bytes, Grid] = {}
        for grid in grids:
            weight = grid.weight.detach().cpu().numpy()
            self._grids[_key(weight)] = grid
            if weight.ndim == 2:
                self._grids.setdefault(_key(weight.T), grid)

    def holds(self, values: np.ndarray[Any, Any]) -> bool:
        """Whether these values are a grid's weight, or its transpose."""
        return _key(values) in self._grids

    def scales_of(
        self, values: np.ndarray[Any, Any], *, bits: int, axis: int | None
    ) -> np.ndarray[Any, Any] | None:
        """float32 `[channels]` of the grid that these values lie on; None where there is none for these bits.

        A grid of fewer bits serves: its codes are codes of more bits too.
        """
        grid = self._grids.get(_key(values)) if self._grids else None
        if grid is None or grid.bits > bits or axis is None or values.shape[axis] != len(grid.scale):
            return None
        return grid.scale.detach().cpu().to(torch.float32).numpy()


def _key(values: np.ndarray[Any, Any]) -> bytes:
    plain = np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)  # -0 and 0 are one value
    return repr(plain.shape).encode() + plain.tobytes()
