"""Small nets whose dependencies differ: chains, residuals, concatenations, depthwise layers, group norms, attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from enxuto.architectures import digits_cnn, gpt, mobilenet_v2, resnet18, squeezenet1_1, unet
from enxuto.architectures.vit import VisionTransformer


@dataclass(frozen=True)
class Case:
    """How a net is built, and one sample of what it takes."""

    build: Callable[[], nn.Module]
    example: Callable[[int], Tensor]


class ThreeProjections(nn.Module):
    """Attention with a layer each for queries, keys and values, after a transposed convolution and a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.up = nn.ConvTranspose1d(3, 12, 2, stride=2)
        self.act = nn.PReLU(12)
        self.inner = nn.Conv1d(12, 16, 1)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, 24) for _ in range(3))
        self.out_proj = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.act(self.up(x))).transpose(1, 2)
        shape = (len(x), x.size(1), self.num_heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """Batch norms, a depthwise convolution and a shortcut; shallow, so that rounding stays rounding while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.widen = nn.Sequential(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.Hardswish()
        )
        self.narrow = nn.Sequential(nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.narrow(self.depthwise(self.widen(x)))
        return self.head(x.mean((2, 3)))


def image(channels: int, side: int) -> Callable[[int], Tensor]:
    return lambda n: torch.rand(n, channels, side, side)


CASES = {
    "digits": Case(digits_cnn, image(1, 28)),
    "mobilenet": Case(lambda: mobilenet_v2(10, 0.25), image(3, 32)),
    "residual": Case(Residual, image(3, 12)),
    "resnet": Case(lambda: resnet18(10), image(3, 32)),
    "squeezenet": Case(lambda: squeezenet1_1(10), image(3, 48)),
    "unet": Case(unet, image(3, 16)),
    "vit": Case(lambda: VisionTransformer(10, 16, 8, 32, 2, 4, 0.0), image(3, 16)),
    "gpt": Case(lambda: gpt(64, 32, 2, 4, 16), lambda n: torch.randint(64, (n, 8))),
    "three projections": Case(ThreeProjections, lambda n: torch.rand(n, 3, 6)),
}


def built(name: str, seed: int = 0) -> nn.Module:
    """A net with random weights, norms and statistics: none of its numbers is one that hides a mistake."""
    torch.manual_seed(seed)
    model = CASES[name].build()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn_like(tensor))
    return model
