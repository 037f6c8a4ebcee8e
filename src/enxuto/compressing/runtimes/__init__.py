"""Runtimes that execute compressed networks, one file each; `runtime(name)` finds them.

Imports no torch and no runtime: the process that measures memory starts from here.
"""

from __future__ import annotations

import importlib

from ...errors import UsageError
from .contract import Arrays, Run, Runtime

#: Names and where each is defined; "torch" takes the TARGET of the model that its changes start from.
_HOMES = {
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "torch": ("torch_eager", "TorchEager"),
    "executorch": ("executorch", "ExecuTorch"),
    "openvino": ("openvino", "OpenVino"),
    "litert": ("litert", "LiteRt"),
}
NAMES = tuple(_HOMES)


def runtime(name: str = "onnxruntime", *, target: str | None = None) -> Runtime:
    """The runtime of that name.

    Args:
        name: one of `NAMES`.
        target: for "torch" alone: the TARGET whose model function builds the original architecture.

    Raises:
        UsageError: no runtime has that name, or a target was given to one that takes none.

    >>> runtime().name
    'onnxruntime'
    """
    if name not in _HOMES:
        raise UsageError(f"unknown runtime {name!r}; there are {', '.join(NAMES)}")
    if (target is not None) != (name == "torch"):
        raise UsageError("the runtime torch, and it alone, needs target=: where its model function is")
    module, cls = _HOMES[name]
    found = getattr(importlib.import_module(f".{module}", __name__), cls)
    built: Runtime = found(target) if target is not None else found()
    return built


__all__ = ["NAMES", "Arrays", "Run", "Runtime", "runtime"]
