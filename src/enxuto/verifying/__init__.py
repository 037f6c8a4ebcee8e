"""What was measured against what was promised."""

from .caps import Cap, CapRun, process_base, run_capped
from .looks import Ledger
from .quality import Fidelity, Runnable, answered, certify, fidelity, needed_samples, top1
from .recheck import recheck
from .verify import verify

__all__ = [
    "Cap",
    "CapRun",
    "Fidelity",
    "Ledger",
    "Runnable",
    "answered",
    "certify",
    "fidelity",
    "needed_samples",
    "process_base",
    "recheck",
    "run_capped",
    "top1",
    "verify",
]
