"""What was measured against what was promised."""

from .caps import Cap, CapRun, process_base, run_capped
from .verify import verify

__all__ = ["Cap", "CapRun", "process_base", "run_capped", "verify"]
