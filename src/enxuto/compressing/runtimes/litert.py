"""LiteRT: `.tflite` flatbuffers by litert-torch, run by ai-edge-litert's interpreter."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import UsageError
from ...records import Artefact, Flags, TensorSignature, write_atomically
from .contract import Arrays, Run, Runtime, existing, needed

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install litert-torch ai-edge-litert"


class LiteRt(Runtime):
    """LiteRT's interpreter on the CPU, with its XNNPACK delegate. Shapes are those of the example.

    Source:
        https://ai.google.dev/edge/litert/models/convert_pytorch
    """

    name: ClassVar[str] = "litert"
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "litert-torch")
    module: ClassVar[str] = "ai_edge_litert.interpreter"
    install: ClassVar[str] = _INSTALL

    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = False
    ) -> Artefact:
        """Convert and write the model; see `Runtime.export`.

        Raises:
            UsageError: also for `dynamic_batch=True`, which is not offered here.
        """
        if dynamic_batch:
            raise UsageError("a .tflite is written for one batch size here: say dynamic_batch=False")
        from ..silence import quietly
        from .exporting import eval_copy, inputs_of, not_converted, traced

        with quietly():  # importing it draws random numbers
            converter = needed("litert_torch", _INSTALL)
        program = traced(model, example_inputs, dynamic_batch=False)
        try:
            with quietly(), tempfile.TemporaryDirectory(prefix="enxuto-") as folder:
                written = Path(folder) / "model.tflite"
                converter.convert(eval_copy(model), inputs_of(example_inputs)).export(str(written))
                content = written.read_bytes()
        except Exception as error:
            raise not_converted("litert", program, error) from error
        write_atomically(path, content)
        return self.describe(path)

    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Allocate the interpreter's tensors once."""
        interpreter = self._interpreter(existing(path), self.own_flags(flags).threads)
        interpreter.allocate_tensors()
        inputs = [detail["index"] for detail in interpreter.get_input_details()]
        outputs = [detail["index"] for detail in interpreter.get_output_details()]

        def run(*arrays: np.ndarray) -> Arrays:
            for index, array in zip(inputs, arrays, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return tuple(interpreter.get_tensor(index) for index in outputs)

        return run

    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        interpreter = self._interpreter(path, 1)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return [_signature(detail) for detail in inputs], [_signature(detail) for detail in outputs]

    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        return (("flatbuffer", path.read_bytes()[4:8].decode("ascii", errors="replace")),)

    def write_base(self, path: Path) -> None:
        import torch

        self.export(torch.nn.ReLU(), torch.zeros(1, 1), path, dynamic_batch=False)

    def _interpreter(self, path: Path, threads: int) -> Any:
        try:
            return self.imported().Interpreter(model_path=str(path), num_threads=threads)
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"litert cannot load {path}: {error}") from error


def _signature(detail: dict[str, Any]) -> TensorSignature:
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSignature(name=detail["name"], dtype=np.dtype(detail["dtype"]).name, shape=shape)
