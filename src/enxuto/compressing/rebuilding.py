"""An architecture made to fit the weights of its compressed self: the edits of a Rebuild, replayed."""

from __future__ import annotations

from torch import nn

from ..records import Fold, LowRank, Rebuild
from .factorising import apply_ranks
from .folding import apply_folds
from .pruning.removal import apply_shapes


def rebuild(model: nn.Module, edits: Rebuild) -> nn.Module:
    """Replay edits on a freshly built model, in place; then load the stored tensors into it.

    Args:
        model: as the user's own code builds it.
        edits: what pruning, factorising and folding returned, in their order.

    Returns:
        The same module; the values of what was edited mean nothing until a state dict is loaded.

    Raises:
        UsageError: the model is of another architecture.
    """
    for edit in edits.edits:
        match edit:
            case Fold():
                apply_folds(model, (edit,))
            case LowRank():
                apply_ranks(model, (edit,))
            case _:
                apply_shapes(model, edit)
    return model
