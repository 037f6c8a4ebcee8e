"""OpenVINO: `.xml` graphs with their weights in `.bin` beside them, run on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import UsageError
from ...records import Artefact, Flags, TensorSignature
from .contract import Arrays, Run, Runtime, existing

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install openvino"


class OpenVino(Runtime):
    """OpenVINO on the CPU.

    Source:
        https://docs.openvino.ai/2026/openvino-workflow/model-preparation/convert-model-pytorch.html
    """

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    module: ClassVar[str] = "openvino"
    install: ClassVar[str] = _INSTALL

    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = True
    ) -> Artefact:
        """Convert and write the model in full precision; see `Runtime.export`. `path` ends in .xml."""
        from ..silence import quietly
        from .exporting import inputs_of, not_converted, traced

        if (target := Path(path)).suffix != ".xml":
            raise UsageError(
                f"OpenVINO finds the weights of NAME.xml in NAME.bin: {target} does not end in .xml"
            )
        openvino = self.imported()
        program = traced(model, example_inputs, dynamic_batch=dynamic_batch)
        try:
            with quietly():
                converted = openvino.convert_model(program)
                # conversion makes every size dynamic; the graph then plans for none
                shapes = _shapes(inputs_of(example_inputs), dynamic_batch)
                converted.reshape(
                    dict(zip(converted.inputs, map(openvino.PartialShape, shapes), strict=True))
                )
        except Exception as error:
            raise not_converted("openvino", program, error) from error
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            # without the flag OpenVINO halves the weights' precision in silence
            openvino.save_model(converted, Path(folder) / target.name, compress_to_fp16=False)
            for name in (f"{target.stem}.bin", target.name):  # the graph last: it makes both valid
                os.replace(Path(folder) / name, target.parent / name)
        return self.describe(target)

    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Compile the graph for this CPU, in the precision that it has."""
        openvino = self.imported()
        settings = {"INFERENCE_NUM_THREADS": self.own_flags(flags).threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(self._graph(existing(path)), "CPU", settings)

        def run(*arrays: np.ndarray) -> Arrays:
            found = compiled(list(arrays))
            return tuple(np.array(found[output]) for output in compiled.outputs)

        return run

    def files(self, path: Path) -> tuple[Path, ...]:
        """The graph and its weights."""
        return (path.with_suffix(".bin"), path)

    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        graph = self._graph(path)
        return [_signature(p) for p in graph.inputs], [_signature(p) for p in graph.outputs]

    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        from xml.etree import ElementTree

        return (("openvino ir", ElementTree.parse(path).getroot().get("version", "unknown")),)

    def write_base(self, path: Path) -> None:
        import torch

        written = path.with_suffix(".xml")
        self.export(torch.nn.ReLU(), torch.zeros(1, 1), written)
        os.replace(written, path)

    def _graph(self, path: Path) -> Any:
        try:
            return self.imported().Core().read_model(path, path.with_suffix(".bin"))
        except Exception as error:
            raise UsageError(f"openvino cannot read {path}: {error}") from error


def _shapes(inputs: Sequence[Any], dynamic: bool) -> list[list[int]]:
    return [[-1 if dynamic and not i else int(n) for i, n in enumerate(tensor.shape)] for tensor in inputs]


def _signature(port: Any) -> TensorSignature:
    shape = tuple("batch" if size.is_dynamic else int(size.get_length()) for size in port.partial_shape)
    name = port.any_name if port.names else f"port_{port.index}"
    return TensorSignature(name=name, dtype=np.dtype(port.element_type.to_dtype()).name, shape=shape)
