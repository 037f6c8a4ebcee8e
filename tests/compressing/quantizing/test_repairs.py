"""Repairs on torch modules: equalisation keeps the function, corrections and reconstruction lower the error."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from enxuto.compressing.quantizing.affine import Affine, quantize, sqnr_db
from enxuto.compressing.quantizing.correcting import BiasCorrection, correct_biases
from enxuto.compressing.quantizing.equalising import Clip, Equalisation, equalise
from enxuto.compressing.quantizing.layers import (
    channel_means,
    holding_weights,
    observed,
    outputs_of,
    rounded,
    rounded_layers,
    with_weights,
)
from enxuto.compressing.quantizing.reconstructing import (
    Reconstruction,
    _columns,
    descend,
    output_error,
    reconstruct,
)
from enxuto.compressing.quantizing.sensitivity import Probe, sensitivity
from enxuto.errors import UsageError
from enxuto.samples import Samples
from tests.compressing.quantizing.nets import SmallNet, images

WHOLE_TENSOR = Affine(bits=8)


def nearest(model: nn.Module, affine: Affine) -> nn.Module:
    layers = rounded_layers(model)
    return with_weights(model, {path: rounded(layer.weight.data, affine) for path, layer in layers.items()})


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("seed", range(8))
def test_equalisation_keeps_the_function(seed: int) -> None:
    model = SmallNet(uneven=2.0, seed=seed)
    before = copy.deepcopy(model.state_dict())
    found = equalise(model)
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("features.0", "features.2"),
        ("features.2", "features.4"),
        ("features.4", "hidden"),
        ("hidden", "head"),
    ]
    samples = images(seed=seed)
    assert relative_difference(outputs_of(model, samples), outputs_of(found.model, samples)) < 2e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.pairs[0].after < found.pairs[0].before / 5


def test_equalised_ranges_are_equal() -> None:
    found = equalise(SmallNet(uneven=2.0), Equalisation(sweeps=200, tolerance=1e-6))
    for first, second in (("features.4", "hidden"), ("hidden", "head")):
        outgoing = found.model.get_parameter(f"{first}.weight").abs().flatten(1).amax(1)
        weight = found.model.get_parameter(f"{second}.weight").abs()
        incoming = weight.reshape(len(weight), len(outgoing), -1).amax((0, 2))
        assert torch.allclose(outgoing, incoming, rtol=1e-3)


def test_dropped_clips_change_the_function_and_left_ones_keep_the_pairs_away() -> None:
    model = SmallNet(uneven=2.0)
    samples = images()
    dropped = equalise(model, Equalisation(clip=Clip.RELU))
    assert not any(isinstance(module, nn.ReLU6) for module in dropped.model.modules())
    assert relative_difference(outputs_of(model, samples), outputs_of(dropped.model, samples)) > 0.01
    left = equalise(model, Equalisation(clip=Clip.LEAVE))
    assert [pair.first for pair in left.pairs] == ["features.4", "hidden"]
    assert relative_difference(outputs_of(model, samples), outputs_of(left.model, samples)) < 2e-5


class _Branching(nn.Module):
    """A layer read twice, one that runs twice, a norm between, and a sigmoid: no pair among them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(4, 4, 1) for _ in range(5))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.b(torch.relu(x))
        x = self.c(torch.relu(self.c(x)))
        return self.e(torch.sigmoid(self.d(self.norm(x))))


def test_what_does_not_commute_is_no_pair() -> None:
    assert equalise(_Branching()).pairs == ()


class _Dependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_fx_cannot_follow_is_refused() -> None:
    with pytest.raises(UsageError, match=r"torch\.fx"):
        equalise(_Dependent())


