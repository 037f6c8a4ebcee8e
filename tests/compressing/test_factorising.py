"""Low rank: the error is the dropped energy, the best of its rank, and smaller on data that was looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from enxuto.architectures import gpt
from enxuto.compressing.factorising import LowRankSettings, factorise
from enxuto.compressing.rebuilding import rebuild
from enxuto.errors import UsageError
from enxuto.records import Rebuild

torch.set_num_threads(1)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def product(pair):
    """The weight that two layers in a row make."""
    return pair[1].weight.flatten(1) @ pair[0].weight.flatten(1)


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_squared_error_is_the_dropped_singular_energy(kind, energy):
    torch.manual_seed(0)
    layer = nn.Linear(48, 96) if kind == "linear" else nn.Conv2d(12, 64, 3, padding=1, stride=2)
    model = nn.Sequential(layer, nn.ReLU()).double()
    with torch.no_grad():  # singular values that fall as trained ones do
        shape = layer.weight.shape
        left, values, right = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
        falling = torch.logspace(0, -2, len(values), dtype=torch.float64)
        layer.weight.copy_((left * values * falling @ right).view(shape))
    low = factorise(model, LowRankSettings(energy=energy))
    weight = model[0].weight.detach().flatten(1)
    values = torch.linalg.svdvals(weight)
    rank = low.edits[0].rank
    error = (weight - product(low.model[0])).square().sum()
    torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-9, atol=0)
    assert float(values[:rank].square().sum()) >= energy * float(values.square().sum())
    assert float(values[: rank - 1].square().sum()) < energy * float(values.square().sum())
    assert low.layers[0].dropped_ratio == pytest.approx(float(error / weight.square().sum()))
    assert parameters(low.model) < parameters(model)
    x = torch.rand(2, 48).double() if kind == "linear" else torch.rand(2, 12, 7, 7).double()
    assert low.model(x).shape == model(x).shape


def test_a_matrix_of_low_rank_comes_back_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(64, 5) @ torch.randn(5, 64))
    low = factorise(model, LowRankSettings(energy=1 - 1e-9))
    assert low.edits[0].rank == 5
    x = torch.randn(3, 64)
    torch.testing.assert_close(low.model(x), model(x), rtol=1e-4, atol=1e-4)


def test_with_data_the_error_of_the_outputs_is_the_least_of_its_rank():
    """Inputs live in few directions: looking at them beats the plain decomposition on them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64)).double()
    x = (torch.randn(512, 64) * torch.logspace(0, -3, 64)).double() @ torch.linalg.qr(
        torch.randn(64, 64).double()
    )[0]
    looked = factorise(model, LowRankSettings(energy=0.95), data=x)
    rank = looked.edits[0].rank
    plain = torch.linalg.svd(model[0].weight)
    blind = (plain.U[:, :rank] * plain.S[:rank]) @ plain.Vh[:rank]
    outputs = x @ model[0].weight.T
    seen = (looked.model(x) - model[0].bias - outputs).square().sum()
    assert seen < 0.2 * (x @ blind.T - outputs).square().sum()
    assert float(seen / outputs.square().sum()) == pytest.approx(looked.layers[0].dropped_ratio, rel=1e-3)


def test_a_budget_is_met_by_the_largest_energy_and_layers_that_gain_nothing_stay():
    torch.manual_seed(0)
    model = gpt(64, 32, 2, 4, 16)
    limit = int(0.8 * parameters(model))
    low = factorise(model, LowRankSettings(at_most=limit, smallest=1))
    assert low.met and 0.95 * limit < parameters(low.model) <= limit
    assert all(layer.rank >= 1 for layer in low.layers)
    assert not factorise(model, LowRankSettings(at_most=10)).met
    all_kept = factorise(model, LowRankSettings(energy=0.999999))
    assert all_kept.edits == () and parameters(all_kept.model) == parameters(model)


def test_a_rebuilt_net_gives_the_same_bits():
    torch.manual_seed(0)
    build = lambda: gpt(64, 32, 2, 4, 16)  # noqa: E731
    low = factorise(build(), LowRankSettings(energy=0.5))
    assert low.edits
    again = rebuild(build(), Rebuild.from_json(Rebuild(edits=low.edits).to_json()))
    again.load_state_dict(low.model.state_dict())
    tokens = torch.randint(64, (2, 8))
    assert torch.equal(again(tokens), low.model(tokens))


def test_a_tied_layer_stays():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(64, 64), nn.Linear(64, 64, bias=False)
            self.head.weight = self.embedding.weight

    with pytest.raises(UsageError, match="no linear layer"):
        factorise(Tied(), LowRankSettings(energy=0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LowRankSettings(), "either"),
        (lambda: LowRankSettings(energy=1.0), "below 1"),
        (lambda: LowRankSettings(energy=0.5, at_most=10), "either"),
        (lambda: factorise(nn.Sequential(nn.Linear(4, 4)), LowRankSettings(energy=0.5)), "no linear layer"),
        (lambda: factorise(torch.jit.script(nn.Linear(4, 4)), LowRankSettings(energy=0.5)), "TorchScript"),
    ],
)
def test_wrong_calls_say_what_to_do(call, message):
    with pytest.raises(UsageError, match=message):
        call()
