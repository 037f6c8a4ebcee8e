"""Small nets of every kind, with dropout where they have it, for the law of levers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enxuto import Timeline, Workload, trace
from enxuto.architectures import gpt, llama_tiny, lstm, mobilenet_v2, resnet18, resnet50, squeezenet1_1, unet
from enxuto.architectures.vit import VisionTransformer


def _images(size: int, n: int | None = None) -> tuple[Tensor, Tensor]:
    return torch.zeros(n or 4, 3, size, size), torch.zeros(n or 4, dtype=torch.int64)


def _tokens(vocab: int, n: int | None = None) -> Tensor:
    return torch.zeros(n or 4, 17, dtype=torch.int64)


def _classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _segment(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).square().mean()


def _next_token(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _work(
    name: str, model: Callable[[], nn.Module], batch: Callable[..., object], loss: Callable[..., Tensor]
) -> Workload:
    return Workload(
        model=model,
        batch=batch,
        loss=loss,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        batch_size=4,
        name=name,
    )


def _vit() -> nn.Module:
    return VisionTransformer(10, 32, 8, 32, 3, 4, 0.1)


NETS: dict[str, Workload] = {
    "gpt": _work("gpt", partial(gpt, 64, 32, 4, 4, 32, 0.1), partial(_tokens, 64), _next_token),
    "llama": _work("llama", llama_tiny, partial(_tokens, 64), _next_token),
    "lstm": _work("lstm", partial(lstm, 64, 16, 1), partial(_tokens, 64), _next_token),
    "vit": _work("vit", _vit, partial(_images, 32), _classify),
    "unet": _work("unet", partial(unet, 3, 2, 8, 0.1), partial(_images, 32), _segment),
    "squeezenet": _work("squeezenet", squeezenet1_1, partial(_images, 64), _classify),
    "resnet18": _work("resnet18", resnet18, partial(_images, 32), _classify),
    "mobilenet": _work("mobilenet", mobilenet_v2, partial(_images, 32), _classify),
    "resnet50": _work("resnet50", resnet50, partial(_images, 32), _classify),
}


@cache
def plain(name: str) -> Timeline:
    """The plain step of a net, traced once a process; scratch counts as 0."""
    return trace(NETS[name], calibrate=False, steps=2)
