"""Folding: the same function in evaluation, only where a norm really follows, and rebuilt from its record."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from enxuto.architectures import mobilenet_v2, resnet18, unet
from enxuto.compressing.folding import fold_batch_norms
from enxuto.compressing.rebuilding import rebuild
from enxuto.errors import UndecidableError, UsageError
from enxuto.records import Rebuild

torch.set_num_threads(1)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def shaken(model, seed=0):
    """Random statistics and weights, so that a norm is no identity."""
    torch.manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model


class Mixed(nn.Module):
    """Linear, transposed and depthwise layers with norms; a bias here and none there."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(6, affine=False)
        self.linear = nn.Linear(6, 4, bias=False)
        self.linear_norm = nn.BatchNorm1d(4)

    def forward(self, x):
        x = F.relu(self.up_norm(self.up(x)))
        x = self.depthwise_norm(self.depthwise(x)).mean((2, 3))
        return self.linear_norm(self.linear(x))


NETS = {
    "resnet": (lambda: resnet18(10), (2, 3, 32, 32), 20),
    "mobilenet": (lambda: mobilenet_v2(10, 0.25), (2, 3, 32, 32), 52),
    "unet": (unet, (2, 3, 16, 16), None),
    "mixed": (Mixed, (2, 3, 8, 8), 3),
}


@pytest.mark.parametrize("name", NETS)
def test_a_folded_net_is_the_same_function(name):
    build, shape, folds = NETS[name]
    model = shaken(build()).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norms(model)
    x = torch.rand(shape, dtype=torch.float64)
    assert not [layer for layer in folded.model.modules() if isinstance(layer, NORMS)]
    assert folds is None or len(folded.edits) == folds
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(
            folded.model(x), expected, rtol=0, atol=1e-12 * float(expected.abs().max())
        )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = rebuild(
        shaken(build(), seed=9).double(), Rebuild.from_json(Rebuild(edits=folded.edits).to_json())
    )
    again.load_state_dict(folded.model.state_dict())
    assert torch.equal(again.eval()(x), folded.model(x))


class TwoReaders(nn.Module):
    """The convolution's output is read by the norm and by a shortcut: folding would change the shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


class UsedTwice(TwoReaders):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.conv(2 * x))


class NameOnly(TwoReaders):
    """conv and norm are neighbours by name, and a ReLU stands between them."""

    def forward(self, x):
        return self.norm(F.relu(self.conv(x)))


class WithoutStatistics(TwoReaders):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize("kind", [TwoReaders, UsedTwice, NameOnly, WithoutStatistics])
def test_a_norm_that_is_not_the_only_reader_stays(kind):
    model = shaken(kind()).double()
    folded = fold_batch_norms(model)
    assert folded.edits == ()
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(folded.model(x), model.eval()(x))


class Branching(TwoReaders):
    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_said():
    with pytest.raises(UndecidableError, match="Branching"):
        fold_batch_norms(Branching())
    with pytest.raises(UsageError, match="TorchScript"):
        fold_batch_norms(torch.jit.script(nn.Linear(2, 2)))
    edits = fold_batch_norms(Mixed()).edits
    with pytest.raises(UsageError, match="has no up followed"):
        rebuild(TwoReaders(), Rebuild(edits=edits))
