"""A step -> Timeline. Observes tensors."""

from .recorder import Recorder
from .trace import trace, training_step

__all__ = ["Recorder", "trace", "training_step"]
