"""The nets beside those that they are named after: same names, same shapes, and the same answers.

Needs torchvision and timm, which work only beside their own torch: `make test-zoo`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from enxuto import architectures as ours

pytestmark = pytest.mark.zoo

TORCHVISION = {
    "mobilenet_v2": ours.mobilenet_v2,
    "mobilenet_v3_large": ours.mobilenet_v3_large,
    "mobilenet_v3_small": ours.mobilenet_v3_small,
    "resnet18": ours.resnet18,
    "resnet50": ours.resnet50,
    "shufflenet_v2_x0_5": partial(ours.shufflenet_v2, width=0.5),
    "shufflenet_v2_x1_0": ours.shufflenet_v2,
    "shufflenet_v2_x1_5": partial(ours.shufflenet_v2, width=1.5),
    "shufflenet_v2_x2_0": partial(ours.shufflenet_v2, width=2.0),
    "squeezenet1_0": ours.squeezenet1_0,
    "squeezenet1_1": ours.squeezenet1_1,
    "vgg16": ours.vgg16,
}
TIMM = {
    "efficientnet_lite0": ours.efficientnet_lite0,
    "mobilenetv1_100": ours.mobilenet_v1,
    "mobilenetv1_125": partial(ours.mobilenet_v1, width=1.25),
    "mobilenetv4_conv_small": ours.mobilenet_v4_conv_small,
    "mobilenetv4_conv_small_050": partial(ours.mobilenet_v4_conv_small, width=0.5),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_weights_give_the_same_answers(name: str) -> None:
    models = zoo("torchvision").models
    assert_same_function(TORCHVISION[name], models.get_model(name, weights=None))


@pytest.mark.parametrize("name", TIMM)
def test_timm_weights_give_the_same_answers(name: str) -> None:
    assert_same_function(TIMM[name], zoo("timm").create_model(name))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
@pytest.mark.parametrize("width", [0.5, 0.75, 1.4])
def test_widths_are_torchvisions(name: str, width: float) -> None:
    models = zoo("torchvision").models
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None, width_mult=width)
        mine = getattr(ours, name)(width=width)
    assert shapes(mine) == shapes(theirs)


def zoo(package: str) -> Any:
    """A package of nets, or a visible skip."""
    reason = f"{package} is not beside this torch: make test-zoo"
    return pytest.importorskip(package, reason=reason, exc_type=ImportError)


def assert_same_function(build: Callable[[], nn.Module], theirs: nn.Module) -> None:
    """All keys match, and with the same weights every answer is equal to the bit."""
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    net = build()
    net.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.eval()(images), theirs.eval()(images))


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    """Every entry of the state dict with its shape."""
    return {key: value.shape for key, value in net.state_dict().items()}
