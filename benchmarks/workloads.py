"""Training workloads that people really have, small enough for a CPU; the benchmarks measure all of them.

Nets come first, grouped by family and written as users write them; the workloads follow in the same order.
`WORKLOADS[name](OPTIMIZERS["adamw"])` gives a `Workload` that can be built for real or under FakeTensorMode.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from enxuto import architectures as nets
from enxuto.workload import Workload

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Loss = Callable[[nn.Module, Any], Tensor]

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
}

WORKLOADS: dict[str, Callable[[OptimizerFactory], Workload]] = {}


# ---- Pieces that many nets share ---------------------------------------------------------------------------


class Residual(nn.Module):
    """A body around which the input passes unchanged."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Permute(nn.Module):
    """Reorder dimensions without a copy."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Checkpointed(nn.Module):
    """Keep only the input of a block and compute it again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any) -> Any:
        return checkpoint(self.block, *args, use_reentrant=False)


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: Callable[..., nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Padded convolution, batch norm and an activation in place."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act(inplace=True))


def pooled_head(width: int, classes: int) -> nn.Sequential:
    """Global average pooling and a linear classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with activations between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*layers[:-1])


# ---- Convolution: classifiers ------------------------------------------------------------------------------


def vgg(classes: int = 100) -> nn.Sequential:
    """Plain 3x3 convolutions with bias, max pooling and two large linear layers, for 64 px."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, repeats in ((64, 2), (128, 2), (256, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512 * 16, 1024), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(1024, classes))


class DenseLayer(nn.Module):
    """Compute `growth` new channels from all earlier ones and append them."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            conv_bn(inputs, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


def densenet(growth: int = 16, depths: Sequence[int] = (4, 6, 8), classes: int = 100) -> nn.Sequential:
    """Dense blocks, with a halving of channels and resolution after each."""
    width = 2 * growth
    layers: list[nn.Module] = [conv_bn(3, width, 7, stride=2)]
    for depth in depths:
        layers += [DenseLayer(width + i * growth, growth) for i in range(depth)]
        width += depth * growth
        layers += [
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width // 2, 1),
            nn.AvgPool2d(2),
        ]
        width //= 2
    return nn.Sequential(*layers, pooled_head(width, classes))


class XceptionBlock(nn.Module):
    """Two depthwise-separable convolutions and a max pooling beside a strided projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), self._separable(inputs, outputs), nn.ReLU(), self._separable(outputs, outputs)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.shortcut = conv_bn(inputs, outputs, 1, stride=2, act=nn.Identity)

    @staticmethod
    def _separable(inputs: int, outputs: int) -> nn.Sequential:
        depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        return nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x)) + self.shortcut(x)


