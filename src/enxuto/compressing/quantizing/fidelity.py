"""How far one network's outputs are from another's, without labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ...errors import UsageError
from .affine import sqnr_db


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Outputs beside the original's: mean KL divergence (nats), share of equal top-1 answers, SQNR in dB."""

    kl: float
    agreement: float
    sqnr_db: float


def fidelity(original: Tensor, other: Tensor) -> Fidelity:
    """Compare outputs of equal shape; the classes are axis 1, or the last of `[n, positions, classes]`.

    Args:
        original: logits of the network as it was.
        other: logits of the network in its place.

    Raises:
        UsageError: the shapes differ, or there is nothing to compare.
    """
    if original.shape != other.shape or original.numel() == 0:
        raise UsageError(f"outputs of {tuple(original.shape)} and {tuple(other.shape)} cannot be compared")
    original, other = original.detach().double(), other.detach().double()
    axis = 0 if original.dim() == 1 else original.dim() - 1 if original.dim() == 3 else 1
    before, after = (functional.log_softmax(logits, dim=axis) for logits in (original, other))
    kl = (before.exp() * (before - after)).sum(axis).mean()
    agreement = (before.argmax(axis) == after.argmax(axis)).double().mean()
    return Fidelity(kl=max(0.0, float(kl)), agreement=float(agreement), sqnr_db=sqnr_db(original, other))
