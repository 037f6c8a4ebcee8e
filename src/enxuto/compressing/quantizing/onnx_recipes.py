"""A recipe carried out on an ONNX file: onnxruntime's quantizers where they have one, our storage where not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import EnxutoError, UsageError
from ...records.recipe import Calibration, Ranges, Recipe, Scheme
from ...samples import Samples
from ..silence import quietly
from .graph import (
    OPSET_OF_SMALL_CODES,
    channel_axis,
    initializers,
    prepared,
    raised,
    read_onnx,
    require_onnx,
    scratch,
    strip_opsets,
    values_of,
    weights_of,
    write_onnx,
)
from .grids import Grid, GridIndex
from .weight_only import split_gemms, store_weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def quantize_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe,
    *,
    samples: Samples | None = None,
    grids: Iterable[Grid] = (),
) -> None:
    """Write a quantized copy of a float32 ONNX model.

    Args:
        source: the model; the first dimension of its inputs is the batch.
        target: where the copy goes, written whole or not at all; one file.
        recipe: the schemes. FLOAT16 goes with no other.
        samples: what calibrates the ranges of static schemes; their inputs in the model's order.
        grids: weights that a repair has rounded: they are stored as they are, not rounded again.

    Raises:
        UsageError: no ONNX file, a recipe that names nothing in the graph or mixes FLOAT16, a static scheme
            without samples, samples that do not fit the inputs.
        EnxutoError: a quantizer failed on this graph; the message names the recipe.
        MissingDependency: onnx or onnxruntime is not installed.
    """
    require_onnx()
    if recipe.needs_data and samples is None:
        raise UsageError("a static recipe needs samples: quantize_onnx(..., samples=Samples.of(inputs))")
    model = prepared(source)
    schemes = schemes_of(model, recipe)
    index = GridIndex(grids)
    if Scheme.FLOAT16 in schemes.values():
        model = _to_float16(model, schemes)
    else:
        if samples is not None:  # first: ranges are found on the float graph
            model = _guarded(_to_static, model, schemes, recipe, index, samples)
        model = _guarded(_to_dynamic, model, schemes, recipe, index)
        model = _guarded(store_weights, model, schemes, recipe, index)
    write_onnx(model, target)


def weight_names(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """The weights of a model that a recipe can name, in the graph's order, each once."""
    model = prepared(source)
    tensors = initializers(model)
    names = (name for node in model.graph.node for name in weights_of(node, tensors))
    return tuple(dict.fromkeys(names))


def schemes_of(model: ModelProto, recipe: Recipe) -> dict[str, Scheme]:
    """The scheme of every node, by name.

    Raises:
        UsageError: an override names neither a node nor what one reads.
    """
    schemes = {node.name: recipe.default for node in model.graph.node}
    named: dict[str, list[str]] = {name: [name] for name in schemes}
    for node in model.graph.node:
        for value in node.input:
            named.setdefault(value, []).append(node.name)
    for override in recipe.overrides:
        if override.name not in named:
            raise UsageError(
                f"the recipe names {override.name!r}, which is neither a node nor a weight of this model; "
                "enxuto.compressing.quantizing.weight_names(path) lists what can be named"
            )
        schemes.update(dict.fromkeys(named[override.name], override.scheme))
    return schemes


def _guarded(stage: Callable[..., ModelProto], model: ModelProto, *rest: Any) -> ModelProto:
    """A stage whose failure says which recipe failed, with the quantizer's own words."""
    try:
        return stage(model, *rest)
    except EnxutoError:
        raise
    except Exception as error:
        name = stage.__name__.strip("_").replace("_", " ")
        raise EnxutoError(
            f"onnxruntime could not quantize this graph ({name}): {type(error).__name__}: "
            f"{str(error).rstrip('.')}. Keep the node that it names in float32 (Recipe.with_override), "
            "or take a weight-only scheme"
        ) from error


