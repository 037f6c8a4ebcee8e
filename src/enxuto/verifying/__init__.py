"""What was measured against what was promised."""

from .caps import Cap, CapRun, process_base, run_capped

__all__ = ["Cap", "CapRun", "process_base", "run_capped"]
