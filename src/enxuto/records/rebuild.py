"""Rebuild: how a network's modules differ from those that its own code builds, so that its weights can be loaded.

A pruned, factorised or folded network is stored as tensors (safetensors) and this record (JSON): the user's
code builds the original architecture, `compressing.rebuild` replays the edits, and the tensors fit. No pickle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import msgspec

from . import codec


class Resized(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter or buffer, by its path, and its new shape."""

    tensor: str
    shape: tuple[int, ...]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """A module's own count that follows the shapes: `out_channels`, `groups`, `num_features`, `heads` …"""

    module: str
    name: str
    value: int


class Reshape(msgspec.Struct, frozen=True, kw_only=True, tag="reshape"):
    """Structured pruning: what became smaller."""

    tensors: tuple[Resized, ...]
    counts: tuple[Counted, ...]


class LowRank(msgspec.Struct, frozen=True, kw_only=True, tag="low-rank"):
    """One linear layer or convolution became two, with `rank` channels between them."""

    module: str
    rank: int


class Fold(msgspec.Struct, frozen=True, kw_only=True, tag="fold"):
    """A batch norm went into the layer before it: that layer has a bias, and the norm is an identity."""

    layer: str
    norm: str


Edit: TypeAlias = Reshape | LowRank | Fold


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """Edits of an architecture, in the order in which they were made."""

    kind: ClassVar[str] = "rebuild"
    version: ClassVar[int] = 1

    edits: tuple[Edit, ...] = ()

    def then(self, *edits: Edit) -> Rebuild:
        """The same, and these edits after it."""
        return Rebuild(edits=(*self.edits, *edits))

    def to_json(self) -> bytes:
        """These edits as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Rebuild:
        """Read edits; raises RecordError for anything else."""
        found: Rebuild = codec.from_json(text, expect=cls)
        return found
