"""onnxruntime: `.onnx` files by torch's own exporter, run on the CPU.

Batch norms are folded by the exporter: onnxscript's optimizer fuses them into the convolution or linear layer
before them (`onnxscript/rewriter/rules/common/_fuse_batchnorm.py`).
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import UsageError
from ...records import Artefact, Flags, OnnxRuntimeFlags, OptimizationLevel, TensorSignature, write_atomically
from .contract import Arrays, Run, Runtime, existing, needed

if TYPE_CHECKING:
    from torch import nn

_LEVELS = {
    OptimizationLevel.DISABLE: "ORT_DISABLE_ALL",
    OptimizationLevel.BASIC: "ORT_ENABLE_BASIC",
    OptimizationLevel.EXTENDED: "ORT_ENABLE_EXTENDED",
    OptimizationLevel.ALL: "ORT_ENABLE_ALL",
}
#: Smaller initializers stay in the graph: shapes and the like have to be read before anything is mapped.
_EXTERNAL_FROM_BYTES = 1024
_BLOCKS = "enxuto.vector_width"  # of the CPU that a file was optimized ahead for, in the file's metadata
_INSTALL = "pip install 'enxuto[compress]'"


class OnnxRuntime(Runtime):
    """onnxruntime on the CPU; the default runtime.

    Source:
        https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html
    """

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    module: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = _INSTALL

    @property
    def default_flags(self) -> OnnxRuntimeFlags:
        """onnxruntime's own, on one thread."""
        return OnnxRuntimeFlags()

    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = True
    ) -> Artefact:
        """Write the model as ONNX, weights inside; see `Runtime.export`."""
        import torch

        from ..._torch_private import onnx_registry_read_once
        from ..silence import quietly
        from .exporting import not_converted, traced

        needed("onnxscript", _INSTALL)
        program = traced(model, example_inputs, dynamic_batch=dynamic_batch)
        try:
            with quietly(), onnx_registry_read_once():
                exported = torch.onnx.export(program, dynamo=True, optimize=True, verbose=False)
        except Exception as error:
            raise not_converted("onnxruntime", program, error) from error
        assert exported is not None  # with dynamo=True a program comes back
        write_atomically(path, _plain_model(exported.model_proto).SerializeToString(deterministic=True))
        return self.describe(path)

    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Open a session under the flags; a file optimized ahead is not optimized again."""
        session = open_session(existing(path), self._flags(flags))
        names = [given.name for given in session.get_inputs()]

        def run(*arrays: np.ndarray) -> Arrays:
            return tuple(session.run(None, dict(zip(names, arrays, strict=True))))

        return run

    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        graph = _read(path).graph
        weights = {initializer.name for initializer in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        return [_signature(value) for value in inputs], [_signature(value) for value in graph.output]

    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        model = _read(path)
        opsets = ((f"opset {opset.domain or 'ai.onnx'}", str(opset.version)) for opset in model.opset_import)
        return (("onnx ir", str(model.ir_version)), *sorted(opsets))

    def files(self, path: Path) -> tuple[Path, ...]:
        """The graph, and the files that hold its weights."""
        inside = {
            entry.value
            for initializer in _read(path).graph.initializer
            for entry in initializer.external_data
            if entry.key == "location"
        }
        return (path, *(path.parent / name for name in sorted(inside)))

    def write_base(self, path: Path) -> None:
        onnx = needed("onnx", _INSTALL)
        x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 1]) for n in "xy")
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "base", [x], [y])
        opset = onnx.helper.make_opsetid("", 20)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        write_atomically(path, model.SerializeToString(deterministic=True))

    def prepare(self, path: str | Path, flags: OnnxRuntimeFlags, to: str | Path) -> Artefact:
        """Write the file that the flags ask for: optimized ahead, weights beside it, both or neither.

        Args:
            path: an artefact of `export`, or any ONNX file.
            flags: `ahead`, `level` and `external_data` say what is written.
            to: where; its weights, if they go outside, into `to` + ".data".

        Raises:
            UsageError: onnxruntime cannot read the file.
        """
        source, target = existing(path), Path(to)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            ready = _optimized(source, flags, Path(folder)) if flags.ahead else _read(source, weights=True)
        if flags.ahead and flags.level is OptimizationLevel.ALL:
            entry = ready.metadata_props.add()
            entry.key, entry.value = _BLOCKS, vector_width()
        _write(ready, target, external=flags.external_data)
        return self.describe(target)

    def _flags(self, flags: Flags | None) -> OnnxRuntimeFlags:
        given = self.own_flags(flags)
        assert isinstance(given, OnnxRuntimeFlags)
        return given


def with_external_data(path: str | Path, to: str | Path) -> Artefact:
    """Write a model again with its weights in `to` + ".data", which onnxruntime maps instead of reading.

    Args:
        path: an ONNX file.
        to: where the graph goes; the weights go beside it.

    Raises:
        UsageError: there is no such file, or it is no ONNX model.
    """
    return OnnxRuntime().prepare(path, OnnxRuntimeFlags(external_data=True), to)


def open_session(path: Path, flags: OnnxRuntimeFlags, *, optimized_to: Path | None = None) -> Any:
    """An InferenceSession under the flags; `optimized_to` also writes the graph that it made of the file.

    Raises:
        UsageError: onnxruntime refuses the file, or it was optimized ahead for another CPU.
    """
    runtime = needed("onnxruntime", _INSTALL)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    level = OptimizationLevel.DISABLE if flags.ahead and optimized_to is None else flags.level
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[level])
    options.intra_op_num_threads, options.inter_op_num_threads = flags.threads, 1
    options.enable_cpu_mem_arena = flags.arena
    options.enable_mem_pattern = flags.memory_pattern
    options.add_session_config_entry("session.disable_prepacking", str(int(not flags.prepacking)))
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many classes of its own, with no common base
        raise UsageError(f"onnxruntime cannot load {path}: {error}") from error
    made_for = session.get_modelmeta().custom_metadata_map.get(_BLOCKS)
    if made_for not in (None, vector_width()):
        raise UsageError(
            f"{path} was optimized ahead for a CPU with {made_for}, and this one has {vector_width()}: "
            "prepare it again here, or at level EXTENDED, which runs anywhere"
        )
    return session


@cache
def vector_width() -> str:
    """The vectors of this CPU, which onnxruntime sizes its blocked layouts by (`MlasNchwcGetBlockSize`)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    wide = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "base")
    return f"{platform.machine()} {wide}"


