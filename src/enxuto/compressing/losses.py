"""The loss that targets ask for when the user names none."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError


def supervised_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class numbers, mean squared error for real targets.

    Args:
        outputs: logits `[batch, ..., classes]` for int64 targets `[batch, ...]`; else of the targets' shape.
        targets: what was to be said.

    Raises:
        UsageError: the shapes fit neither.
    """
    if not targets.is_floating_point() and outputs.shape[:-1] == targets.shape:
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())
    if targets.is_floating_point() and outputs.shape == targets.shape:
        return F.mse_loss(outputs, targets)
    raise UsageError(
        f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} ({targets.dtype}) fit neither "
        "cross-entropy nor mean squared error: give a loss(outputs, targets) of your own"
    )
