"""The conductor: trace, plan, apply, trace again dry, measure."""

from .fit import Fit, fit

__all__ = ["Fit", "fit"]
