"""A real run watched from outside: each step's memory, what grows and who holds it, why it ran out."""

from ..records.log import read_log
from . import integrations
from .diagnosis import SITUATIONS, diagnose
from .watch import Watch, active, watch

__all__ = ["SITUATIONS", "Watch", "active", "diagnose", "integrations", "read_log", "watch"]
