"""Device: what hardware adds to a Timeline: usable bytes, kernel scratch, output sizes."""

from .cpu import cpu_device, cpu_scratch
from .scratch import ScratchTable

__all__ = ["ScratchTable", "cpu_device", "cpu_scratch"]
