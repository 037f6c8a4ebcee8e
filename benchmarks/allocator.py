"""What torch's own CPU allocator says: `enxuto.verifying.memory`, under the names that the benchmarks use."""

from __future__ import annotations

from enxuto.verifying.memory import MeasuredPeaks as Truth
from enxuto.verifying.memory import marked_peaks, run_step, standing_bytes, true_peaks

__all__ = ["Truth", "marked_peaks", "run_step", "standing_bytes", "true_peaks"]
