"""Timeline -> Explanation: the receipt of a peak, what it tells, and the difference of two."""

from .difference import difference
from .explain import explain
from .receipt import receipt

__all__ = ["difference", "explain", "receipt"]
