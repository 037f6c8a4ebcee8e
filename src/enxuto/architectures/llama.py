"""Llama: RMS norm, rotary positions, SwiGLU and grouped-query attention, in Meta's parameter names.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023),
https://arxiv.org/abs/2302.13971; grouped queries from Ainslie et al., "GQA" (2023),
https://arxiv.org/abs/2305.13245; rotary positions from Su et al., "RoFormer" (2021),
https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary angles, each float32 [time, head width / 2]."""


def _rotation(time: int, head_width: int, device: torch.device) -> Rotation:
    """Rotary angles in radians: position times a frequency that falls from 1 towards 1 / 10000."""
    # Made anew in each forward: as a buffer they would be lost by building on the meta device.
    exponents = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    positions = torch.arange(time, device=device, dtype=torch.float32)
    angles = torch.outer(positions, 10000.0**-exponents)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of neighbouring channels of [batch, heads, time, head width] by its angle."""
    cos, sin = rotation
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head.

    Args:
        width: channels of a token.
        heads: number of query heads; divides width.
        kv_heads: number of key and value heads; divides heads.
    """

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.grouped = kv_heads != heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.wv = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        """Map [batch, time, heads * head width] to [batch, heads, time, head width]."""
        batch, time, _ = x.shape
        return x.view(batch, time, -1, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        q = _rotate(self._split(self.wq(x)), rotation)
        k = _rotate(self._split(self.wk(x)), rotation)
        v = self._split(self.wv(x))
        mixed = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            enable_gqa=self.grouped,
        )
        out: Tensor = self.wo(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """SwiGLU: a SiLU gate times a linear layer, projected back.

    Args:
        width: channels of a token.
        hidden: channels of the gated layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        out: Tensor = self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each around a shortcut.

    Args:
        width: channels of a token.
        heads: number of query heads; divides width.
        kv_heads: number of key and value heads; divides heads.
        hidden: channels of the gated layer.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, kv_heads)
        self.feed_forward = FeedForward(width, hidden)
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        x = x + self.attention(self.attention_norm(x), rotation)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Llama(nn.Module):
    """Decoder-only transformer language model with an untied head.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token.
        depth: number of blocks.
        heads: query heads of a block; divides width into even parts.
        kv_heads: key and value heads of a block; divides heads.
        hidden: channels of the gated layer.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        kv_heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
        if width % (2 * heads) or heads % kv_heads:
            raise ValueError(f"no even split: width {width}, {heads} heads, {kv_heads} kv_heads")
        self.head_width = width // heads
        self.tok_embeddings = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Block(width, heads, kv_heads, hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.output = nn.Linear(width, vocab, bias=False)
        self.apply(_init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the token after each position.

        Args:
            tokens: int64 [batch, time].

        Returns:
            Logits, float [batch, time, vocab].
        """
        rotation = _rotation(tokens.size(1), self.head_width, tokens.device)
        x = self.tok_embeddings(tokens)
        for block in self.layers:
            x = block(x, rotation)
        logits: Tensor = self.output(self.norm(x))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def llama(
    vocab: int = 32000,
    width: int = 4096,
    depth: int = 32,
    heads: int = 32,
    kv_heads: int = 32,
    hidden: int = 11008,
) -> Llama:
    """Llama of any size, 6,738,415,616 parameters (27 GB in float32) at the defaults.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token.
        depth: number of blocks.
        heads: query heads of a block; divides width into even parts.
        kv_heads: key and value heads of a block; divides heads.
        hidden: channels of the gated layer.

    Returns:
        A net from int64 [batch, time] to logits [batch, time, vocab].

    Source:
        Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023,
        arXiv:2302.13971.
    """
    return Llama(vocab, width, depth, heads, kv_heads, hidden)


def llama_tiny() -> Llama:
    """Llama for tests, with two query heads to each key head; 119,104 parameters.

    Returns:
        A net from int64 [batch, time] to logits [batch, time, 256].

    Source:
        The shape of Touvron et al., 2023, arXiv:2302.13971; the size is ours.
    """
    return Llama(vocab=256, width=64, depth=2, heads=4, kv_heads=2, hidden=160)
