"""How much memory an ONNX model will take in onnxruntime, before it is loaded there.

    peak = runtime's base + graph + weights and their copies + activations

The rules of each part are those of onnxruntime's source, and constants from chains of one kind of layer, measured with
1.32; none is fitted to a network. Only the base is measured on the machine. `benchmarks/runtime_ram.py` has the errors.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..records import OnnxRuntimeFlags, OptimizationLevel, Recipe, Scheme
from .arena import Buffer, Step, buffers, touched_bytes
from .runtimes.contract import existing, needed

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install 'enxuto[compress]'"
#: The optimizer's own pages and what it leaves of each node of the file: chains of 1 and 10 convolutions, float and
#: int8, measured.
_OPTIMIZER, _NODE = int(0.15 * 2**20), int(7.5 * 2**10)
#: A graph with int8 kernels: what finding and loading them takes beside the optimizer's own pages; and where biases are
#: float, which loading quantizes by five more nodes each (`WeightBiasQuantization::ApplyImpl`), what that takes once
#: and for each bias. Chains of 1 to 40 convolutions with and without biases, measured.
_INT8, _FIRST_BIAS, _BIAS = int(0.22 * 2**20), int(0.17 * 2**20), int(15.4 * 2**10)
#: A graph optimized ahead: less than the base, which loads the optimizer; each kernel and each initializer left.
_NO_OPTIMIZER, _KERNEL, _INITIALIZER = -int(0.3 * 2**20), 12 * 2**10, int(1.5 * 2**10)
#: Pages of kernels' code, read at the first run: 0.13 to 0.29 MiB in chains of one layer, measured.
_CODE = int(0.2 * 2**20)


class Use(Enum):
    """What onnxruntime does with a weight when it loads it."""

    PLAIN = "read where it is"
    ROWS = "some rows are read"
    BLOCKED = "copied into blocked layout (NCHWc)"
    PACKED = "packed for matrix kernels"
    PACKED_INT8 = "packed for int8 kernels"


#: What stays in the heap of a packed weight's first copy, as a share of it: means over eight float chains of matrices
#: (0.4 to 0.9) and twelve int8 ones (0.9 to 1.2), measured.
_RESIDUE = {Use.PACKED: 0.67, Use.PACKED_INT8: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One initializer; `kernel_bytes` is its size in the layout that the kernel reads."""

    name: str
    bytes: int
    kernel_bytes: int
    use: Use


@dataclass(frozen=True, slots=True, kw_only=True)
class RamForecast:
    """Predicted resident bytes of a process above its state after imports; the parts sum to the total.

    Attributes:
        base: what the runtime takes for a model of one Relu, measured.
        graph: nodes and kernels; negative for a small graph optimized ahead, which spares it the base's optimizer.
        weights: each weight once.
        copies: what loading adds to that and the C library keeps: packed and blocked copies.
        loading: the further bytes while weights are loaded, if that is when the peak is.
        activations: the arena's pages that are written, and the kernels' code, if the peak is while running.
        unknown: tensors whose sizes could not be inferred; they count 0.
    """

    base: int
    graph: int
    weights: int
    copies: int
    loading: int
    activations: int
    unknown: int = 0

    @property
    def above_base_bytes(self) -> int:
        """The peak net of the base."""
        return self.graph + self.weights + self.copies + self.loading + self.activations

    @property
    def peak_bytes(self) -> int:
        """The peak."""
        return self.base + self.above_base_bytes


