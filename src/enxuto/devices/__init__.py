"""Device: what hardware adds to a Timeline: usable bytes, kernel scratch, output sizes."""

from .calibration import OpMemory
from .cpu import OpMemories, cpu_device, cpu_op_memories
from .scratch import ScratchTable

__all__ = ["OpMemories", "OpMemory", "ScratchTable", "cpu_device", "cpu_op_memories"]
