"""GPT: a pre-norm decoder with learned positions and a tied head, in GPT-2's parameter names.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019). OpenAI's weights keep
the four linear layers of a block transposed: transpose `c_attn`, `c_proj` and `c_fc` to load them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KVCache = list[tuple[Tensor, Tensor]]
"""Keys and values seen so far, a pair of [batch, heads, time, width / heads] for each layer."""


def _extend(cache: KVCache, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Append keys and values to a layer's entry, opening it if need be, and return the whole."""
    if layer == len(cache):
        cache.append((k, v))
    else:
        past_k, past_v = cache[layer]
        cache[layer] = (torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2))
    return cache[layer]


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention of the last positions, q, over all positions, k and v."""
    new, total = q.size(2), k.size(2)
    if new in (1, total):
        causal = new > 1
        return nn.functional.scaled_dot_product_attention(q, k, v, None, dropout, causal)
    # is_causal lines the mask up with the first key; after a cached past it must end at the last.
    mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)


class CausalAttention(nn.Module):
    """Multi-head attention to the present and the past.

    Args:
        layer: index of this layer's entry in a cache.
        width: channels of a token.
        heads: number of attention heads; divides width.
        dropout: probability of dropping an attention weight or an output in training.
    """

    def __init__(self, layer: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.heads = heads
        self.dropout = dropout
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Map [batch, time, width] to the same shape, adding to the cache if there is one."""
        batch, time, _ = x.shape
        qkv = self.c_attn(x).view(batch, time, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            k, v = _extend(cache, self.layer, k, v)
        mixed = _attend(q, k, v, self.dropout if self.training else 0.0)
        out: Tensor = self.resid_dropout(self.c_proj(mixed.transpose(1, 2).flatten(2)))
        return out


class MLP(nn.Module):
    """Two linear layers around a GELU.

    Args:
        width: channels of a token; four times as many are hidden.
        dropout: probability of dropping an output in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        # GPT-2 was trained with the tanh approximation.
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        out: Tensor = self.dropout(self.c_proj(self.gelu(self.c_fc(x))))
        return out


class Block(nn.Module):
    """Pre-norm attention and MLP, each around a shortcut.

    Args:
        layer: index of this block.
        width: channels of a token.
        heads: number of attention heads; divides width.
        dropout: dropout probability in training.
    """

    def __init__(self, layer: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(layer, width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Map [batch, time, width] to the same shape, adding to the cache if there is one."""
        x = x + self.attn(self.ln_1(x), cache)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """Decoder-only transformer language model.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; divides width.
        context: longest sequence, in tokens.
        dropout: dropout probability in training.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        context: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        self.context = context
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(layer, width, heads, dropout) for layer in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.apply(_init_weights)
        self._shrink_residuals(depth)

    def _shrink_residuals(self, depth: int) -> None:
        """Start what each block adds small, so that the sum over depth keeps its variance."""
        for name, weight in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(weight, std=0.02 * (2 * depth) ** -0.5)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Predict the token after each position.

        Args:
            tokens: int64 [batch, time]; with a cache, only the tokens not yet in it.
            cache: keys and values of the tokens before, grown in place; start with an empty list.

        Returns:
            Logits, float [batch, time, vocab].
        """
        past = cache[0][0].size(2) if cache else 0
        end = past + tokens.size(1)
        # A fake tensor has no values to check, so the embedding alone would let this through.
        if end > self.context:
            raise ValueError(f"{end} tokens do not fit a context of {self.context}")
        x = self.wte(tokens) + self.wpe(torch.arange(past, end, device=tokens.device))
        x = self.drop(x)
        for block in self.h:
            x = block(x, cache)
        # Tied by use, not by a second name: the tie then outlives to_empty() and load_state_dict().
        return nn.functional.linear(self.ln_f(x), self.wte.weight)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


@torch.no_grad()
def generate(model: GPT, tokens: Tensor, new_tokens: int) -> Tensor:
    """Continue a prompt greedily: one pass over the prompt, then one cached token at a time.

    Args:
        model: the language model, in eval mode if it has dropout.
        tokens: the prompt, int64 [batch, time].
        new_tokens: number of tokens to add.

    Returns:
        Prompt and continuation, int64 [batch, time + new_tokens].

    Source:
        Caching as in Pope et al., "Efficiently Scaling Transformer Inference", 2022,
        arXiv:2211.05102.
    """
    cache: KVCache = []
    pieces = [tokens]
    for _ in range(new_tokens):
        logits: Tensor = model(pieces[-1], cache)
        pieces.append(logits[:, -1:].argmax(dim=-1))
    return torch.cat(pieces, dim=1)


def gpt(
    vocab: int = 8192,
    width: int = 384,
    depth: int = 6,
    heads: int = 6,
    context: int = 256,
    dropout: float = 0.0,
) -> GPT:
    """GPT of any size, 13,891,584 parameters at the defaults.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; divides width.
        context: longest sequence, in tokens.
        dropout: dropout probability in training.

    Returns:
        A net from int64 [batch, time] to logits [batch, time, vocab].

    Source:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    return GPT(vocab, width, depth, heads, context, dropout)


def gpt2_small() -> GPT:
    """GPT-2 in its smallest published size, 124,439,808 parameters.

    Returns:
        A net from int64 [batch, time], of at most 1024 tokens, to logits [batch, time, 50257].

    Source:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    return GPT(vocab=50257, width=768, depth=12, heads=12, context=1024, dropout=0.0)
