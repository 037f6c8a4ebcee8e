"""Timeline -> what it would be elsewhere: at another batch size, and the largest batch within a budget."""

from .largest import largest_batch
from .scaling import Scaling, Superlinear, mismatch

__all__ = ["Scaling", "Superlinear", "largest_batch", "mismatch"]
