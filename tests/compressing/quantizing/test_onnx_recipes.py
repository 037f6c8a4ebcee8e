"""Every scheme as a file that onnxruntime executes: its fidelity, its bytes, its exceptions, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from enxuto.compressing.quantizing.affine import Affine, quantize, sqnr_db
from enxuto.compressing.quantizing.coverage import cover
from enxuto.compressing.quantizing.graph import initializers, name_products, read_onnx, values_of, write_onnx
from enxuto.compressing.quantizing.grids import Grid, GridIndex
from enxuto.compressing.quantizing.onnx_recipes import quantize_onnx, weight_names
from enxuto.compressing.runtimes.onnx_runtime import int8_saturates
from enxuto.errors import UsageError
from enxuto.records.coverage import Coverage, CoverageKind
from enxuto.records.recipe import Calibration, Ranges, Recipe, Scheme
from enxuto.samples import Samples
from tests.compressing.quantizing.nets import SmallNet, exported, images, run_onnx, tokens

#: The least signal to noise that each scheme keeps, in dB: about 6 for each bit of a weight, less what products add.
LEAST_DB = {
    Scheme.FLOAT32: 100,
    Scheme.FLOAT16: 55,
    Scheme.WEIGHT16: 60,
    Scheme.WEIGHT8: 35,
    Scheme.WEIGHT4: 12,
    Scheme.DYNAMIC8: 32,
    Scheme.STATIC8_TENSOR: 28,
    Scheme.STATIC8: 28,
    Scheme.STATIC8_WIDE: 35,
}
BITS = {
    Scheme.FLOAT16: 16,
    Scheme.WEIGHT16: 16,
    Scheme.WEIGHT8: 8,
    Scheme.WEIGHT4: 4,
    Scheme.DYNAMIC8: 8,
    Scheme.STATIC8_TENSOR: 8,
    Scheme.STATIC8: 8,
    Scheme.STATIC8_WIDE: 8,
}


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("net", ["small", "sequence"])
def test_every_scheme_runs_shrinks_and_is_covered(
    scheme: Scheme, net: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(f"{net}_file")
    samples = images() if net == "small" else tokens()
    narrow = int8_saturates() and scheme is not Scheme.STATIC8_WIDE  # of 16-bit products
    recipe = Recipe(default=scheme, smallest=1, reduce_range=narrow)
    target = tmp_path / "out.onnx"
    quantize_onnx(source, target, recipe, samples=samples)
    original, other = run_onnx(source, samples), run_onnx(target, samples)
    assert sqnr_db(original, other) > LEAST_DB[scheme]
    covered = cover(target, recipe)
    assert covered.weight_bytes + covered.overhead_bytes == target.stat().st_size == covered.file_bytes
    assert sum(covered.bytes_of(kind) for kind in CoverageKind) == covered.weight_bytes
    assert covered.overhead_bytes > 0
    if scheme is Scheme.FLOAT32:
        assert covered.quantized_ratio == 0
        return
    assert covered.quantized_ratio > (0.7 if net == "sequence" else 0.95)
    bits = {row.bits for row in covered.rows if row.kind is CoverageKind.QUANTIZED and row.elements > 1000}
    assert BITS[scheme] in bits and bits <= {4, 8, 16}


@pytest.mark.parametrize("scheme", [Scheme.WEIGHT8, Scheme.WEIGHT4, Scheme.STATIC8])
def test_stored_bytes_are_elements_times_bits(scheme: Scheme, small_file: Path, tmp_path: Path) -> None:
    quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(default=scheme), samples=images())
    for tensor in read_onnx(tmp_path / "out.onnx").graph.initializer:
        row = next(row for row in cover(tmp_path / "out.onnx").rows if row.name == tensor.name)
        assert row.nbytes == len(tensor.raw_data), tensor.name


def test_four_bit_convolutions_are_packed_and_read_back_as_quantized(
    small_file: Path, tmp_path: Path
) -> None:
    quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(default=Scheme.WEIGHT4, smallest=1))
    stored = initializers(read_onnx(tmp_path / "out.onnx"))
    weight = SmallNet().features[0].weight
    expected = quantize(weight, Affine(bits=4, axis=0))
    tensor = stored["features.0.weight_quantized"]
    assert tensor.data_type == onnx.TensorProto.INT4
    assert len(tensor.raw_data) == weight.numel() // 2
    assert np.array_equal(values_of(tensor).astype(np.int8), expected.codes.numpy())
    assert np.array_equal(
        values_of(stored["features.0.weight_scale"]), expected.scale.flatten().detach().numpy()
    )


def test_products_use_the_packed_kernel(small_file: Path, tmp_path: Path) -> None:
    quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(default=Scheme.WEIGHT4))
    ops = [node.op_type for node in read_onnx(tmp_path / "out.onnx").graph.node]
    assert ops.count("MatMulNBits") == 2
    assert "Gemm" not in ops


def test_exceptions_hold_by_weight_and_by_node_and_the_last_one_wins(
    small_file: Path, tmp_path: Path
) -> None:
    recipe = (
        Recipe(default=Scheme.STATIC8)
        .with_override("hidden.weight", Scheme.FLOAT32)
        .with_override("hidden.weight", Scheme.WEIGHT4)
        .with_override("features.0.weight", Scheme.FLOAT32)
        .with_override("head.weight", Scheme.DYNAMIC8)
        .with_override("features.2.weight", Scheme.STATIC8_WIDE)
        .with_override("features.4.weight", Scheme.STATIC8_TENSOR)
    )
    quantize_onnx(small_file, tmp_path / "out.onnx", recipe, samples=images())
    model = read_onnx(tmp_path / "out.onnx")
    rows = {row.name: row for row in cover(tmp_path / "out.onnx", recipe).rows}
    assert rows["features.0.weight"].kind is CoverageKind.EXCLUDED
    assert (
        next(row for row in rows.values() if row.op == "MatMulNBits" and row.bits == 4).elements >= 64 * 384
    )
    assert "MatMulInteger" in [node.op_type for node in model.graph.node]
    assert rows["features.4.weight_scale"].elements == 1
    assert rows["features.2.weight_scale"].elements == 16
    original = run_onnx(small_file, images())
    assert sqnr_db(original, run_onnx(tmp_path / "out.onnx", images())) > 12


def test_a_static_bias_costs_four_bytes_a_channel(small_file: Path, tmp_path: Path) -> None:
    quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(), samples=images())
    covered = cover(tmp_path / "out.onnx")
    assert covered.bytes_of(CoverageKind.BIAS) == 4 * (16 + 16 + 24 + 64 + 10)
    weights = [row for row in covered.rows if row.kind is CoverageKind.SCALE and "weight" in row.name]
    assert sum(row.nbytes for row in weights) == 5 * (16 + 16 + 24 + 64 + 10)  # a scale and a zero point each
    assert not [row for row in covered.rows if row.kind is CoverageKind.SCALE and "bias" in row.name]


def test_small_weights_are_left_and_said_to_be_small(small_file: Path, tmp_path: Path) -> None:
    recipe = Recipe(default=Scheme.WEIGHT8, smallest=1000)
    quantize_onnx(small_file, tmp_path / "out.onnx", recipe)
    rows = {row.name: row for row in cover(tmp_path / "out.onnx", recipe).rows}
    assert rows["features.0.weight"].kind is CoverageKind.SMALL  # 432 elements
    assert rows["hidden.weight_quantized"].kind is CoverageKind.QUANTIZED
    assert rows["hidden.bias"].kind is CoverageKind.BIAS


def test_norms_and_indices_are_named(sequence_file: Path, tmp_path: Path) -> None:
    quantize_onnx(sequence_file, tmp_path / "out.onnx", Recipe(default=Scheme.WEIGHT8))
    covered = cover(tmp_path / "out.onnx")
    assert covered.bytes_of(CoverageKind.NORM) == 2 * 32 * 4
    assert any("embedding" in row.name and row.bits == 8 for row in covered.rows)


@pytest.fixture(scope="module")
def on_grids(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Grid, ...]]:
    """A net whose weights have codes that are not the nearest of the tightest grid: no layer uses the highest code."""
    model, random = SmallNet(), torch.Generator().manual_seed(3)
    grids = []
    for name, bits in (("features.0", 8), ("features.2", 4), ("features.4", 4), ("hidden", 4)):
        weight = model.get_parameter(f"{name}.weight")
        top = 2 ** (bits - 1) - 2
        codes = torch.randint(-top, top + 1, weight.shape, generator=random).to(torch.int8)
        scale = torch.rand(len(weight), generator=random) * 0.01 + 0.001
        grids.append(Grid(name=f"{name}.weight", codes=codes, scale=scale, bits=bits))
        weight.data = grids[-1].weight
    return exported(model, images(), tmp_path_factory.mktemp("grids") / "grid.onnx"), tuple(grids)


@pytest.mark.parametrize("scheme", [Scheme.WEIGHT8, Scheme.WEIGHT4, Scheme.STATIC8])
def test_weights_of_a_grid_are_stored_as_they_are(
    scheme: Scheme, on_grids: tuple[Path, tuple[Grid, ...]], tmp_path: Path
) -> None:
    source, grids = on_grids
    recipe = Recipe(default=scheme, smallest=1).with_override("head.weight", Scheme.FLOAT32)
    quantize_onnx(source, tmp_path / "out.onnx", recipe, samples=images(), grids=grids)
    stored = initializers(read_onnx(tmp_path / "out.onnx"))
    for grid in grids:
        if scheme is Scheme.WEIGHT4 and grid.bits == 8:
            continue
        values = values_of(stored[f"{grid.name}_quantized"]).astype(np.int8)
        assert np.array_equal(values, grid.codes.numpy()), grid.name
        assert np.array_equal(values_of(stored[f"{grid.name}_scale"]), grid.scale.numpy()), grid.name


def test_a_grid_is_found_transposed_and_only_by_its_values() -> None:
    codes = torch.tensor([[1, -2, 3], [0, 5, -7]], dtype=torch.int8)
    grid = Grid(name="w", codes=codes, scale=torch.tensor([0.5, 0.25]), bits=4)
    index, weight = GridIndex([grid]), grid.weight.numpy()
    assert index.scales_of(weight, bits=4, axis=0).tolist() == [0.5, 0.25]
    assert index.scales_of(weight.T, bits=8, axis=1).tolist() == [0.5, 0.25]
    assert index.scales_of(weight, bits=2, axis=0) is None
    assert index.scales_of(weight + 1, bits=8, axis=0) is None
    assert not GridIndex().holds(weight)


def test_ranges_differ_by_method_and_entropy_is_no_min_max(tmp_path: Path, small_file: Path) -> None:
    tailed = images(64).inputs[0].clone()
    tailed[0, :, 0, 0] = 60.0  # one pixel far out
    samples = Samples((tailed,))
    scales = {}
    for ranges in Ranges:
        recipe = Recipe(calibration=Calibration(ranges=ranges, percentile=99.9))
        quantize_onnx(small_file, tmp_path / "out.onnx", recipe, samples=samples)
        stored = initializers(read_onnx(tmp_path / "out.onnx"))
        scales[ranges] = min(float(values_of(t)) for name, t in stored.items() if name == "images_scale")
    assert scales[Ranges.MINMAX] > 2 * scales[Ranges.PERCENTILE]
    assert scales[Ranges.MINMAX] > 1.5 * scales[Ranges.ENTROPY]


def test_the_same_input_gives_the_same_file(small_file: Path, tmp_path: Path) -> None:
    recipe = Recipe().with_override("hidden.weight", Scheme.WEIGHT4)
    for name in ("a.onnx", "b.onnx"):
        quantize_onnx(small_file, tmp_path / name, recipe, samples=images())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_nothing_is_printed(small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for scheme in (Scheme.STATIC8, Scheme.WEIGHT4, Scheme.DYNAMIC8, Scheme.FLOAT16):
        quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(default=scheme), samples=images())
    assert capfd.readouterr() == ("", "")


def test_names_that_a_recipe_can_take(small_file: Path) -> None:
    assert weight_names(small_file) == tuple(
        f"{name}.weight" for name in ("features.0", "features.2", "features.4", "hidden", "head")
    )


def test_records_travel(small_file: Path, tmp_path: Path) -> None:
    recipe = Recipe(default=Scheme.WEIGHT4, block_size=64).with_override(["a", "b"], Scheme.STATIC8)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.needs_data and not Recipe(default=Scheme.WEIGHT8).needs_data
    quantize_onnx(small_file, tmp_path / "out.onnx", Recipe(default=Scheme.WEIGHT8))
    covered = cover(tmp_path / "out.onnx")
    assert Coverage.from_json(covered.to_json()) == covered


def test_bad_input_is_refused_and_writes_nothing(small_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    (tmp_path / "text.onnx").write_text("no model")
    two_inputs = Samples((torch.zeros(4, 3, 16, 16), torch.zeros(4)))
    cases = [
        (small_file, Recipe(), None, "needs samples"),
        (small_file, Recipe().with_override("nowhere", Scheme.FLOAT32), images(), "nowhere"),
        (small_file, Recipe(), two_inputs, "takes 1 inputs"),
        (tmp_path / "missing.onnx", Recipe(), images(), "cannot read"),
        (tmp_path / "text.onnx", Recipe(), images(), "no ONNX model"),
        (
            small_file,
            Recipe(default=Scheme.FLOAT16).with_override("head.weight", Scheme.WEIGHT8),
            None,
            "FLOAT16",
        ),
    ]
    for source, recipe, samples, words in cases:
        with pytest.raises(UsageError, match=words):
            quantize_onnx(source, target, recipe, samples=samples)
        assert not target.exists()


def test_linear_layers_keep_their_names_where_exporters_turn_them_around(tmp_path: Path) -> None:
    """Inputs of three dimensions: the weight is stored transposed, as some value; of equal ones the first is named."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)).eval()
    samples = Samples((torch.randn(6, 5, 8),))
    source = exported(net, samples, tmp_path / "net.onnx")
    before = run_onnx(source, samples)
    assert "0.weight" not in weight_names(source)
    model = read_onnx(source)
    weights = {f"{place}.weight": net.get_submodule(place).weight.detach().numpy() for place in ("0", "2")}
    name_products(model, {**weights, "again.weight": weights["0.weight"]})
    write_onnx(model, source)
    assert set(weight_names(source)) == {"0.weight", "2.weight"}
    assert torch.equal(run_onnx(source, samples), before)
    recipe = Recipe(default=Scheme.FLOAT32, smallest=1).with_override("2.weight", Scheme.WEIGHT8)
    quantize_onnx(source, tmp_path / "out.onnx", recipe)
    assert {row.bits for row in cover(tmp_path / "out.onnx").rows if row.elements == 128} == {8, 32}
