"""Affine quantization: real numbers as small integers, a scale and a zero point; its error and its bytes.

    code = clamp(round(x / scale) + zero_point)          x ≈ (code - zero_point) · scale

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(2018), https://arxiv.org/abs/1712.05877, equation 1. The ranges are onnxruntime's (`quant_utils.py`): a symmetric
grid leaves out the lowest code, so that it has as many steps below zero as above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError

FEWEST_BITS, MOST_BITS = 2, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A family of grids: how many bits, symmetric about zero or not, one scale or one for each channel.

    Args:
        bits: 2 to 16.
        symmetric: codes are signed and the zero point is 0; otherwise unsigned, with the range of the data.
        axis: one scale for each index of this axis; None: one for the whole tensor.

    Raises:
        UsageError: bits outside 2 to 16.
    """

    bits: int = 8
    symmetric: bool = True
    axis: int | None = None

    def __post_init__(self) -> None:
        if not FEWEST_BITS <= self.bits <= MOST_BITS:
            raise UsageError(f"affine quantization takes {FEWEST_BITS} to {MOST_BITS} bits, not {self.bits}")

    @property
    def lowest(self) -> int:
        """The lowest code: -127 of 8 symmetric bits, 0 of asymmetric ones."""
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The highest code: 127 of 8 symmetric bits, 255 of asymmetric ones."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    @property
    def storage(self) -> torch.dtype:
        """The smallest type of torch that holds a code."""
        if self.bits > 8:
            return torch.int16 if self.symmetric else torch.int32
        return torch.int8 if self.symmetric else torch.uint8