def xception(widths: Sequence[int] = (32, 64, 128, 256, 384), classes: int = 100) -> nn.Sequential:
    """A stem, then depthwise-separable blocks that each halve the resolution."""
    blocks = [XceptionBlock(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return nn.Sequential(conv_bn(3, widths[0], stride=2), *blocks, pooled_head(widths[-1], classes))


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, then layer norm and an MLP with the channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, 4 * width, width, act=nn.GELU)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.scale * self.mlp(self.norm(y))
        return x + y.permute(0, 3, 1, 2)


def convnext(widths: Sequence[int] = (48, 96, 192), classes: int = 100) -> nn.Sequential:
    """A patch stem, then two ConvNeXt blocks at each width."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4)]
    for i, width in enumerate(widths):
        if i:
            layers += [nn.GroupNorm(1, widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
        layers += [ConvNeXtBlock(width), ConvNeXtBlock(width)]
    return nn.Sequential(*layers, pooled_head(widths[-1], classes))


def resnext(widths: Sequence[int] = (64, 128, 256, 512), classes: int = 100) -> nn.Sequential:
    """Bottlenecks whose 3x3 convolution has 32 groups, two at each width."""
    layers: list[nn.Module] = [conv_bn(3, widths[0], stride=2), nn.MaxPool2d(2)]
    for inputs, width in pairwise((widths[0], *widths)):
        layers.append(conv_bn(inputs, width, 1, stride=1 if inputs == width else 2))
        for _ in range(2):
            middle = conv_bn(width // 2, width // 2, groups=32)
            layers += [
                Residual(
                    conv_bn(width, width // 2, 1), middle, conv_bn(width // 2, width, 1, act=nn.Identity)
                )
            ]
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, pooled_head(widths[-1], classes))


class ShuffleUnit(nn.Module):
    """Transform half of the channels (all, to halve the resolution), then shuffle the two halves."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = inputs != outputs
        half, taken = outputs // 2, inputs if self.down else inputs // 2
        stride = 2 if self.down else 1
        self.main = nn.Sequential(
            conv_bn(taken, half, 1), conv_bn(half, half, 3, stride, half, nn.Identity), conv_bn(half, half, 1)
        )
        if self.down:
            self.side = nn.Sequential(
                conv_bn(inputs, inputs, 3, 2, inputs, nn.Identity), conv_bn(inputs, half, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = torch.cat([self.side(x), self.main(x)], 1)
        else:
            kept, rest = x.chunk(2, 1)
            x = torch.cat([kept, self.main(rest)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet(widths: Sequence[int] = (24, 116, 232, 464), classes: int = 100) -> nn.Sequential:
    """ShuffleNet V2: at each width one unit that strides and three that do not."""
    layers: list[nn.Module] = [conv_bn(3, widths[0], stride=2)]
    for inputs, outputs in pairwise(widths):
        layers += [ShuffleUnit(inputs, outputs), *(ShuffleUnit(outputs, outputs) for _ in range(3))]
    return nn.Sequential(*layers, conv_bn(widths[-1], 1024, 1), pooled_head(1024, classes))


class SqueezeExcite(nn.Module):
    """Weigh channels by a small net over their means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 4, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


def efficientnet(widths: Sequence[int] = (16, 24, 40, 80, 112), classes: int = 100) -> nn.Sequential:
    """Inverted bottlenecks with squeeze and excitation, and SiLU throughout."""

    def bottleneck(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        wide = 4 * inputs
        return [
            conv_bn(inputs, wide, 1, act=nn.SiLU),
            conv_bn(wide, wide, 5, stride, wide, nn.SiLU),
            SqueezeExcite(wide),
            conv_bn(wide, outputs, 1, act=nn.Identity),
        ]

    layers: list[nn.Module] = [conv_bn(3, widths[0], stride=2, act=nn.SiLU)]
    for inputs, outputs in pairwise(widths):
        layers += [*bottleneck(inputs, outputs, 2), Residual(*bottleneck(outputs, outputs, 1))]
    return nn.Sequential(*layers, pooled_head(widths[-1], classes))


def groupnorm_net(width: int = 64, depth: int = 4, classes: int = 100) -> nn.Sequential:
    """Pre-activation residual blocks with group norm, for batches too small for batch norm."""

    def block() -> list[nn.Module]:
        return [nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)]

    blocks = [Residual(*block(), *block()) for _ in range(depth)]
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3), *blocks, nn.GroupNorm(8, width), pooled_head(width, classes)
    )


class StochasticDepth(nn.Module):
    """Residual blocks that Python's own random numbers leave out of a training step."""

    def __init__(self, width: int = 64, depth: int = 8, keep: float = 0.7, classes: int = 100) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(
            Residual(conv_bn(width, width), conv_bn(width, width, act=nn.Identity)) for _ in range(depth)
        )
        self.head = pooled_head(width, classes)
        self.keep = keep
        self.dice = random.Random(0)  # every build throws the same sequence

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if not self.training or self.dice.random() < self.keep:
                x = block(x)
        return self.head(x)


class UntilSmall(nn.Module):
    """One shared block repeated while the image is large; the shape decides which layers run."""

    def __init__(self, width: int = 48, classes: int = 100) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block = Residual(conv_bn(width, width), conv_bn(width, width))
        self.refine = conv_bn(width, width, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        seen: list[Tensor] = []
        while x.shape[-1] > 4:
            x = F.max_pool2d(self.block(x), 2)
            if x.shape[-1] % 8 == 0:
                x = self.refine(x)
            seen.append(x.mean((2, 3)))
        return self.head(torch.stack(seen).mean(0))


def frozen_backbone(classes: int = 20) -> nn.Sequential:
    """A ResNet-18 that takes no gradient, under a head that does."""
    backbone = nets.resnet18()
    backbone.fc = nn.Identity()
    backbone.requires_grad_(False)
    return nn.Sequential(backbone, mlp(512, 256, classes))


def checkpointed_resnet(classes: int = 100) -> nn.Module:
    """ResNet-18 that recomputes each of its four stages."""
    model = nets.resnet18(classes)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(model, name, Checkpointed(getattr(model, name)))
    return model


class Distillation(nn.Module):
    """A student beside a teacher that runs without gradients."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.teacher = nets.resnet18(classes).requires_grad_(False)
        self.student = nets.mobilenet_v2(classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.teacher(x)
        return self.student(x), wanted


# ---- Convolution: dense prediction -------------------------------------------------------------------------


class DeepLab(nn.Module):
    """Dilated convolutions side by side over coarse features, resized to the image."""

    def __init__(self, classes: int = 21, width: int = 64) -> None:
        super().__init__()
        deep = 2 * width
        self.backbone = nn.Sequential(
            conv_bn(3, width, stride=2),
            conv_bn(width, width),
            conv_bn(width, deep, stride=2),
            conv_bn(deep, deep),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(deep, width, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(width)
            )
            for rate in (1, 6, 12, 18)
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, width, 1), nn.ReLU())
        self.head = nn.Sequential(conv_bn(5 * width, width, 1), nn.Conv2d(width, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        features = [F.relu(branch(x)) for branch in self.branches]
        features.append(
            F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        )
        logits = self.head(torch.cat(features, 1))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


class PyramidDetector(nn.Module):
    """A feature pyramid over ResNet-18 with box and class heads shared by its three levels."""

    def __init__(self, classes: int = 20, anchors: int = 3, width: int = 96) -> None:
        super().__init__()
        self.trunk = nets.resnet18()
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in (128, 256, 512))
        self.classes = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, anchors * classes, 3, padding=1),
        )
        self.boxes = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, anchors * 4, 3, padding=1)
        )
        self.trunk.fc = nn.Identity()
        self.count = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk
        x = trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x)))))
        levels: list[Tensor] = []
        for stage, lateral in zip((trunk.layer2, trunk.layer3, trunk.layer4), self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
        scores = [
            self.classes(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.count))
            for level in levels
        ]
        boxes = [self.boxes(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for level in levels]
        return torch.cat(scores, 1), torch.cat(boxes, 1)


def super_resolution(width: int = 48, depth: int = 6) -> nn.Sequential:
    """EDSR: residual convolutions without norms, then a pixel shuffle to twice the size."""
    blocks = [
        Residual(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1))
        for _ in range(depth)
    ]
    tail = [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), Residual(*blocks), *tail)


# ---- Convolution: sound and video --------------------------------------------------------------------------


class CausalConv(nn.Module):
    """1-D convolution that sees only the past: padded on the left, with weight norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.conv = parametrizations.weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.past, 0)))


def tcn(inputs: int = 16, width: int = 64, depth: int = 6) -> nn.Sequential:
    """Temporal convolutional net: residual causal convolutions of doubling dilation, with dropout."""
    layers: list[nn.Module] = [nn.Conv1d(inputs, width, 1)]
    for level in range(depth):
        first, second = (CausalConv(width, width, 3, 2**level) for _ in range(2))
        layers.append(Residual(first, nn.ReLU(), nn.Dropout(0.1), second, nn.ReLU(), nn.Dropout(0.1)))
    return nn.Sequential(*layers, nn.Conv1d(width, inputs, 1))


class WaveNet(nn.Module):
    """Gated causal convolutions whose skip outputs are summed, over audio of 256 levels."""

    def __init__(self, width: int = 32, skip: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.gates = nn.ModuleList(CausalConv(width, 2 * width, 2, 2**level) for level in range(depth))
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Conv1d(width, skip, 1) for _ in range(depth))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, 256, 1))

    def forward(self, samples: Tensor) -> Tensor:
        x = self.embed(samples).transpose(1, 2)
        total: Tensor | None = None
        for gate, residual, skip in zip(self.gates, self.residuals, self.skips, strict=True):
            signal, opening = gate(x).chunk(2, 1)
            y = torch.tanh(signal) * torch.sigmoid(opening)
            total = skip(y) if total is None else total + skip(y)
            x = x + residual(y)
        return self.head(total)


class SpeechNet(nn.Module):
    """Strided convolutions over a spectrogram and a bidirectional GRU that names each frame's phoneme."""

    def __init__(self, mels: int = 80, width: int = 128, symbols: int = 32) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(mels, width, 5, 2, 2), nn.GELU(), nn.Conv1d(width, width, 5, 2, 2), nn.GELU()
        )
        self.gru = nn.GRU(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, symbols)

    def forward(self, spectrogram: Tensor) -> Tensor:
        states, _ = self.gru(self.conv(spectrogram).transpose(1, 2))
        return self.head(states)


def video_net(widths: Sequence[int] = (24, 48, 96), classes: int = 50) -> nn.Sequential:
    """3-D convolutions with batch norm over [batch, 3, frames, height, width]."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *widths)):
        for channels in (inputs, outputs):
            layers += [
                nn.Conv3d(channels, outputs, 3, padding=1, bias=False),
                nn.BatchNorm3d(outputs),
                nn.ReLU(True),
            ]
        layers.append(nn.MaxPool3d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


# ---- Generative --------------------------------------------------------------------------------------------


def generator(latent: int = 100, width: int = 64) -> nn.Sequential:
    """DCGAN's generator: transposed convolutions from a vector to a 64 px image."""
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1))]
    widths = (8 * width, 4 * width, 2 * width, width)
    for i, (inputs, outputs) in enumerate(pairwise((latent, *widths))):
        stride, padding = (2, 1) if i else (1, 0)
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())


def critic(width: int = 64) -> nn.Sequential:
    """DCGAN's discriminator without batch norm: strided convolutions and leaky ReLU, 64 px."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, width, 2 * width, 4 * width, 8 * width)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4), nn.Flatten())


class GAN(nn.Module):
    """A generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = generator()
        self.discriminator = critic(32)


