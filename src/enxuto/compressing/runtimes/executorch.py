"""ExecuTorch: `.pte` programs lowered to XNNPACK, run by its Python runtime.

Its planned arena does not show what the delegate takes; measured memory does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import UsageError
from ...records import Artefact, Flags, TensorSignature, write_atomically
from .contract import Arrays, Run, Runtime, existing, needed

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install torch==2.13.0 executorch==1.5.1"
_FORWARD = "forward"
#: ScalarType codes of `MethodMeta.input_tensor_meta`, as in `c10/core/ScalarType.h`.
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_BOOL = 11


class ExecuTorch(Runtime):
    """ExecuTorch with the XNNPACK delegate.

    Shapes are those of the example: XNNPACK plans its memory for the largest, so a dynamic batch would not save.

    Source:
        https://docs.pytorch.org/executorch/stable/backends-xnnpack.html
    """

    name: ClassVar[str] = "executorch"
    packages: ClassVar[tuple[str, ...]] = ("executorch", "torch")
    module: ClassVar[str] = "executorch.runtime"
    install: ClassVar[str] = _INSTALL

    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = False
    ) -> Artefact:
        """Lower and write the model; see `Runtime.export`.

        Raises:
            UsageError: also for `dynamic_batch=True`, which is not offered here.
        """
        if dynamic_batch:
            raise UsageError("a .pte is written for one batch size here: say dynamic_batch=False")
        from ..silence import quietly
        from .exporting import not_converted, traced

        exir = needed("executorch.exir", _INSTALL)
        xnnpack = needed("executorch.backends.xnnpack.partition.xnnpack_partitioner", _INSTALL)
        program = traced(model, example_inputs, dynamic_batch=False)
        try:
            with quietly():
                lowered = exir.to_edge_transform_and_lower(
                    program, partitioner=[xnnpack.XnnpackPartitioner()]
                )
                content: bytes = lowered.to_executorch().buffer
        except Exception as error:
            raise not_converted("executorch", program, error) from error
        write_atomically(path, content)
        return self.describe(path)

    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Load the program's forward method."""
        import torch

        self._pin(self.own_flags(flags).threads)
        method = self._program(existing(path)).load_method(_FORWARD)

        def run(*arrays: np.ndarray) -> Arrays:
            return tuple(t.numpy().copy() for t in method.execute([torch.from_numpy(a) for a in arrays]))

        return run

    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        meta = self._program(path).metadata(_FORWARD)
        inputs = [_signature(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs())]
        outputs = [_signature(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs())]
        return inputs, outputs

    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        return (("flatbuffer", path.read_bytes()[4:8].decode("ascii", errors="replace")),)

    def write_base(self, path: Path) -> None:
        import torch

        self.export(torch.nn.ReLU(), torch.zeros(1, 1), path, dynamic_batch=False)

    def _program(self, path: Path) -> Any:
        executorch = self.imported()
        try:
            return executorch.Runtime.get().load_program(str(path))
        except Exception as error:
            raise UsageError(f"executorch cannot load {path}: {error}") from error

    def _pin(self, threads: int) -> None:
        """XNNPACK computes on a pool of its own, which is as wide as the machine unless told otherwise."""
        pool = needed("executorch.extension.pybindings.portable_lib", _INSTALL)
        if hasattr(pool, "_unsafe_reset_threadpool"):
            pool._unsafe_reset_threadpool(threads)


def _signature(name: str, meta: Any) -> TensorSignature:
    code = int(meta.dtype())
    dtype = "bool" if code == _BOOL else _DTYPES[code]
    return TensorSignature(name=name, dtype=dtype, shape=tuple(int(size) for size in meta.sizes()))