def forecast_ram(
    path: str | Path,
    shapes: Sequence[Sequence[int]],
    *,
    flags: OnnxRuntimeFlags | None = None,
    base_bytes: int = 0,
) -> RamForecast:
    """Predict the peak of onnxruntime's memory for a model.

    Args:
        path: an ONNX model as `export` or a quantizer wrote it; not one that was optimized ahead.
        shapes: of the inputs, in order.
        flags: how it will be run; also `ahead` and `external_data`, as if the file were prepared so.
        base_bytes: `measuring.base_bytes` of this machine; 0 predicts the peak net of it.

    Raises:
        UsageError: there is no ONNX model, or the shapes are not those of its inputs.

    What is assumed and not checked: glibc's malloc with its defaults, one thread, a CPU with AVX-512 (channels in
    blocks of 16; 8 with AVX2).
    """
    settings = flags or OnnxRuntimeFlags()
    graph = _Graph.read(existing(path), shapes)
    weights = graph.weights(settings)
    steps = list(_Fusion(graph, settings).steps())
    planned = buffers(steps, kept=frozenset(graph.outputs))
    standing, resident, loading = _held(weights, settings)
    if not settings.ahead:
        folded = graph.folded_bytes()
        standing, resident = standing + folded, resident + folded
    hole, holes = _holes(weights, settings)
    activations = _live(planned)
    if settings.arena:
        activations = touched_bytes(planned, pattern=settings.memory_pattern, hole=hole, holes=holes)
    activations += _CODE
    runs = resident + activations >= standing + loading
    held = resident if runs else standing
    own = min(held, sum(weight.bytes for weight in weights))
    return RamForecast(
        base=base_bytes,
        graph=_graph_bytes(graph, len(steps), settings),
        weights=own,
        copies=held - own,
        loading=0 if runs else loading,
        activations=activations if runs else 0,
        unknown=graph.unknown,
    )


def forecast_module(
    model: nn.Module,
    example: Any,
    *,
    recipe: Recipe | None = None,
    flags: OnnxRuntimeFlags | None = None,
    base_bytes: int = 0,
) -> RamForecast:
    """Predict the peak of onnxruntime's memory for a module that was not exported yet, and is kept nowhere.

    The module is written to a temporary folder, as `compress` would write it, and its graph is looked at. Under a
    static recipe the example calibrates: its ranges are good for nothing, and the bytes do not depend on them.

    Args:
        model: left as it was.
        example: its inputs, a tensor or a tuple, in the batch that will be run.
        recipe: how weights will be stored; None: float32.
        flags: how it will be run.
        base_bytes: as for `forecast_ram`.

    Raises:
        UsageError: the module cannot be exported.
    """
    from ..samples import Samples
    from .making import export, folded_or_plain

    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    with tempfile.TemporaryDirectory(prefix="enxuto-") as folder:
        path = Path(folder) / "model.onnx"
        settings = recipe or Recipe(default=Scheme.FLOAT32)
        export(folded_or_plain(model), Samples(inputs), settings, path)
        shapes = [tuple(tensor.shape) for tensor in inputs]
        return forecast_ram(path, shapes, flags=flags, base_bytes=base_bytes)


def _graph_bytes(graph: _Graph, kernels: int, flags: OnnxRuntimeFlags) -> int:
    """What the graph's objects take beside the base's; negative where not even the optimizer is needed."""
    if flags.ahead:
        return _NO_OPTIMIZER + _KERNEL * kernels + _INITIALIZER * len(graph.initializers)
    biases = graph.float_biases_of_int8()
    int8 = _INT8 if _DEQUANTIZE in {node.op_type for node in graph.nodes} else 0
    return _OPTIMIZER + _NODE * len(graph.nodes) + int8 + (_FIRST_BIAS if biases else 0) + _BIAS * biases


# ---- Weights -----------------------------------------------------------------------------------------------


def _held(weights: Sequence[Weight], flags: OnnxRuntimeFlags) -> tuple[int, int, int]:
    """Bytes that stand after loading, while running, and that loading takes for a moment beside."""
    standing = sum(_standing(weight, flags) for weight in weights)
    mapped = sum(_mapped(weight, flags) for weight in weights)
    largest = max(weights, key=lambda weight: weight.bytes, default=None)
    if largest is None:
        return 0, 0, 0
    copied = _is_packed(largest, flags) or _is_blocked(largest, flags)
    free = (
        _is_packed(largest, flags) if not flags.external_data else not copied
    )  # packed into holes, or only mapped
    moment = 0 if free else largest.bytes
    return round(standing), round(standing + mapped), moment


def _standing(weight: Weight, flags: OnnxRuntimeFlags) -> float:
    """Bytes of a weight and its copies once loaded; freed copies stay in the C library's heap and count.

    The file's own copy, where it is not mapped, is freed as soon as it is packed, and leaves a hole in glibc's heap
    that is often a little too small for the next packed weight (`_RESIDUE`).
    """
    if _is_packed(weight, flags):
        return weight.kernel_bytes + (0 if flags.external_data else weight.bytes * _RESIDUE[weight.use])
    if _is_blocked(weight, flags):
        # original, reordered initializer and the session's own copy; the original may be mapped, and is let go
        return 2 * weight.kernel_bytes + (0 if flags.external_data else weight.bytes)
    return 0 if flags.external_data else weight.kernel_bytes