class VAE(nn.Module):
    """Convolutional encoder to a Gaussian, a reparametrised sample, and a decoder; 64 px."""

    def __init__(self, width: int = 32, latent: int = 128) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 8 * width)
        down = [nn.Sequential(nn.Conv2d(i, o, 4, 2, 1), nn.ReLU()) for i, o in pairwise(widths)]
        up = [nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1)) for i, o in pairwise(widths[::-1])]
        flat = 8 * width * 16
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, flat), nn.Unflatten(1, (8 * width, 4, 4)), *up)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, 1)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(sample), mean, log_variance


class VQVAE(nn.Module):
    """Autoencoder whose code is the nearest vector of a codebook, with a straight-through gradient."""

    def __init__(self, width: int = 64, codes: int = 512) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 4, 2, 1)
        )
        self.codebook = nn.Embedding(codes, width)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(images).permute(0, 2, 3, 1)
        distance = torch.cdist(code.flatten(0, 2), self.codebook.weight)
        nearest = self.codebook(distance.argmin(1)).view_as(code)
        commitment = F.mse_loss(code, nearest.detach()) + F.mse_loss(nearest, code.detach())
        passed = code + (nearest - code).detach()
        return self.decoder(passed.permute(0, 3, 1, 2)), commitment


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions at falling frequencies, [..., width]."""
    rates = torch.exp(torch.arange(width // 2, device=positions.device) * (-math.log(10000.0) / (width // 2)))
    angles = positions.float().unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class TimedBlock(nn.Module):
    """Two convolutions with group norm and SiLU, shifted between them by the timestep."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.shift = nn.Linear(time, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(x) + self.shift(time)[:, :, None, None]
        return self.shortcut(x) + self.second(y)


class PixelAttention(nn.Module):
    """Self-attention over the pixels of a feature map, with the matrix of weights spelt out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weights = torch.einsum("bcq,bck->bqk", q * x.shape[1] ** -0.5, k).softmax(-1)
        return x + self.out(torch.einsum("bqk,bck->bcq", weights, v).view_as(x))


class DiffusionUNet(nn.Module):
    """Predict the noise in an image: a U-Net told the timestep, with attention at the low resolutions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width, time = width, 4 * width
        self.time = mlp(width, time, time, act=nn.SiLU)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(TimedBlock(width * i, width * o, time) for i, o in ((1, 1), (1, 2), (2, 4)))
        self.middle = TimedBlock(4 * width, 4 * width, time)
        self.attend = PixelAttention(4 * width)
        self.up = nn.ModuleList(TimedBlock(width * i, width * o, time) for i, o in ((8, 2), (4, 1), (2, 1)))
        self.head = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        time = self.time(sinusoid(step, self.width))
        x = self.stem(noisy)
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x, time)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(self.attend(self.middle(x, time)), time)
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], 1), time)
        return self.head(x)