def test_equalisation_cures_whole_tensor_rounding() -> None:
    model, samples = SmallNet(uneven=1.5), images()
    original = outputs_of(model, samples)
    plain = sqnr_db(original, outputs_of(nearest(model, WHOLE_TENSOR), samples))
    cured = sqnr_db(original, outputs_of(nearest(equalise(model).model, WHOLE_TENSOR), samples))
    assert cured > plain + 5


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_corrected_biases_leave_no_mean_error(bits: int) -> None:
    model, samples, affine = SmallNet(uneven=1.0), images(), Affine(bits=bits, axis=0)
    corrected = correct_biases(model, samples, BiasCorrection(weights=affine))
    means: dict[str, list[Tensor]] = {}

    def note(path: str, layer: nn.Module, _: Tensor, output: Tensor) -> None:
        means.setdefault(path, []).append(channel_means(output, layer))

    few = nearest(corrected, affine)
    for net in (model, few):
        with torch.no_grad(), observed(rounded_layers(net), note):
            net(*samples.inputs)
    for path, (before, after) in means.items():
        assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max())), path
    for path, layer in rounded_layers(model).items():
        assert torch.equal(corrected.get_parameter(f"{path}.weight"), layer.weight)


def test_a_layer_without_bias_gets_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 4, bias=False)
    )
    corrected = correct_biases(model, images(8), BiasCorrection(weights=Affine(bits=3, axis=0)))
    assert corrected[0].bias is not None and corrected[0].bias.abs().max() > 0
    assert model[0].bias is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 8, (3, 2), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv1d(4, 6, 3, padding=2, stride=2),
        nn.Conv1d(4, 6, 4, padding="valid", groups=2),
        nn.Linear(5, 7),
    ],
    ids=str,
)
def test_columns_times_weights_are_the_layer(layer: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    size = {"Linear": (3, 2, 5), "Conv1d": (3, 4, 11)}.get(type(layer).__name__, (3, 4, 9, 8))
    given = torch.randn(*size, generator=generator)
    columns = _columns(layer, given)  # type: ignore[arg-type]
    weight = layer.weight.reshape(len(columns), -1, columns.shape[1])  # type: ignore[union-attr]
    products = (weight @ columns).reshape(-1, columns.shape[2])
    output = layer(given)
    axis = 2 if isinstance(layer, nn.Linear) else 1
    expected = (output - layer.bias.reshape(-1, *[1] * (output.dim() - 1 - axis))).movedim(axis, 0)  # type: ignore[union-attr,operator]
    assert torch.allclose(products, expected.reshape(len(products), -1), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_descent_never_raises_the_error_and_ends_where_no_single_code_helps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    mixed = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)  # inputs that move together
    x = mixed @ torch.randn(2, 2, 20, generator=generator, dtype=torch.float64)
    x += 0.1 * torch.randn(2, 6, 20, generator=generator, dtype=torch.float64)
    gram, affine = x @ x.transpose(1, 2), Affine(bits=3)
    scale = weight.abs().amax(2, keepdim=True) / affine.highest
    first = torch.round(weight / scale)
    errors = [
        output_error(weight - scale * descend(weight, gram, first, scale, affine, n), gram)
        for n in (0, 1, 2, 50)
    ]
    assert torch.equal(errors[0], output_error(weight - scale * first, gram))
    assert all((later <= sooner + 1e-9).all() for sooner, later in itertools.pairwise(errors))
    assert errors[-1].sum() < errors[0].sum()
    codes = descend(weight, gram, first, scale, affine, 50)
    for column in range(6):
        for step in (-1, 1):
            other = codes.clone()
            other[:, :, column] = (other[:, :, column] + step).clamp(affine.lowest, affine.highest)
            assert (output_error(weight - scale * other, gram) >= errors[-1] - 1e-9).all()


@pytest.mark.parametrize("bits", [3, 4])
def test_reconstruction_beats_the_nearest_in_every_layer_and_on_fresh_data(bits: int) -> None:
    model, affine = SmallNet(uneven=1.0), Affine(bits=bits, axis=0)
    found = reconstruct(model, images(64), Reconstruction(bits=bits))
    assert [layer.layer for layer in found.layers] == list(rounded_layers(model))
    assert all(layer.error < layer.nearest_error for layer in found.layers)
    fresh = images(64, seed=9)
    original = outputs_of(model, fresh)
    plain, ours = (outputs_of(net, fresh) for net in (nearest(model, affine), found.model))
    assert sqnr_db(original, ours) > sqnr_db(original, plain) + 1


def test_reconstructed_weights_are_on_their_grids_and_the_model_is_untouched() -> None:
    model = SmallNet()
    before = copy.deepcopy(model.state_dict())
    found = reconstruct(model, images(16), Reconstruction(bits=4))
    again = reconstruct(model, images(16), Reconstruction(bits=4))
    for grid, same in zip(found.grids, again.grids, strict=True):
        assert grid.codes.dtype == torch.int8 and grid.codes.abs().max() <= 7
        assert torch.equal(found.model.get_parameter(grid.name), grid.weight)
        assert torch.equal(grid.codes, same.codes) and torch.equal(grid.scale, same.scale)
    assert set(found.weights) == set(rounded_layers(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exceptions_have_their_own_bits() -> None:
    found = reconstruct(SmallNet(), images(8), Reconstruction(bits=4, exceptions=(("features.2", 8),)))
    assert {grid.name: grid.bits for grid in found.grids if grid.bits != 4} == {"features.2.weight": 8}
    assert [grid.codes.abs().max() > 7 for grid in found.grids] == [False, True, False, False, False]
    with pytest.raises(UsageError, match="nowhere"):
        reconstruct(SmallNet(), images(8), Reconstruction(exceptions=(("nowhere", 8),)))


def test_layers_too_wide_are_rounded_to_the_nearest_and_said_so() -> None:
    model = SmallNet()
    found = reconstruct(model, images(8), Reconstruction(bits=4, widest=100))
    (skipped,) = [layer for layer in found.layers if layer.skipped]
    assert skipped.layer == "hidden" and "384 inputs" in skipped.skipped
    expected = quantize(model.hidden.weight, Affine(bits=4, axis=0)).dequantize()
    assert torch.equal(found.model.get_parameter("hidden.weight"), expected)


def test_sensitivity_finds_the_layer_that_suffers() -> None:
    model = SmallNet()
    with torch.no_grad():
        model.features[4].weight[0] *= 500  # one channel takes the whole tensor's range
        model.hidden.weight[:, :16] /= 500
    found = sensitivity(model, images(16), Probe(weights=WHOLE_TENSOR))
    assert found[0].layer in ("features.4", "hidden")
    assert {each.layer for each in found} == set(rounded_layers(model))
    assert [each.moved for each in found] == sorted((each.moved for each in found), reverse=True)
    assert found == sensitivity(model, images(16), Probe(weights=WHOLE_TENSOR))


def test_sensitivity_of_numbers_is_their_noise() -> None:
    """One output has no classes: what moved is the error's share; a layer whose weights lie on the grid has none."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[127.0, -5.0, 64.0]]))
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(3))
    exact, rough = sensitivity(model, Samples((inputs,)))[::-1]
    assert (exact.layer, exact.moved) == ("1", 0.0)
    plain = model(inputs).detach()
    noisy = copy.deepcopy(model)
    noisy[0].weight.data = quantize(model[0].weight.detach(), Affine(bits=8, axis=0)).dequantize()
    expected = (noisy(inputs).detach() - plain).square().sum() / plain.square().sum()
    assert rough.moved == pytest.approx(float(expected))


def test_sensitivity_sees_inputs_and_leaves_no_hook() -> None:
    model, samples = SmallNet().train(), images(8)
    before = copy.deepcopy(model.state_dict())
    coarse = Probe(weights=Affine(bits=16, axis=0), inputs=Affine(bits=3, symmetric=False))
    found = sensitivity(model, samples, coarse)
    assert max(each.moved for each in found) > 100 * max(each.moved for each in sensitivity(model, samples))
    assert model.training and not any(layer._forward_pre_hooks for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_come_back_after_an_error() -> None:
    model = SmallNet()
    own = model.head.weight.data.clone()
    with pytest.raises(ZeroDivisionError), holding_weights(rounded_layers(model), {"head": own * 0}):
        _ = 1 / 0
    assert torch.equal(model.head.weight, own)


@pytest.mark.parametrize("repair", [reconstruct, sensitivity])
def test_a_model_without_layers_is_refused(repair: object) -> None:
    with pytest.raises(UsageError, match="no convolution"):
        repair(nn.Sequential(nn.ReLU()), images(4))  # type: ignore[operator]


def test_samples_may_have_several_inputs() -> None:
    model = nn.Bilinear(3, 4, 5)
    pair = Samples((torch.randn(6, 3), torch.randn(6, 4)))
    assert outputs_of(model, pair, batch_size=4).shape == (6, 5)