def _holes(weights: Sequence[Weight], flags: OnnxRuntimeFlags) -> tuple[int, int]:
    """The largest hole that float weights' freed copies leave in the heap, and all of them, in bytes."""
    if flags.external_data:
        return 0, 0
    freed = [w for w in weights if _is_blocked(w, flags) or (w.use is Use.PACKED and _is_packed(w, flags))]
    total = sum(2 * w.bytes if w.use is Use.BLOCKED else w.bytes * _RESIDUE[w.use] for w in freed)
    return max((w.bytes for w in freed), default=0), round(total)


def _mapped(weight: Weight, flags: OnnxRuntimeFlags) -> int:
    """Bytes of a mapped weight that running reads; rows of a table count nothing."""
    outside = flags.external_data and not _is_packed(weight, flags) and not _is_blocked(weight, flags)
    return weight.kernel_bytes if outside and weight.use is not Use.ROWS else 0


def _is_packed(weight: Weight, flags: OnnxRuntimeFlags) -> bool:
    return flags.prepacking and weight.use in (Use.PACKED, Use.PACKED_INT8)


def _is_blocked(weight: Weight, flags: OnnxRuntimeFlags) -> bool:
    return weight.use is Use.BLOCKED and not flags.ahead


def _live(planned: Sequence[Buffer]) -> int:
    """The most bytes alive at once: what malloc has to give where there is no arena."""
    instants = {buffer.start for buffer in planned}
    return max((sum(b.size for b in planned if b.start <= at <= b.end) for at in instants), default=0)


# ---- The graph ---------------------------------------------------------------------------------------------

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
#: Ops that onnxruntime has on int8 tensors, or that move values without computing.
_INT8_OPS = frozenset(
    [
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "AveragePool",
        "GlobalAveragePool",
        "MaxPool",
        "Reshape",
        "Transpose",
        "Concat",
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "Softmax",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Resize",
        "Split",
        "Gather",
    ]
)
_ACTIVATIONS = frozenset(["Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"])
#: Their output may be written over the input (`MayInplace` in the kernels' registrations).
_IN_PLACE = _ACTIVATIONS | frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Sqrt",
        "Exp",
        "Neg",
        "Abs",
        "Erf",
        "Softmax",
        "Cast",
        "Gelu",
    ]
)
#: Ops that onnxruntime has on blocked tensors (`nchwc_transformer.cc`).
_BLOCKED_OPS = frozenset(
    ["Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Mul", "Concat", "BatchNormalization"]
)
#: Their last inputs are shapes, axes and the like: no data flows.
_DATA_INPUTS = {
    "Reshape": 1,
    "Squeeze": 1,
    "Unsqueeze": 1,
    "ReduceMean": 1,
    "Gather": 1,
    "Slice": 1,
    "Expand": 1,
    "Clip": 1,
}
_BLOCK, _INPUT_MULTIPLE = 16, 4  # MlasNchwcGetBlockSize with AVX-512; the multiple that ReorderInput takes