# ---- Vision without convolution ----------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Swin: attention within windows of a grid that may be rolled by half a window."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        place = torch.arange(window)
        offset = place[:, None] - place[None, :] + window - 1
        index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
        self.register_buffer("index", index.reshape(window**2, window**2))
        row = torch.arange(side)
        region = (row >= side - window).long() + (row >= side - shift).long()
        regions = self._split((3 * region[:, None] + region[None, :])[None, :, :, None]).squeeze(-1)
        self.register_buffer("mask", (regions[:, None, :] != regions[:, :, None]) * -100.0)

    def _split(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        x = x.view(n, height // self.window, self.window, width // self.window, self.window, channels)
        return x.transpose(2, 3).reshape(-1, self.window**2, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, side, _, width = x.shape
        x = x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x
        qkv = self.qkv(self._split(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias[self.index].permute(2, 0, 1)
        if self.shift:
            scores = (scores.unflatten(0, (n, -1)) + self.mask[:, None]).flatten(0, 1)
        x = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        grid = side // self.window
        x = (
            x.view(n, grid, grid, self.window, self.window, width)
            .transpose(2, 3)
            .reshape(n, side, side, width)
        )
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


def swin(width: int = 96, side: int = 16, depth: int = 2, classes: int = 100) -> nn.Sequential:
    """Patches of 4 px on a 16x16 grid, then pairs of plain and shifted windows; half the grid midway."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), Permute(0, 2, 3, 1)]
    for stage in range(2):
        for block in range(2 * depth):
            attend = WindowAttention(width, width // 32, side, 4, 2 if block % 2 else 0)
            layers += [Residual(nn.LayerNorm(width), attend)]
            layers += [Residual(nn.LayerNorm(width), mlp(width, 4 * width, width, act=nn.GELU))]
        if not stage:
            halve = nn.Conv2d(width, 2 * width, 2, 2)
            layers += [nn.LayerNorm(width), Permute(0, 3, 1, 2), halve, Permute(0, 2, 3, 1)]
            width, side = 2 * width, side // 2
    return nn.Sequential(*layers, Permute(0, 3, 1, 2), pooled_head(width, classes))


def mlp_mixer(width: int = 256, patches: int = 64, depth: int = 6, classes: int = 100) -> nn.Sequential:
    """MLP-Mixer: MLPs along the patches and along the channels in turn, 8x8 patches of 8 px."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 8, 8), nn.Flatten(2), Permute(0, 2, 1)]
    for _ in range(depth):
        along = mlp(patches, 4 * patches, patches, act=nn.GELU)
        layers += [Residual(nn.LayerNorm(width), Permute(0, 2, 1), along, Permute(0, 2, 1))]
        layers += [Residual(nn.LayerNorm(width), mlp(width, 4 * width, width, act=nn.GELU))]
    return nn.Sequential(
        *layers, Permute(0, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, classes)
    )


# ---- Language: transformers --------------------------------------------------------------------------------


def small_gpt(dropout: float = 0.0) -> nn.Module:
    """A GPT of six blocks and 4096 tokens, small enough for a CPU."""
    return nets.gpt(vocab=4096, width=256, depth=6, heads=8, context=128, dropout=dropout)


def small_llama() -> nn.Module:
    """A Llama with rotary positions, RMS norm, SwiGLU and two query heads to each key head."""
    return nets.llama(vocab=4096, width=256, depth=4, heads=8, kv_heads=4, hidden=688)


def checkpointed_gpt() -> nn.Module:
    """The small GPT that recomputes every block."""
    model = small_gpt()
    model.h = nn.ModuleList(Checkpointed(block) for block in model.h)
    return model


class WrittenAttention(nn.Module):
    """minGPT's attention: scores, a mask from a buffer, softmax and dropout, all in full."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("mask", torch.tril(torch.ones(context, context)).view(1, 1, context, context))

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.shape[-1])
        scores = scores.masked_fill(self.mask[:, :, :time, :time] == 0, float("-inf"))
        mixed = self.drop(scores.softmax(-1)) @ v
        return self.drop(self.out(mixed.transpose(1, 2).contiguous().flatten(2)))


class MinGPT(nn.Module):
    """minGPT with an untied head."""

    def __init__(self, vocab: int = 2048, width: int = 192, depth: int = 4, context: int = 128) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, width), nn.Parameter(torch.zeros(1, context, width))
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks.append(Residual(nn.LayerNorm(width), WrittenAttention(width, 6, context)))
            blocks.append(
                Residual(nn.LayerNorm(width), mlp(width, 4 * width, width, act=nn.GELU), nn.Dropout(0.1))
            )
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.token(tokens) + self.position[:, : tokens.shape[1]]))


class LowRank(nn.Module):
    """LoRA: a frozen linear layer plus a product of two thin matrices that learn."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.01)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def lora_gpt() -> nn.Module:
    """The small GPT, frozen, with LoRA on the linear layers of each attention."""
    model = small_gpt().requires_grad_(False)
    for block in model.h:
        block.attn.c_attn = LowRank(block.attn.c_attn)
        block.attn.c_proj = LowRank(block.attn.c_proj)
    return model


class PaddedEncoder(nn.Module):
    """nn.TransformerEncoder over padded sentences, pooled over what is not padding."""

    def __init__(self, vocab: int = 8000, width: int = 192, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, 6, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        padding = place >= lengths[:, None]
        x = self.embed(tokens) + sinusoid(place, self.embed.embedding_dim)
        x = self.encoder(x, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        return self.head((x * kept).sum(1) / kept.sum(1))


class Translator(nn.Module):
    """nn.Transformer from one language to another, with one table of embeddings for both."""

    def __init__(self, vocab: int = 4000, width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.core = nn.Transformer(width, 6, depth, depth, 4 * width, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def _tokens(self, tokens: Tensor) -> Tensor:
        width = self.embed.embedding_dim
        return self.embed(tokens) * width**0.5 + sinusoid(
            torch.arange(tokens.shape[1], device=tokens.device), width
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        # told that the mask is causal, torch need not compare its values, which a fake tensor lacks
        x = self.core(self._tokens(source), self._tokens(target), tgt_mask=mask, tgt_is_causal=True)
        return self.head(x)


class Bert(nn.Module):
    """Token, position and segment embeddings, post-norm blocks, and a head over the masked positions."""

    def __init__(self, vocab: int = 8000, width: int = 256, depth: int = 4, context: int = 128) -> None:
        super().__init__()
        self.token, self.position, self.segment = (nn.Embedding(size, width) for size in (vocab, context, 2))
        self.norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.1))
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocab))
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, tokens: Tensor, segments: Tensor, masked: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.token(tokens) + self.position(place) + self.segment(segments))
        x = self.encoder(x)
        chosen = x.gather(1, masked.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return F.linear(self.transform(chosen), self.token.weight, self.bias)


class DenseExperts(nn.Module):
    """Every expert on every token, combined by the weights of the best two."""

    def __init__(self, width: int, experts: int = 4, best: int = 2) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(mlp(width, 2 * width, width, act=nn.GELU) for _ in range(experts))
        self.best = best

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        value, index = scores.topk(self.best, -1)
        weights = torch.zeros_like(scores).scatter(-1, index, value.softmax(-1))
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return (outputs @ weights.unsqueeze(-1)).squeeze(-1)


class CapacityExperts(nn.Module):
    """GShard: each expert takes a fixed number of tokens, sent and gathered by one-hot products."""

    def __init__(self, width: int, experts: int = 8, best: int = 2, slack: float = 1.25) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width) * (2 * width) ** -0.5)
        self.best, self.slack = best, slack

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        count, experts = flat.shape[0], self.gate.out_features
        room = int(self.slack * self.best * count / experts)
        value, index = self.gate(flat).softmax(-1).topk(self.best, -1)
        chosen = F.one_hot(index, experts).flatten(0, 1)
        place = ((chosen.cumsum(0) - 1) * chosen).sum(-1)
        fits = (place < room).float()
        slot = F.one_hot(place.clamp(max=room - 1), room).float() * (fits * value.flatten()).unsqueeze(-1)
        combine = torch.einsum("te,ts->tes", chosen.float(), slot).unflatten(0, (count, self.best)).sum(1)
        sent = torch.einsum("tes,tc->esc", (combine > 0).float(), flat)
        out = F.gelu(sent @ self.up) @ self.down
        return torch.einsum("tes,esc->tc", combine, out).view_as(x)


class ExpertGPT(nn.Module):
    """The small GPT with experts in place of each MLP."""

    def __init__(self, experts: Callable[[int], nn.Module], depth: int = 4, width: int = 128) -> None:
        super().__init__()
        self.gpt = nets.gpt(vocab=2048, width=width, depth=depth, heads=4, context=64)
        for block in self.gpt.h:
            block.mlp = experts(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt(tokens)


# ---- Language: recurrence ----------------------------------------------------------------------------------


class TiedLSTM(nn.Module):
    """LSTM language model whose embedding and head are one parameter under two names."""

    def __init__(self, vocab: int = 10000, width: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.drop(self.embed(tokens)))
        return self.head(self.drop(states))


class Tagger(nn.Module):
    """A bidirectional LSTM that labels each token."""

    def __init__(self, vocab: int = 10000, width: int = 128, tags: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


class Forecaster(nn.Module):
    """A two-layer GRU over a series, whose last state foretells the next day."""

    def __init__(self, inputs: int = 32, width: int = 192, horizon: int = 24) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, horizon)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.gru(series)[1][-1])


class CellLoop(nn.Module):
    """An LSTM cell stepped through time by a Python loop."""

    def __init__(self, vocab: int = 256, width: int = 256) -> None:
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(vocab, width),
            nn.LSTMCell(width, width),
            nn.Linear(width, vocab),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        hidden = cell = x.new_zeros(x.shape[0], x.shape[2])
        states: list[Tensor] = []
        for moment in x.unbind(1):
            hidden, cell = self.cell(moment, (hidden, cell))
            states.append(hidden)
        return self.head(torch.stack(states, 1))


class Seq2Seq(nn.Module):
    """A GRU encoder and a GRU-cell decoder that attends to it at every step."""

    def __init__(self, vocab: int = 2000, width: int = 128) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(vocab, width), nn.GRU(width, width, batch_first=True)
        self.query, self.key, self.score = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, 1),
        )
        self.decoder, self.head = nn.GRUCell(2 * width, width), nn.Linear(width, vocab)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.embed(source))
        keys, hidden = self.key(memory), last[0]
        outputs: list[Tensor] = []
        for word in self.embed(target).unbind(1):
            weights = self.score(torch.tanh(keys + self.query(hidden)[:, None])).softmax(1)
            hidden = self.decoder(torch.cat([word, (weights * memory).sum(1)], -1), hidden)
            outputs.append(self.head(hidden))
        return torch.stack(outputs, 1)


# ---- Graphs, points and fields -----------------------------------------------------------------------------


class GraphConv(nn.Module):
    """Graph convolution: sum of neighbours by index_add_, divided by the degree."""

    def __init__(self, inputs: int = 64, width: int = 128, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((inputs, *[width] * depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, sink = edges
        degree = x.new_zeros(x.shape[0]).index_add_(0, sink, x.new_ones(sink.shape[0])).clamp(min=1.0)
        for layer in self.layers:
            x = layer(x)
            total = torch.zeros_like(x).index_add_(0, sink, x[source])
            x = F.relu(x + total / degree[:, None])
        return self.head(x)


class GraphAttention(nn.Module):
    """Graph attention: a softmax over each node's incoming edges by scatter_reduce and scatter_add."""

    def __init__(self, inputs: int = 64, width: int = 32, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(inputs, heads * width)
        self.score = nn.Parameter(torch.randn(2, heads, width) * 0.1)
        self.head = nn.Linear(heads * width, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, sink = edges
        x = self.project(x).unflatten(-1, (self.heads, -1))
        score = F.leaky_relu((x * self.score[0]).sum(-1)[source] + (x * self.score[1]).sum(-1)[sink], 0.2)
        index = sink[:, None].expand_as(score)
        nodes = x.new_zeros(x.shape[0], self.heads)
        highest = nodes.scatter_reduce(0, index, score.detach(), "amax", include_self=False)
        weight = torch.exp(score - highest[sink])
        weight = weight / nodes.scatter_add(0, index, weight)[sink]
        messages = weight.unsqueeze(-1) * x[source]
        spread = sink[:, None, None].expand_as(messages)
        return self.head(F.elu(torch.zeros_like(x).scatter_add(0, spread, messages).flatten(1)))


def pointnet(widths: Sequence[int] = (3, 64, 128, 512), classes: int = 40) -> nn.Sequential:
    """PointNet: one MLP for every point, as 1x1 convolutions, and the maximum over points."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveMaxPool1d(1), nn.Flatten(), mlp(widths[-1], 256, classes)]
    return nn.Sequential(*layers, *head)


class RadianceField(nn.Module):
    """NeRF: colour and density along rays, composited by a running product of transparency."""

    def __init__(self, width: int = 128, bands: int = 10) -> None:
        super().__init__()
        self.bands = bands
        self.trunk = mlp(3 + 6 * bands, width, width, width, width)
        self.out = nn.Linear(width, 4)

    def forward(self, points: Tensor) -> Tensor:
        waves = points.unsqueeze(-1) * 2.0 ** torch.arange(self.bands, device=points.device)
        encoded = torch.cat([points, waves.sin().flatten(-2), waves.cos().flatten(-2)], -1)
        colour, density = self.out(F.relu(self.trunk(encoded))).split((3, 1), -1)
        alpha = 1 - torch.exp(-F.softplus(density) / points.shape[1])
        passed = torch.cumprod(1 - alpha + 1e-10, 1)
        light = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
        return (light * alpha * colour.sigmoid()).sum(1)


class NeuralODE(nn.Module):
    """A learnt field integrated by ten Runge-Kutta steps."""

    def __init__(self, inputs: int = 64, width: int = 128, steps: int = 10) -> None:
        super().__init__()
        self.field = mlp(inputs, width, width, inputs, act=nn.Tanh)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        h = 1.0 / self.steps
        for _ in range(self.steps):
            k1 = self.field(x)
            k2 = self.field(x + h / 2 * k1)
            k3 = self.field(x + h / 2 * k2)
            k4 = self.field(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


# ---- Tables, recommendation and similarity -----------------------------------------------------------------


class SavedSwish(torch.autograd.Function):
    """x * sigmoid(x) that saves only x and computes the sigmoid again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * gate * (1 + x * (1 - gate))


class Swish(nn.Module):
    """SavedSwish as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return SavedSwish.apply(x)


class Recommender(nn.Module):
    """DLRM: embeddings, a bag of past items and dense features, joined by their dot products."""

    def __init__(self, users: int = 100_000, items: int = 200_000, width: int = 32) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.history = nn.EmbeddingBag(50_000, width, mode="mean")
        self.dense = mlp(13, 256, width)
        self.top = mlp(width + 6, 256, 128, 1)

    def forward(self, user: Tensor, item: Tensor, history: Tensor, dense: Tensor) -> Tensor:
        below = self.dense(dense)
        parts = torch.stack([below, self.user(user), self.item(item), self.history(history)], 1)
        products = torch.bmm(parts, parts.transpose(1, 2))
        row, column = torch.tril_indices(4, 4, -1, device=dense.device)
        return self.top(torch.cat([below, products[:, row, column]], 1)).squeeze(1)


class TwoTower(nn.Module):
    """Queries and documents in one space; every other document of the batch is a negative."""

    def __init__(self, vocab: int = 20_000, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(vocab, width, mode="sum")
        self.query, self.document = mlp(width, 256, width), mlp(width, 256, width)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        left = F.normalize(self.query(self.embed(query)), dim=-1)
        right = F.normalize(self.document(self.embed(document)), dim=-1)
        return left @ right.T / 0.07


class Clip(nn.Module):
    """An image tower and a text tower with a learnt temperature."""

    def __init__(self, vocab: int = 4000, width: int = 192) -> None:
        super().__init__()
        self.image = nets.resnet18(width)
        self.embed = nn.Embedding(vocab, width)
        layer = nn.TransformerEncoderLayer(
            width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        left = F.normalize(self.image(images), dim=-1)
        right = F.normalize(self.text(self.embed(tokens)).mean(1), dim=-1)
        return self.scale.exp() * left @ right.T


class DeepQ(nn.Module):
    """An online net and a target net of the same shape, over four stacked frames."""

    def __init__(self, actions: int = 6) -> None:
        super().__init__()
        self.online, self.target = (self._net(actions) for _ in range(2))
        self.target.requires_grad_(False)

    @staticmethod
    def _net(actions: int) -> nn.Sequential:
        convs = [
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        ]
        return nn.Sequential(*convs, nn.Flatten(), mlp(64 * 49, 512, actions))


# ---- Batches -----------------------------------------------------------------------------------------------


def images(side: int, classes: int = 100) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Square images and a class for each."""
    return lambda n: (torch.randn(n, 3, side, side), torch.randint(classes, (n,)))


def maps(side: int, classes: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Square images and a class for each pixel."""
    return lambda n: (torch.randn(n, 3, side, side), torch.randint(classes, (n, side, side)))


def tokens(time: int, vocab: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Sequences of tokens and the token that follows each."""
    return lambda n: (torch.randint(vocab, (n, time)), torch.randint(vocab, (n, time)))


def floats(shape: Sequence[int], target: Sequence[int]) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Inputs and targets of random numbers."""
    return lambda n: (torch.randn(n, *shape), torch.randn(n, *target))


def graph(
    nodes: int = 256, degree: int = 8, width: int = 64
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """n graphs in one: features, a class for each node, and edges as [2, edges]."""

    def batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
        total = n * nodes
        edges = torch.randint(total, (2, total * degree))
        return torch.randn(total, width), edges, torch.randint(10, (total,))

    return batch


# ---- Losses and steps --------------------------------------------------------------------------------------


def classify(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy over the last inputs' classes."""
    *inputs, target = batch
    return F.cross_entropy(model(*inputs), target)


def next_token(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy over every position of [batch, time, vocab]."""
    *inputs, target = batch
    return F.cross_entropy(model(*inputs).flatten(0, 1), target.flatten())


def regress(model: nn.Module, batch: Any) -> Tensor:
    """Mean squared error."""
    inputs, target = batch
    return F.mse_loss(model(inputs), target)


def in_batch(model: nn.Module, batch: Any) -> Tensor:
    """InfoNCE in both directions over the matrix of similarities."""
    scores = model(*batch)
    target = torch.arange(scores.shape[0], device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def triplet(model: nn.Module, batch: Any) -> Tensor:
    """One net called on anchor, positive and negative."""
    anchor, positive, negative = (F.normalize(model(part), dim=-1) for part in batch)
    return F.triplet_margin_loss(anchor, positive, negative, margin=0.2)


def distil(model: nn.Module, batch: Any) -> Tensor:
    """Half the classes, half the teacher's softened opinion."""
    inputs, target = batch
    student, teacher = model(inputs)
    soft = F.kl_div(F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1), reduction="batchmean")
    return F.cross_entropy(student, target) + 16 * soft


def detect(model: nn.Module, batch: Any) -> Tensor:
    """Focal loss for the classes and smooth L1 for the boxes."""
    inputs, labels, boxes = batch
    scores, offsets = model(inputs)
    cross = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    chance = scores.sigmoid()
    missed = chance * (1 - labels) + (1 - chance) * labels
    return (cross * missed**2).mean() + F.smooth_l1_loss(offsets, boxes)


def fool(model: Any, batch: Any) -> Tensor:
    """The generator's loss through the discriminator."""
    verdict = model.discriminator(model.generator(batch))
    return F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))


def penalised(model: nn.Module, batch: Any) -> Tensor:
    """WGAN-GP's critic: a penalty on the norm of its input gradient, hence a second derivative."""
    real, made, mix = batch
    between = (mix * real + (1 - mix) * made).requires_grad_()
    (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return model(made).mean() - model(real).mean() + 10 * penalty


def evidence(model: nn.Module, batch: Any) -> Tensor:
    """A VAE's reconstruction error and divergence."""
    made, mean, log_variance = model(batch)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return F.mse_loss(made, batch) + 0.001 * divergence


def quantised(model: nn.Module, batch: Any) -> Tensor:
    """A VQ-VAE's reconstruction error and commitment."""
    made, commitment = model(batch)
    return F.mse_loss(made, batch) + commitment


def denoise(model: nn.Module, batch: Any) -> Tensor:
    """Add noise by the cosine schedule and ask the net for it."""
    clean, noise, step = batch
    angle = (step.float() / 1000 * math.pi / 2).view(-1, 1, 1, 1)
    return F.mse_loss(model(angle.cos() * clean + angle.sin() * noise, step), noise)


def bellman(model: Any, batch: Any) -> Tensor:
    """Q-learning: what the online net said of the action taken, against the target net."""
    before, action, reward, after = batch
    with torch.no_grad():
        wanted = reward + 0.99 * model.target(after).amax(1)
    return F.smooth_l1_loss(model.online(before).gather(1, action[:, None]).squeeze(1), wanted)


def click(model: nn.Module, batch: Any) -> Tensor:
    """Binary cross-entropy of a click."""
    *inputs, clicked = batch
    return F.binary_cross_entropy_with_logits(model(*inputs), clicked)


def in_bfloat16(loss: Loss) -> Loss:
    """The same loss under autocast."""

    def wrapped(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(model, batch)

    return wrapped


def accumulate(model: nn.Module, optimizer: Optimizer | None, batch: Any) -> None:
    """Sum the gradients of two micro-batches before one update."""
    assert optimizer is not None
    optimizer.zero_grad()
    for half in zip(*(part.chunk(2) for part in batch), strict=True):
        (next_token(model, half) / 2).backward()
    optimizer.step()


def clip(model: nn.Module, optimizer: Optimizer | None, batch: Any) -> None:
    """Limit the norm of the gradients before the update."""
    assert optimizer is not None
    optimizer.zero_grad()
    next_token(model, batch).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


# ---- Making workloads --------------------------------------------------------------------------------------


def work(
    optimizer: OptimizerFactory,
    model: Callable[[], nn.Module],
    batch: Callable[[int], Any],
    loss: Loss,
    n: int,
    step: Callable[[nn.Module, Optimizer | None, Any], Any] | None = None,
) -> Workload:
    """A Workload whose batch has n samples unless told otherwise."""

    def sized(size: int | None = None) -> Any:
        return batch(size or n)

    return Workload(model=model, batch=sized, loss=loss, optimizer=optimizer, batch_size=n, step=step)


def register(build: Callable[[OptimizerFactory], Workload]) -> Callable[[OptimizerFactory], Workload]:
    """Enter a workload in `WORKLOADS` under the name of its function."""

    def named(optimizer: OptimizerFactory) -> Workload:
        return replace(build(optimizer), name=build.__name__)

    named.__name__, named.__doc__ = build.__name__, build.__doc__
    WORKLOADS[build.__name__] = named
    return named


# ---- Workloads: convolutional classifiers ------------------------------------------------------------------


@register
def vgg_b8(optimizer: OptimizerFactory) -> Workload:
    """VGG at 64 px: large linear layers and dropout."""
    return work(optimizer, vgg, images(64), classify, n=8)


@register
def resnet18_b16(optimizer: OptimizerFactory) -> Workload:
    """ResNet-18 at 128 px."""
    return work(optimizer, nets.resnet18, images(128), classify, n=16)


@register
def resnet18_channels_last_b16(optimizer: OptimizerFactory) -> Workload:
    """ResNet-18 at 128 px with weights and images in channels-last order."""

    def batch(n: int) -> tuple[Tensor, ...]:
        return (
            torch.randn(n, 3, 128, 128).contiguous(memory_format=torch.channels_last),
            torch.randint(100, (n,)),
        )

    return work(
        optimizer, lambda: nets.resnet18().to(memory_format=torch.channels_last), batch, classify, n=16
    )


@register
def resnet18_bf16_b16(optimizer: OptimizerFactory) -> Workload:
    """ResNet-18 at 96 px under bfloat16 autocast."""
    return work(optimizer, nets.resnet18, images(96), in_bfloat16(classify), n=16)


@register
def resnet18_checkpointed_b16(optimizer: OptimizerFactory) -> Workload:
    """ResNet-18 at 128 px whose stages are recomputed."""
    return work(optimizer, checkpointed_resnet, images(128), classify, n=16)


@register
def resnet18_frozen_b32(optimizer: OptimizerFactory) -> Workload:
    """A head trained on a frozen ResNet-18 at 128 px."""
    return work(optimizer, frozen_backbone, images(128, 20), classify, n=32)


@register
def resnet50_b8(optimizer: OptimizerFactory) -> Workload:
    """ResNet-50 at 128 px."""
    return work(optimizer, nets.resnet50, images(128), classify, n=8)


@register
def mobilenet_v2_b16(optimizer: OptimizerFactory) -> Workload:
    """MobileNetV2 at 128 px."""
    return work(optimizer, nets.mobilenet_v2, images(128), classify, n=16)


@register
def squeezenet1_1_b16(optimizer: OptimizerFactory) -> Workload:
    """SqueezeNet 1.1 at 128 px."""
    return work(optimizer, nets.squeezenet1_1, images(128), classify, n=16)


@register
def densenet_b16(optimizer: OptimizerFactory) -> Workload:
    """DenseNet at 96 px."""
    return work(optimizer, densenet, images(96), classify, n=16)


@register
def xception_b16(optimizer: OptimizerFactory) -> Workload:
    """Depthwise-separable convolutions at 128 px."""
    return work(optimizer, xception, images(128), classify, n=16)


@register
def convnext_b16(optimizer: OptimizerFactory) -> Workload:
    """ConvNeXt at 128 px."""
    return work(optimizer, convnext, images(128), classify, n=16)


@register
def resnext_b16(optimizer: OptimizerFactory) -> Workload:
    """Grouped convolutions at 128 px."""
    return work(optimizer, resnext, images(128), classify, n=16)


@register
def shufflenet_b16(optimizer: OptimizerFactory) -> Workload:
    """ShuffleNet V2 at 128 px."""
    return work(optimizer, shufflenet, images(128), classify, n=16)


@register
def efficientnet_b16(optimizer: OptimizerFactory) -> Workload:
    """Squeeze and excitation with SiLU at 128 px."""
    return work(optimizer, efficientnet, images(128), classify, n=16)


@register
def groupnorm_b4(optimizer: OptimizerFactory) -> Workload:
    """A group-norm net at 96 px with a small batch."""
    return work(optimizer, groupnorm_net, images(96), classify, n=4)


@register
def stochastic_depth_b16(optimizer: OptimizerFactory) -> Workload:
    """Residual blocks left out at random at 96 px."""
    return work(optimizer, StochasticDepth, images(96), classify, n=16)


@register
def until_small_b8(optimizer: OptimizerFactory) -> Workload:
    """A shared block whose number of runs follows from the shape, 64 px."""
    return work(optimizer, UntilSmall, images(64), classify, n=8)


@register
def distillation_b16(optimizer: OptimizerFactory) -> Workload:
    """MobileNetV2 taught by ResNet-18 at 96 px."""
    return work(optimizer, Distillation, images(96), distil, n=16)


# ---- Workloads: dense prediction ---------------------------------------------------------------------------


@register
def unet_b2(optimizer: OptimizerFactory) -> Workload:
    """U-Net at 128 px."""
    return work(optimizer, nets.unet, maps(128, 2), classify, n=2)


@register
def deeplab_b4(optimizer: OptimizerFactory) -> Workload:
    """Dilated convolutions and bilinear resizing at 128 px."""
    return work(optimizer, DeepLab, maps(128, 21), classify, n=4)


@register
def detector_b4(optimizer: OptimizerFactory) -> Workload:
    """A feature pyramid with shared heads at 128 px."""
    return work(
        optimizer,
        PyramidDetector,
        lambda n: (torch.randn(n, 3, 128, 128), torch.rand(n, 1008, 20), torch.randn(n, 1008, 4)),
        detect,
        n=4,
    )


@register
def super_resolution_b4(optimizer: OptimizerFactory) -> Workload:
    """EDSR from 48 px to 96 px."""
    return work(optimizer, super_resolution, floats((3, 48, 48), (3, 96, 96)), regress, n=4)


# ---- Workloads: sound and video ----------------------------------------------------------------------------


@register
def tcn_b16(optimizer: OptimizerFactory) -> Workload:
    """Dilated causal convolutions over 512 moments."""
    return work(optimizer, tcn, floats((16, 512), (16, 512)), regress, n=16)


@register
def wavenet_b2(optimizer: OptimizerFactory) -> Workload:
    """WaveNet over 4096 samples of audio."""
    return work(optimizer, WaveNet, tokens(4096, 256), classify, n=2)


@register
def speech_b16(optimizer: OptimizerFactory) -> Workload:
    """Convolutions and a bidirectional GRU over 400 frames of a spectrogram."""

    def batch(n: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 80, 400), torch.randint(32, (n, 100))

    return work(optimizer, SpeechNet, batch, next_token, n=16)


@register
def video_b2(optimizer: OptimizerFactory) -> Workload:
    """3-D convolutions over 8 frames of 64 px."""
    return work(
        optimizer, video_net, lambda n: (torch.randn(n, 3, 8, 64, 64), torch.randint(50, (n,))), classify, n=2
    )


# ---- Workloads: generative ---------------------------------------------------------------------------------


@register
def dcgan_generator_b16(optimizer: OptimizerFactory) -> Workload:
    """DCGAN's generator through its discriminator, 64 px."""
    return work(optimizer, GAN, lambda n: torch.randn(n, 100), fool, n=16)


@register
def wgan_gp_b8(optimizer: OptimizerFactory) -> Workload:
    """WGAN's critic with a gradient penalty, 64 px."""
    return work(
        optimizer,
        critic,
        lambda n: (torch.randn(n, 3, 64, 64), torch.randn(n, 3, 64, 64), torch.rand(n, 1, 1, 1)),
        penalised,
        n=8,
    )


@register
def vae_b32(optimizer: OptimizerFactory) -> Workload:
    """A convolutional VAE at 64 px."""
    return work(optimizer, VAE, lambda n: torch.randn(n, 3, 64, 64), evidence, n=32)


@register
def vqvae_b16(optimizer: OptimizerFactory) -> Workload:
    """An autoencoder with a codebook at 64 px."""
    return work(optimizer, VQVAE, lambda n: torch.randn(n, 3, 64, 64), quantised, n=16)


@register
def diffusion_b8(optimizer: OptimizerFactory) -> Workload:
    """A diffusion U-Net with attention at 32 px."""
    return work(
        optimizer,
        DiffusionUNet,
        lambda n: (torch.randn(n, 3, 32, 32), torch.randn(n, 3, 32, 32), torch.randint(1000, (n,))),
        denoise,
        n=8,
    )


# ---- Workloads: vision without convolution -----------------------------------------------------------------


@register
def vit_b8(optimizer: OptimizerFactory) -> Workload:
    """ViT-S at 96 px."""
    return work(optimizer, lambda: nets.vit_small(100, image_size=96), images(96), classify, n=8)


@register
def swin_b8(optimizer: OptimizerFactory) -> Workload:
    """Shifted windows at 64 px."""
    return work(optimizer, swin, images(64), classify, n=8)


@register
def mlp_mixer_b16(optimizer: OptimizerFactory) -> Workload:
    """MLP-Mixer at 64 px."""
    return work(optimizer, mlp_mixer, images(64), classify, n=16)


# ---- Workloads: transformers over text ---------------------------------------------------------------------


@register
def gpt_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT over 128 tokens."""
    return work(optimizer, small_gpt, tokens(128, 4096), next_token, n=8)


@register
def gpt_dropout_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT with dropout in and after attention."""
    return work(optimizer, partial(small_gpt, 0.1), tokens(128, 4096), next_token, n=8)


@register
def gpt_written_attention_b8(optimizer: OptimizerFactory) -> Workload:
    """minGPT, whose attention is spelt out."""
    return work(optimizer, MinGPT, tokens(128, 2048), next_token, n=8)


@register
def gpt_checkpointed_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT that recomputes each block."""
    return work(optimizer, checkpointed_gpt, tokens(128, 4096), next_token, n=8)


@register
def gpt_bf16_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT under bfloat16 autocast."""
    return work(optimizer, small_gpt, tokens(128, 4096), in_bfloat16(next_token), n=8)


@register
def gpt_lora_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT, frozen, with LoRA."""
    return work(optimizer, lora_gpt, tokens(128, 4096), next_token, n=8)


@register
def gpt_accumulated_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT over two micro-batches for each update."""
    return work(optimizer, small_gpt, tokens(128, 4096), next_token, n=8, step=accumulate)


@register
def gpt_dense_experts_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT with every expert run on every token."""
    return work(optimizer, lambda: ExpertGPT(DenseExperts), tokens(64, 2048), next_token, n=8)


@register
def gpt_capacity_experts_b8(optimizer: OptimizerFactory) -> Workload:
    """GPT with experts of limited capacity."""
    return work(optimizer, lambda: ExpertGPT(CapacityExperts), tokens(64, 2048), next_token, n=8)


@register
def llama_b8(optimizer: OptimizerFactory) -> Workload:
    """Llama over 128 tokens."""
    return work(optimizer, small_llama, tokens(128, 4096), next_token, n=8)


@register
def llama_bfloat16_b8(optimizer: OptimizerFactory) -> Workload:
    """Llama with parameters, and so gradients and optimizer state, in bfloat16."""
    return work(optimizer, lambda: small_llama().to(torch.bfloat16), tokens(128, 4096), next_token, n=8)


@register
def llama_clipped_b4(optimizer: OptimizerFactory) -> Workload:
    """Llama with the gradient norm clipped."""
    return work(optimizer, small_llama, tokens(128, 4096), next_token, n=4, step=clip)


@register
def bert_mlm_b8(optimizer: OptimizerFactory) -> Workload:
    """BERT with a loss over 20 masked positions of 128."""

    def batch(n: int) -> tuple[Tensor, ...]:
        return (
            torch.randint(8000, (n, 128)),
            torch.randint(2, (n, 128)),
            torch.randint(128, (n, 20)),
            torch.randint(8000, (n, 20)),
        )

    return work(optimizer, Bert, batch, next_token, n=8)


@register
def padded_encoder_b16(optimizer: OptimizerFactory) -> Workload:
    """nn.TransformerEncoder over padded sentences."""
    return work(
        optimizer,
        PaddedEncoder,
        lambda n: (torch.randint(1, 8000, (n, 96)), torch.randint(8, 97, (n,)), torch.randint(10, (n,))),
        classify,
        n=16,
    )


@register
def translator_b8(optimizer: OptimizerFactory) -> Workload:
    """nn.Transformer from 64 tokens to 64."""
    return work(
        optimizer,
        Translator,
        lambda n: tuple(torch.randint(4000, (n, 64)) for _ in range(3)),
        next_token,
        n=8,
    )


# ---- Workloads: recurrence ---------------------------------------------------------------------------------


@register
def lstm_b32(optimizer: OptimizerFactory) -> Workload:
    """A two-layer LSTM language model over 64 tokens."""
    return work(optimizer, nets.lstm, tokens(64, 2000), next_token, n=32)


@register
def tied_lstm_b16(optimizer: OptimizerFactory) -> Workload:
    """LSTM whose embedding is its head, 10,000 words."""
    return work(optimizer, TiedLSTM, tokens(32, 10000), next_token, n=16)


@register
def bilstm_tagger_b32(optimizer: OptimizerFactory) -> Workload:
    """A bidirectional LSTM tagger over 64 tokens."""
    return work(
        optimizer,
        Tagger,
        lambda n: (torch.randint(10000, (n, 64)), torch.randint(20, (n, 64))),
        next_token,
        n=32,
    )


@register
def gru_forecaster_b64(optimizer: OptimizerFactory) -> Workload:
    """A GRU over 96 hours of 32 series."""
    return work(optimizer, Forecaster, floats((96, 32), (24,)), regress, n=64)


@register
def lstm_cell_loop_b32(optimizer: OptimizerFactory) -> Workload:
    """An LSTM cell looped over 64 tokens in Python."""
    return work(optimizer, CellLoop, tokens(64, 256), next_token, n=32)


@register
def seq2seq_attention_b16(optimizer: OptimizerFactory) -> Workload:
    """A recurrent translator with additive attention, 32 tokens."""
    return work(
        optimizer, Seq2Seq, lambda n: tuple(torch.randint(2000, (n, 32)) for _ in range(3)), next_token, n=16
    )


# ---- Workloads: graphs, points and fields ------------------------------------------------------------------


@register
def graph_conv_b16(optimizer: OptimizerFactory) -> Workload:
    """Graph convolution over 16 graphs of 256 nodes."""
    return work(optimizer, GraphConv, graph(), classify, n=16)


@register
def graph_attention_b16(optimizer: OptimizerFactory) -> Workload:
    """Graph attention over 16 graphs of 256 nodes."""
    return work(optimizer, GraphAttention, graph(), classify, n=16)


@register
def pointnet_b16(optimizer: OptimizerFactory) -> Workload:
    """PointNet over 1024 points."""
    return work(
        optimizer, pointnet, lambda n: (torch.randn(n, 3, 1024), torch.randint(40, (n,))), classify, n=16
    )


@register
def nerf_b256(optimizer: OptimizerFactory) -> Workload:
    """A radiance field, 64 points on each ray."""
    return work(optimizer, RadianceField, floats((64, 3), (3,)), regress, n=256)


@register
def neural_ode_b512(optimizer: OptimizerFactory) -> Workload:
    """Ten Runge-Kutta steps through one small net."""
    return work(optimizer, NeuralODE, floats((64,), (64,)), regress, n=512)


# ---- Workloads: tables, recommendation and similarity ------------------------------------------------------


@register
def wide_mlp_b1024(optimizer: OptimizerFactory) -> Workload:
    """A plain MLP of wide layers."""
    return work(
        optimizer,
        partial(mlp, 512, 2048, 2048, 2048, 100),
        lambda n: (torch.randn(n, 512), torch.randint(100, (n,))),
        classify,
        n=1024,
    )


@register
def custom_swish_mlp_b1024(optimizer: OptimizerFactory) -> Workload:
    """An MLP whose activation is an autograd.Function."""
    return work(
        optimizer,
        partial(mlp, 256, 1024, 1024, 1024, 10, act=Swish),
        lambda n: (torch.randn(n, 256), torch.randint(10, (n,))),
        classify,
        n=1024,
    )


@register
def recommender_b4096(optimizer: OptimizerFactory) -> Workload:
    """DLRM with large embeddings and dense gradients."""

    def batch(n: int) -> tuple[Tensor, ...]:
        return (
            torch.randint(100_000, (n,)),
            torch.randint(200_000, (n,)),
            torch.randint(50_000, (n, 20)),
            torch.randn(n, 13),
            torch.rand(n),
        )

    return work(optimizer, Recommender, batch, click, n=4096)


@register
def two_tower_b2048(optimizer: OptimizerFactory) -> Workload:
    """Two towers over text, with negatives from the batch."""
    return work(
        optimizer,
        TwoTower,
        lambda n: (torch.randint(20_000, (n, 12)), torch.randint(20_000, (n, 60))),
        in_batch,
        n=2048,
    )


@register
def clip_b16(optimizer: OptimizerFactory) -> Workload:
    """An image tower at 96 px and a text tower."""
    return work(
        optimizer, Clip, lambda n: (torch.randn(n, 3, 96, 96), torch.randint(4000, (n, 32))), in_batch, n=16
    )


@register
def triplet_b8(optimizer: OptimizerFactory) -> Workload:
    """ResNet-18 called three times at 96 px."""
    return work(
        optimizer,
        partial(nets.resnet18, 128),
        lambda n: tuple(torch.randn(n, 3, 96, 96) for _ in range(3)),
        triplet,
        n=8,
    )


@register
def deep_q_b64(optimizer: OptimizerFactory) -> Workload:
    """Q-learning over 84 px frames, with a target net."""

    def batch(n: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, 4, 84, 84), torch.randint(6, (n,)), torch.randn(n), torch.rand(n, 4, 84, 84))

    return work(optimizer, DeepQ, batch, bellman, n=64)