def _to_float16(model: ModelProto, schemes: dict[str, Scheme]) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if set(schemes.values()) - {Scheme.FLOAT16, Scheme.FLOAT32}:
        raise UsageError(
            "FLOAT16 computes the whole network in 16 bits and goes with FLOAT32 exceptions only; "
            "WEIGHT16 stores in 16 bits and goes with every other scheme"
        )
    kept = [name for name, scheme in schemes.items() if scheme is Scheme.FLOAT32]
    with quietly():
        converted: ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    return converted


def _to_dynamic(
    model: ModelProto, schemes: dict[str, Scheme], recipe: Recipe, grids: GridIndex
) -> ModelProto:
    """Matrix products and recurrent layers; what onnxruntime has no dynamic kernel for is stored as WEIGHT8.

    A dynamic convolution exists (ConvInteger) but is several times slower than the float one on x86.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    split_gemms(model, {name for name, scheme in schemes.items() if scheme is Scheme.DYNAMIC8})
    wanted = [node for node in model.graph.node if schemes.get(node.name) is Scheme.DYNAMIC8]
    tensors = initializers(model)
    names = [node.name for node in wanted if node.op_type in _DYNAMIC_OPS and weights_of(node, tensors)]
    for node in wanted:
        if node.name not in names:
            schemes[node.name] = Scheme.WEIGHT8
    if not names:
        return model
    with scratch() as folder, quietly():
        quantize_dynamic(
            _disguised(model),
            folder / "dynamic.onnx",
            op_types_to_quantize=list(_DYNAMIC_OPS),
            per_channel=True,
            reduce_range=recipe.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            extra_options={"TensorQuantOverrides": _weight_overrides(model, schemes, grids, names)},
        )
        return _undisguised(read_onnx(folder / "dynamic.onnx"))


_DISGUISE = "enxuto.disguise"


def _disguised(model: ModelProto) -> ModelProto:
    """Gemms under another domain: the dynamic quantizer rewrites all of a graph's, chosen or not, and renames them."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.domain, node.op_type = _DISGUISE, "Product"
    model.opset_import.append(helper.make_opsetid(_DISGUISE, 1))
    return model