@dataclass(slots=True)
class _Graph:
    """An ONNX graph at given input shapes."""

    nodes: list[Any]
    dims: Mapping[str, tuple[int, ...]]
    item_bytes: Mapping[str, int]
    initializers: Mapping[str, tuple[tuple[int, ...], int]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    readers: Mapping[str, list[Any]]
    makers: Mapping[str, Any]
    unknown: int = 0

    @classmethod
    def read(cls, path: Path, shapes: Sequence[Sequence[int]]) -> _Graph:
        onnx = needed("onnx", _INSTALL)
        try:
            model = onnx.load(path)
        except Exception as error:
            raise UsageError(f"{path} is no ONNX model: {error}") from error
        initializers = {
            t.name: (tuple(t.dims), _item_bytes(onnx, t.data_type)) for t in model.graph.initializer
        }
        inputs = [value for value in model.graph.input if value.name not in initializers]
        _fix_shapes(path, inputs, shapes)
        for value in model.graph.output:  # inferred anew: the file says "batch"
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        nodes = list(model.graph.node)
        readers: dict[str, list[Any]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return cls(
            nodes=nodes,
            dims={v.name: _dims(v) for v in values if _is_known(v)},
            item_bytes={v.name: _item_bytes(onnx, v.type.tensor_type.elem_type) for v in values},
            initializers=initializers,
            inputs=tuple(value.name for value in inputs),
            outputs=tuple(value.name for value in model.graph.output),
            readers=readers,
            makers={name: node for node in nodes for name in node.output},
        )

    def size(self, name: str) -> int:
        """Bytes of an activation; 0, and counted, where inference did not get that far."""
        if name not in self.dims:
            self.unknown += 1
            return 0
        return math.prod(self.dims[name]) * self.item_bytes[name]

    def weights(self, flags: OnnxRuntimeFlags) -> list[Weight]:
        """Every initializer and what becomes of it."""
        return [self._weight(name, flags) for name in self.initializers]

    def _weight(self, name: str, flags: OnnxRuntimeFlags) -> Weight:
        dims, item = self.initializers[name]
        nbytes = math.prod(dims) * item
        use, scale = Use.PLAIN, 1.0
        for node, place in self._real_readers(name):
            if node.op_type == "Conv" and place == 1 and item == 4 and is_blocked(self, node, flags):
                use, scale = Use.BLOCKED, _blocked_size(dims, _attribute(node, "group", 1)) / math.prod(dims)
            elif node.op_type in ("Conv", "Gemm", "MatMul") and place == 1 and item == 1:
                use = Use.PACKED_INT8 if len(dims) < 4 or dims[1] > 1 else Use.PLAIN
            elif (node.op_type in ("Gemm", "MatMul") and place == 1) or node.op_type in (
                "LSTM",
                "GRU",
                "RNN",
            ):
                use = Use.PACKED if len(dims) > 1 else Use.PLAIN
            elif node.op_type == "Gather" and place == 0:
                use = Use.ROWS
        return Weight(name=name, bytes=nbytes, kernel_bytes=round(nbytes * scale), use=use)

    def _real_readers(self, name: str) -> Iterator[tuple[Any, int]]:
        """Who reads a weight, through nodes that make floats of its integers or turn it around."""
        for node in self.readers.get(name, ()):
            if node.op_type in (_DEQUANTIZE, "Transpose", "Reshape") and node.input[0] == name:
                yield from self._real_readers(node.output[0])
            else:
                yield node, list(node.input).index(name)

    def is_constant(self, name: str) -> bool:
        """Whether a value is known before anything runs."""
        if not name or name in self.initializers:
            return True
        maker = self.makers.get(name)
        if maker is None or maker.op_type in (_QUANTIZE, _DEQUANTIZE, "Shape"):
            return False
        return all(map(self.is_constant, maker.input))

    def float_biases_of_int8(self) -> int:
        """Biases in 32-bit floats beside quantized inputs and weights."""
        return sum(
            len(node.input) > 2
            and node.input[2] in self.initializers
            and all(self._is_dequantized(name) for name in node.input[:2])
            for node in self.nodes
            if node.op_type in ("Conv", "ConvTranspose", "Gemm")
        )

    def _is_dequantized(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == _DEQUANTIZE

    def folded_bytes(self) -> int:
        """What folding constants leaves in the C library's heap: every result on the way to the last."""
        nodes = (node for node in self.nodes if all(map(self.is_constant, node.input)))
        results = [name for node in nodes if self.is_constant(node.output[0]) for name in node.output]
        return sum(self.size(name) for name in results if name)


def is_blocked(graph: _Graph, node: Any, flags: OnnxRuntimeFlags) -> bool:
    """Whether a float convolution runs on blocked channels at level ALL (`NchwcTransformerImpl::TransformConv`)."""
    if flags.level is not OptimizationLevel.ALL or node.op_type != "Conv":
        return False
    dims, item = graph.initializers.get(node.input[1], ((), 0))
    if len(dims) != 4 or item != 4:
        return False
    group = _attribute(node, "group", 1)
    if group == 1:
        return dims[1] < _BLOCK or dims[1] % _INPUT_MULTIPLE == 0
    depthwise = dims[1] == 1 and dims[0] == group
    return depthwise or (dims[1] % _BLOCK == 0 and (dims[0] // group) % _BLOCK == 0)


def _blocked_size(dims: Sequence[int], group: int) -> int:
    """Elements of a convolution's weight in blocks: channels are padded."""
    inputs = dims[1] if dims[1] < _BLOCK or group > 1 else _padded(dims[1])
    return _padded(dims[0]) * inputs * math.prod(dims[2:])


def _padded(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


# ---- Fusion ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Fusion:
    """Steps of the graph as onnxruntime will run it: fused, on int8 tensors, in blocked layouts."""

    graph: _Graph
    flags: OnnxRuntimeFlags
    alias: dict[str, str] = field(default_factory=dict)  # a name and the one whose buffer it is
    blocked: set[str] = field(default_factory=set)
    reordered: dict[str, str] = field(default_factory=dict)

    def steps(self) -> Iterator[Step]:
        """One for each kernel that writes activations."""
        absorbed: set[int] = set()
        for node in self.graph.nodes:
            if id(node) in absorbed or self.graph.is_constant(node.output[0]):
                continue
            if node.op_type == _DEQUANTIZE and self._all_readers_quantized(node.output[0]):
                self.alias[node.output[0]] = self._name(node.input[0])
                continue
            yield from self._step(node, absorbed)

    def _step(self, node: Any, absorbed: set[int]) -> Iterator[Step]:
        output, added = self._fused(node, absorbed)
        names = node.input[: _DATA_INPUTS.get(node.op_type, len(node.input))]
        inputs = [name for name in map(self._name, names) if not self.graph.is_constant(name)]
        blocks = self._is_blocked(node)
        ready = []
        for name in inputs:
            yield from self._reorder(node, name, blocks)
            ready.append(self.reordered.get(name, name))
        if blocks:
            self.blocked.add(output)
        in_place = (added,) if added else tuple(ready) if node.op_type in _IN_PLACE else ()
        sizes = [(output, self._size(output))]
        sizes += [(name, self.graph.size(name)) for name in node.output[1:] if name]
        yield Step(
            inputs=tuple(ready) + ((added,) if added else ()),
            outputs=tuple(sizes),
            in_place=in_place,
            scratch=self._scratch(node, output),
        )

    def _fused(self, node: Any, absorbed: set[int]) -> tuple[str, str]:
        """The name of what a node and those fused into it write, and the activation that it adds to, if any."""
        output, added = node.output[0], ""
        quantized = self._is_quantized(node)
        while (reader := self._only_reader(output)) is not None:
            if quantized and reader.op_type == _QUANTIZE:
                absorbed.add(id(reader))
                output = reader.output[0]
                break
            takes = node.op_type in ("Conv", "Gemm", "MatMul", "Add") and (
                quantized or self.flags.level in (OptimizationLevel.ALL, OptimizationLevel.EXTENDED)
            )
            if takes and reader.op_type in _ACTIVATIONS:
                absorbed.add(id(reader))
                output = reader.output[0]
            elif not added and self._adds(node, reader):
                added = next(self._name(n) for n in reader.input if n != output)
                absorbed.add(id(reader))
                output = reader.output[0]
            else:
                break
        return output, added

    def _adds(self, node: Any, reader: Any) -> bool:
        """Whether a blocked convolution adds to another blocked tensor that is there already, in its place."""
        if reader.op_type != "Add" or not is_blocked(self.graph, node, self.flags):
            return False
        others = [self._name(name) for name in reader.input if name != node.output[0]]
        return len(others) == 1 and others[0] in self.blocked

    def _reorder(self, node: Any, name: str, blocks: bool) -> Iterator[Step]:
        """The copy into blocks, or out of them, where producer and consumer differ."""
        if name in self.reordered or (name in self.graph.inputs and not blocks):
            return
        if blocks and name not in self.blocked:
            if node.op_type == "Conv" and self.graph.initializers[node.input[1]][0][1] < _BLOCK:
                return  # few channels are read as they are
            copy = f"{name} in blocks"
            size = self.graph.size(name)
            self.blocked.add(copy)
        elif not blocks and name in self.blocked:
            copy, size = f"{name} out of blocks", self.graph.size(name)
        else:
            return
        self.reordered[name] = copy
        yield Step(inputs=(name,), outputs=((copy, size),))

    def _is_blocked(self, node: Any) -> bool:
        if self.flags.level is not OptimizationLevel.ALL or node.op_type not in _BLOCKED_OPS:
            return False
        if node.op_type == "Conv":
            return is_blocked(self.graph, node, self.flags)
        data = [self._name(name) for name in node.input if not self.graph.is_constant(name)]
        return bool(data) and all(name in self.blocked for name in data)

    def _is_quantized(self, node: Any) -> bool:
        """Whether a node between Q and DQ runs on the integers themselves."""
        if node.op_type not in _INT8_OPS:
            return False
        data = [name for name in node.input[:2] if name and not self._is_setting(node, name)]
        makers = [self.graph.makers.get(name) for name in data]
        return bool(makers) and all(maker is not None and maker.op_type == _DEQUANTIZE for maker in makers)

    def _is_setting(self, node: Any, name: str) -> bool:
        return list(node.input).index(name) >= _DATA_INPUTS.get(node.op_type, len(node.input))

    def _all_readers_quantized(self, name: str) -> bool:
        readers = self.graph.readers.get(name, [])
        return bool(readers) and all(self._is_quantized(reader) for reader in readers)

    def _only_reader(self, name: str) -> Any | None:
        readers = self.graph.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.graph.outputs else None

    def _name(self, name: str) -> str:
        return self.alias.get(name, name)

    def _size(self, name: str) -> int:
        size = self.graph.size(name)
        dims = self.graph.dims.get(name, ())
        return size * _padded(dims[1]) // dims[1] if name in self.blocked and len(dims) == 4 else size

    def _scratch(self, node: Any, output: str) -> int:
        """Bytes that convolutions take while they run."""
        if node.op_type != "Conv" or self._is_blocked(node) or output not in self.graph.dims:
            return 0
        weight = self._weight_dims(node)
        pixels = math.prod(self.graph.dims[output][2:])
        depthwise = weight[1] == 1 and _attribute(node, "group", 1) > 1
        if not self._is_quantized(node):
            return _im2col_bytes(weight, pixels)
        working = _int8_working_bytes(weight, pixels, depthwise)
        if self.flags.level is OptimizationLevel.ALL:
            return working
        inputs = self.graph.size(self._name(node.input[0]))  # EXTENDED keeps NCHW, and turns both around
        return working + inputs + self.graph.size(output)

    def _weight_dims(self, node: Any) -> tuple[int, ...]:
        name = node.input[1]
        maker = self.graph.makers.get(name)
        source = maker.input[0] if maker is not None and maker.op_type == _DEQUANTIZE else name
        return self.graph.initializers[source][0]


def _im2col_bytes(weight: Sequence[int], pixels: int) -> int:
    """Working buffer of a float convolution (`MlasConvPrepare`): whole columns where filters outnumber pixels, else
    128 KiB for the one thread; none for 1x1."""
    taps = math.prod(weight[1:])
    if math.prod(weight[2:]) == 1:
        return 0
    return 4 * taps * pixels if weight[0] > pixels else 128 * 2**10


def _int8_working_bytes(weight: Sequence[int], pixels: int, depthwise: bool) -> int:
    """Working buffers of an int8 convolution (qlinearconv.cc): columns and 32-bit sums where channels do not come in
    fours, else a pointer for each tap and pixel."""
    taps = math.prod(weight[2:])
    if not depthwise and weight[1] % 4:
        return (weight[1] * taps + 4 * weight[0]) * pixels
    return 8 * taps * pixels if taps > 1 else 0


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _fix_shapes(path: Path, inputs: Sequence[Any], shapes: Sequence[Sequence[int]]) -> None:
    if len(inputs) != len(shapes):
        raise UsageError(f"{path} takes {len(inputs)} inputs, and {len(shapes)} shapes were given")
    for value, shape in zip(inputs, shapes, strict=True):
        sizes = value.type.tensor_type.shape.dim
        fits = [size.dim_value in (0, n) for size, n in zip(sizes, shape, strict=False)]
        if len(sizes) != len(shape) or not all(fits):
            raise UsageError(f"input {value.name!r} of {path} does not take the shape {tuple(shape)}")
        for size, n in zip(sizes, shape, strict=True):
            size.Clear()
            size.dim_value = n


def _is_known(value: Any) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)


def _dims(value: Any) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def _item_bytes(onnx: Any, code: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(code).itemsize) if code else 0