#: What runtimes store weights in by default: 8 bits, a scale for each output channel of a torch layer.
CHANNELS8 = Affine(bits=8, axis=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantized:
    """A tensor as integers: codes of its shape, and scale and zero point that broadcast against it."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    affine: Affine

    def dequantize(self) -> Tensor:
        """The real numbers that the codes stand for, float32."""
        return (self.codes.int() - self.zero_point).float() * self.scale

    @property
    def nbytes(self) -> int:
        """Bytes when stored: codes packed to their bits, 4 for each scale, a code's bytes for each zero point.

        A symmetric grid stores no zero points: they are 0.
        """
        codes = -(-self.codes.numel() * self.affine.bits // 8)
        zeros = 0 if self.affine.symmetric else self.scale.numel() * (1 if self.affine.bits <= 8 else 2)
        return codes + 4 * self.scale.numel() + zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineError:
    """How far a stored tensor is from the original: the largest difference, signal to noise in dB, bytes."""

    max_error: float
    sqnr_db: float
    nbytes: int
    original_nbytes: int

    @property
    def saved_ratio(self) -> float:
        """The share of the original's bytes that is saved; 0.75 of 32 bits in 8, less the scales."""
        return 1 - self.nbytes / self.original_nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The naive cast beside the right one, on the same tensor."""

    naive: AffineError
    right: AffineError


def quantize(tensor: Tensor, affine: Affine | None = None) -> Quantized:
    """A tensor on the tightest grid that holds all its values, and zero exactly.

    Every value comes back within half a scale. A channel of zeros gets scale 1.

    Args:
        tensor: floating point, not empty, finite.
        affine: the family of grids; 8 bits, symmetric, one scale unless told otherwise.

    Raises:
        UsageError: the tensor is empty, holds NaN or infinity or no floats, or has no such axis.

    Example:
        >>> stored = quantize(torch.tensor([-1.0, 0.0, 0.5]), Affine(bits=8))
        >>> stored.codes.tolist(), stored.nbytes
        ([-127, 0, 64], 7)
    """
    affine = affine or Affine()
    values = _checked(tensor, affine)
    scale, zero_point = _grid(values, affine)
    return on_grid(values, scale, zero_point, affine)


def on_grid(values: Tensor, scale: Tensor, zero_point: Tensor, affine: Affine) -> Quantized:
    """The nearest codes of a given grid; values beyond it are clamped to its ends."""
    codes = (torch.round(values / scale) + zero_point).clamp(affine.lowest, affine.highest)
    return Quantized(codes=codes.to(affine.storage), scale=scale, zero_point=zero_point.int(), affine=affine)


def error_of(original: Tensor, stored: Tensor, nbytes: int) -> AffineError:
    """The error of what was stored in `nbytes`, read back as floats of the original's shape."""
    noise = original.double() - stored.double()
    return AffineError(
        max_error=float(noise.abs().max()),
        sqnr_db=sqnr_db(original, stored),
        nbytes=nbytes,
        original_nbytes=original.numel() * original.element_size(),
    )


def sqnr_db(original: Tensor, stored: Tensor) -> float:
    """Signal to quantization noise, 10·log10(Σx² / Σ(x - y)²) in dB; infinite where they are equal."""
    noise = (original.double() - stored.double()).square().sum()
    return float(10 * torch.log10(original.double().square().sum() / noise)) if noise > 0 else float("inf")


def lesson(weights: Tensor, affine: Affine | None = None) -> Lesson:
    """What a cast without scale and zero point loses, beside quantization with them.

    The naive line, `(weights * 255).astype(uint8)`, is right for values from 0 to 1 only: negative weights wrap
    around and large ones overflow, and nothing that is stored says how to read it back (by 1/255, here).
    """
    values = weights.detach().float()
    wrapped = (values * 255).to(torch.int64).remainder(256)  # uint8 wraps around
    stored = quantize(values, affine)
    return Lesson(
        naive=error_of(values, wrapped.float() / 255, values.numel()),
        right=error_of(values, stored.dequantize(), stored.nbytes),
    )


def pack4(codes: Tensor) -> Tensor:
    """Codes of 4 bits packed two to a byte, the first in the low half, as ONNX's INT4 and UINT4 store them.

    Args:
        codes: integers from -8 to 7, or from 0 to 15, of any shape.

    Returns:
        uint8 `[ceil(n / 2)]`; an odd count is padded with 0.

    Raises:
        UsageError: a code needs more than 4 bits.
    """
    flat = codes.flatten().to(torch.int16)
    if flat.numel() and (flat.min() < -8 or flat.max() > 15 or (flat.min() < 0 and flat.max() > 7)):
        raise UsageError("4 bits hold codes from -8 to 7 or from 0 to 15")
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    low, high = flat[0::2] & 15, flat[1::2] & 15
    return (low | (high << 4)).to(torch.uint8)


def unpack4(packed: Tensor, shape: tuple[int, ...], *, signed: bool) -> Tensor:
    """The codes that `pack4` packed, as int8 (signed) or uint8 of this shape.

    Raises:
        UsageError: the bytes do not hold that many codes.
    """
    count = 1
    for size in shape:
        count *= size
    if packed.numel() != -(-count // 2):
        raise UsageError(f"{packed.numel()} bytes do not hold {count} codes of 4 bits")
    halves = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count].to(torch.int16)
    if not signed:
        return halves.to(torch.uint8).reshape(shape)
    return torch.where(halves > 7, halves - 16, halves).to(torch.int8).reshape(shape)


def _checked(tensor: Tensor, affine: Affine) -> Tensor:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        raise UsageError(f"only a tensor of floats that is not empty can be quantized, not {tensor.dtype}")
    if affine.axis is not None and not -tensor.dim() <= affine.axis < tensor.dim():
        raise UsageError(f"a tensor of {tensor.dim()} axes has no axis {affine.axis}")
    values = tensor.detach().float()
    if not torch.isfinite(values).all():
        raise UsageError(
            "a tensor with NaN or infinity cannot be quantized: look for the layer that made them"
        )
    return values


def _grid(values: Tensor, affine: Affine) -> tuple[Tensor, Tensor]:
    """Scale and zero point that hold every value, and zero."""
    low, high = (_extreme(values, affine.axis, end).float() for end in ("min", "max"))
    low, high = low.clamp(max=0), high.clamp(min=0)
    if affine.symmetric:
        scale = torch.maximum(-low, high) / affine.highest
        return _safe(scale), torch.zeros_like(scale)
    scale = _safe((high - low) / affine.highest)
    return scale, torch.round(-low / scale).clamp(0, affine.highest)


def _safe(scale: Tensor) -> Tensor:
    """Scale 1 where everything is zero, or so small that dividing by the scale would overflow."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


def _extreme(values: Tensor, axis: int | None, end: str) -> Tensor:
    others = [dim for dim in range(values.dim()) if axis is None or dim != axis % values.dim()]
    if not others:
        return values
    return values.amin(others, keepdim=True) if end == "min" else values.amax(others, keepdim=True)
