"""Device: what the hardware adds to a Timeline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from . import codec


class Basis(Enum):
    """Where a figure comes from; shown beside it wherever a user sees it."""

    MEASURED = "measured"
    PUBLISHED = "published"
    ASSUMED = "assumed"


class Allocator(Enum):
    """How the device hands out memory."""

    HOST = "host"  # exact bytes: torch's CPU allocator asks malloc for each storage
    CUDA_CACHING = "cuda caching"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its unit and its basis; `source` says how it was obtained."""

    value: float
    unit: str
    basis: Basis
    source: str


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A machine to run on. `usable` and `context` in bytes, speeds in flops/s and bytes/s; `rules` name the
    op rules (kernel scratch, corrected output sizes) that `devices` applies to a dry Timeline."""

    kind: ClassVar[str] = "device"
    version: ClassVar[int] = 1

    name: str
    usable: Figure
    context: Figure
    flops_per_second: Figure
    bytes_per_second: Figure
    allocator: Allocator
    rules: tuple[str, ...]
