"""Timeline -> what it would be elsewhere: at another batch size."""

from .scaling import Scaling, Superlinear, mismatch

__all__ = ["Scaling", "Superlinear", "mismatch"]
