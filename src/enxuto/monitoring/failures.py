"""Which exceptions mean that memory is out."""

from __future__ import annotations

import torch

from ..errors import OutOfBudget

#: What torch's CPU allocator and other devices say; they have no exception of their own.
_WORDS = ("can't allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception says that an allocation was refused, or that our soft budget was reached."""
    if isinstance(error, OutOfBudget | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
