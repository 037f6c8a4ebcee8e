"""Small workloads over the reference nets, each a training step with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from enxuto.architectures import digits_cnn, generate, gpt, llama_tiny, lstm, resnet18, squeezenet1_1, unet
from enxuto.workload import Workload


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def _images(side: int, channels: int = 3) -> Callable[..., Tensor]:
    return lambda n=None: torch.zeros(n or 2, channels, side, side)


def _tokens(time: int) -> Callable[..., Tensor]:
    return lambda n=None: torch.zeros(n or 2, time, dtype=torch.int64)


def _square(model: nn.Module, batch: Tensor) -> Tensor:
    loss: Tensor = model(batch).square().mean()
    return loss


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross entropy of each position's own token: the shapes of a language model's loss."""
    return functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def _work(
    name: str, model: Callable[[], nn.Module], batch: Callable[..., Tensor], loss: Callable[..., Tensor]
) -> Workload:
    return Workload(model=model, batch=batch, loss=loss, optimizer=adamw, batch_size=2, name=name)


def tiny_gpt(width: int = 32, depth: int = 2) -> nn.Module:
    return gpt(vocab=61, width=width, depth=depth, heads=4, context=32)


WORKS = {
    work.name: work
    for work in (
        _work("digits_cnn", digits_cnn, _images(28, 1), _square),
        _work("resnet18", resnet18, _images(32), _square),
        _work("squeezenet1_1", squeezenet1_1, _images(64), _square),
        _work("unet", unet, _images(32), _square),
        _work("gpt", tiny_gpt, _tokens(16), next_token),
        _work("llama_tiny", llama_tiny, _tokens(16), next_token),
        _work("lstm", lstm, _tokens(8), next_token),
    )
}


def generation(*, batch: int = 2, width: int = 32, new_tokens: int = 8) -> Workload:
    """A two-layer GPT that continues a prompt of four tokens, with a cache."""
    return Workload(
        model=lambda: tiny_gpt(width).eval(),
        batch=lambda n=None: torch.zeros(n or batch, 4, dtype=torch.int64),
        loss=lambda model, tokens: generate(model, tokens, new_tokens),
        batch_size=batch,
        name="generation",
    )
