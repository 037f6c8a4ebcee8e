"""Recipe: how each weight of a network is stored and computed with, as a record that travels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from . import codec


class Scheme(Enum):
    """How the weights of a node are stored, and what it computes in."""

    FLOAT32 = "float32"  # as it is
    FLOAT16 = "float16"  # stored and computed in 16 bits; whole networks only
    WEIGHT16 = "weight16"  # stored in 16 bits, computed in 32
    WEIGHT8 = "weight8"  # stored in 8 bits with a scale for each channel, computed in 32
    WEIGHT4 = "weight4"  # stored in 4 bits, two to a byte, computed in 32
    DYNAMIC8 = "dynamic8"  # 8-bit weights; activations quantized to 8 bits as they come
    STATIC8_TENSOR = "static8-tensor"  # 8-bit weights and activations, one scale for each weight
    STATIC8 = "static8"  # 8-bit weights and activations, one scale for each channel of a weight
    STATIC8_WIDE = "static8-wide"  # as STATIC8, with 16-bit activations

    @property
    def is_static(self) -> bool:
        """Whether activations need ranges, and so calibration data."""
        return self in (Scheme.STATIC8_TENSOR, Scheme.STATIC8, Scheme.STATIC8_WIDE)


class Ranges(Enum):
    """How the range of an activation follows from the values seen in calibration (onnxruntime's names)."""

    MINMAX = "minmax"  # all of them
    ENTROPY = "entropy"  # the range whose 8-bit histogram is nearest by KL
    PERCENTILE = "percentile"  # all but the most extreme


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How static ranges are found.

    Attributes:
        ranges: the method.
        percentile: of the values inside the range, in percent; for `Ranges.PERCENTILE`.
        batch_size: samples that run at once.
    """

    ranges: Ranges = Ranges.MINMAX
    percentile: float = 99.99
    batch_size: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another scheme for one node; `name` is the node's, or that of a weight it reads."""

    name: str
    scheme: Scheme


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A scheme for every node, and the exceptions.

    Attributes:
        default: the scheme of every node that is not named.
        overrides: the exceptions; the last one that names a node holds.
        calibration: how static ranges are found.
        block_size: weights that share a scale in WEIGHT4 (a power of two from 16).
        smallest: weights of fewer elements stay in 32 bits under the weight-only schemes: the scales and the
            extra node would cost more than they save.
        reduce_range: weights of static and dynamic schemes in 7 bits, for x86 processors without VNNI, whose
            kernels saturate where two products of 8 bits do not fit 16.
    """

    kind: ClassVar[str] = "recipe"
    version: ClassVar[int] = 1

    default: Scheme = Scheme.STATIC8
    overrides: tuple[Override, ...] = ()
    calibration: Calibration = Calibration()
    block_size: int = 32
    smallest: int = 256
    reduce_range: bool = False

    def with_override(self, names: Iterable[str] | str, scheme: Scheme) -> Recipe:
        """This recipe with one more exception for each name."""
        named = (names,) if isinstance(names, str) else tuple(names)
        added = tuple(Override(name=name, scheme=scheme) for name in named)
        return replace(self, overrides=self.overrides + added)

    @property
    def needs_data(self) -> bool:
        """Whether any scheme is static."""
        return self.default.is_static or any(override.scheme.is_static for override in self.overrides)

    def to_json(self) -> bytes:
        """This recipe as versioned JSON."""
        return codec.to_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Recipe:
        """Read a recipe; raises RecordError for anything else."""
        recipe: Recipe = codec.from_json(text, expect=cls)
        return recipe