def _undisguised(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        if node.domain == _DISGUISE:
            node.domain, node.op_type = "", "Gemm"
    strip_opsets(model)
    return model


_DYNAMIC_OPS = ("MatMul", "LSTM")


def _to_static(
    model: ModelProto, schemes: dict[str, Scheme], recipe: Recipe, grids: GridIndex, samples: Samples
) -> ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    names = [node.name for node in model.graph.node if schemes.get(node.name, Scheme.FLOAT32).is_static]
    if not names:
        return model
    overrides = _weight_overrides(model, schemes, grids, names)
    wide = [node for node in model.graph.node if schemes.get(node.name) is Scheme.STATIC8_WIDE]
    if wide:
        model = raised(model, OPSET_OF_SMALL_CODES)
        overrides |= _wide_activations(model, wide)
    with scratch() as folder, quietly():
        quantize_static(
            model,
            folder / "static.onnx",
            calibration_cache_path=_find_ranges(model, folder, recipe.calibration, samples),
            calibrate_method=_method(recipe.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=recipe.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            # A bias stays 4 bytes a channel, where 32-bit codes with their scale and zero point take 12; the
            # runtime quantizes it while it loads (WeightBiasQuantization), to the same bits.
            extra_options={"TensorQuantOverrides": overrides, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return read_onnx(folder / "static.onnx")


#: Histogram bins that entropy chooses among, and those it merges them into. `quantize_static` leaves both at 128,
#: so that one candidate is left and the method is min-max under another name (onnxruntime 1.32, calibrate.py).
_ENTROPY_BINS = {"num_bins": 512, "num_quantized_bins": 128}


def _find_ranges(model: ModelProto, folder: Path, calibration: Calibration, samples: Samples) -> Path:
    """Run the calibration data through the float model, and write the ranges of all its tensors as a cache."""
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    (folder / "float.onnx").write_bytes(model.SerializeToString())
    # symmetric is the default of percentile alone, and wastes half the codes of what a ReLU puts out
    options: dict[str, Any] = {"symmetric": False, "percentile": calibration.percentile}
    if calibration.ranges is Ranges.ENTROPY:
        options |= _ENTROPY_BINS
    calibrator = create_calibrator(
        folder / "float.onnx",
        sorted({*QDQRegistry, *QLinearOpsRegistry}),  # what quantize_static quantizes by default
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=_method(calibration),
        extra_options=options,
    )
    calibrator.collect_data(_Reader(model, samples, calibration.batch_size))
    save_tensors_data(calibrator.compute_data(), folder / "ranges.json")
    return folder / "ranges.json"


def _method(calibration: Calibration) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    names = {Ranges.MINMAX: "MinMax", Ranges.ENTROPY: "Entropy", Ranges.PERCENTILE: "Percentile"}
    return CalibrationMethod[names[calibration.ranges]]


def _weight_overrides(
    model: ModelProto, schemes: dict[str, Scheme], grids: GridIndex, names: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """What onnxruntime must not find out by itself: one scale for a whole weight, or a repair's own scales."""
    from onnxruntime.quantization import QuantType

    tensors, chosen = initializers(model), set(names)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        for name in weights_of(node, tensors) if node.name in chosen else ():
            values = values_of(tensors[name])
            axis = channel_axis(node, values.ndim)
            scales = grids.scales_of(values, bits=8, axis=axis)
            if schemes[node.name] is Scheme.STATIC8_TENSOR:
                overrides[name] = [{"quant_type": QuantType.QInt8, "symmetric": True}]
            elif scales is not None:
                zero = np.int8(0)
                overrides[name] = [
                    {"quant_type": QuantType.QInt8, "scale": scale, "zero_point": zero, "axis": axis}
                    for scale in scales
                ]
    return overrides


def _wide_activations(model: ModelProto, nodes: list[NodeProto]) -> dict[str, list[dict[str, Any]]]:
    """16 bits for everything but weights that these nodes read or write; their neighbours read 16 bits too."""
    from onnxruntime.quantization import QuantType

    tensors = initializers(model)
    values = [name for node in nodes for name in (*node.input, *node.output) if name and name not in tensors]
    return {name: [{"quant_type": QuantType.QUInt16}] for name in values}


class _Reader:
    """Calibration batches by input name, as onnxruntime asks for them."""

    def __init__(self, model: ModelProto, samples: Samples, batch_size: int) -> None:
        from onnx import helper

        stored = initializers(model)
        inputs = [value for value in model.graph.input if value.name not in stored]
        if len(inputs) != len(samples.inputs):
            raise UsageError(
                f"the model takes {len(inputs)} inputs ({', '.join(value.name for value in inputs)}), "
                f"the samples have {len(samples.inputs)}"
            )
        shape = inputs[0].type.tensor_type.shape.dim
        fixed = shape[0].dim_value if shape else 0
        if fixed > len(samples):
            raise UsageError(f"the model takes batches of {fixed}, and there are {len(samples)} samples")
        self._names = [value.name for value in inputs]
        self._types = [helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in inputs]
        self._batches = self._feeds(samples, fixed or batch_size, whole=bool(fixed))

    def _feeds(
        self, samples: Samples, size: int, *, whole: bool
    ) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for batch in samples.batches(size):
            if whole and len(batch) < size:  # a fixed batch takes no remainder
                return
            arrays = (tensor.detach().cpu().numpy() for tensor in batch.inputs)
            yield {
                name: array.astype(kind, copy=False)
                for name, array, kind in zip(self._names, arrays, self._types, strict=True)
            }

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)

    def __iter__(self) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        return self._batches