def _optimized(source: Path, flags: OnnxRuntimeFlags, folder: Path) -> Any:
    """What onnxruntime makes of a graph at the flags' level, as a model with its weights inside."""
    written = folder / "optimized.onnx"
    open_session(source, flags, optimized_to=written)
    return _read(written, weights=True)


def _read(path: Path, *, weights: bool = False) -> Any:
    """The model at `path`, its outside weights only when asked for."""
    onnx = needed("onnx", _INSTALL)
    try:
        return onnx.load(path, load_external_data=weights)
    except Exception as error:  # protobuf's own classes
        raise UsageError(f"{path} is no ONNX model: {error}") from error


def _write(model: Any, target: Path, *, external: bool) -> None:
    """Write a model whose weights are inside, to one file or to two; the graph comes last, and makes it valid."""
    if not external:
        write_atomically(target, model.SerializeToString(deterministic=True))
        return
    onnx = needed("onnx", _INSTALL)
    data = f"{target.name}.data"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        onnx.save(
            model,
            Path(folder) / target.name,
            save_as_external_data=True,
            location=data,
            size_threshold=_EXTERNAL_FROM_BYTES,
        )
        for name in (data, target.name):
            if (Path(folder) / name).exists():  # a small net may have nothing to put outside
                os.replace(Path(folder) / name, target.parent / name)


def _plain_model(model: Any) -> Any:
    """The model without the exporter's notes: stack traces, file names and intermediate shapes only weigh."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    _name_the_batch(graph)
    return model


def _name_the_batch(graph: Any) -> None:
    """Call the dynamic size "batch": it comes as a symbol of torch's, numbered by chance."""
    sizes = [size for value in (*graph.input, *graph.output) for size in value.type.tensor_type.shape.dim]
    symbols = [size.dim_param for size in sizes if size.dim_param]
    if symbols:  # inputs come first, and only their first size is dynamic
        symbol = re.compile(rf"\b{re.escape(symbols[0])}\b")
        for size in sizes:
            if size.dim_param:
                size.dim_param = symbol.sub("batch", size.dim_param)


def _signature(value: Any) -> TensorSignature:
    onnx = needed("onnx", _INSTALL)
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(size.dim_param or int(size.dim_value) for size in tensor.shape.dim)
    return TensorSignature(name=value.name, dtype=dtype.name, shape=shape)


@cache
def int8_saturates() -> bool:
    """Whether onnxruntime's 8-bit kernels saturate on this processor, as x86 without VNNI does (VPMADDUBSW).

    The sum of two products of unsigned by signed 8 bits must fit 16 bits there; with 7-bit weights it does.

    Source:
        https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When to use reduce-range"
    """
    onnx, runtime = needed("onnx", _INSTALL), needed("onnxruntime", _INSTALL)
    helper, number = onnx.helper, onnx.TensorProto
    depth, most, weight = 64, 255, 127
    values = onnx.numpy_helper.from_array(np.full((depth, 32), weight, np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", number.UINT8, [4, depth])],
        [helper.make_tensor_value_info("y", number.INT32, [4, 32])],
        [values],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((4, depth), most, np.uint8)})
    return bool((sums != most * weight * depth).any())
