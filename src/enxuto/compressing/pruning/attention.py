"""The attention of a model whose heads can be removed one by one.

Which linear layers make queries, keys and values is read from shapes and names; that the reading is right is
proved by `soundness`, on the module's own forward. The forward must take the width of a head from its weights
(`view(batch, tokens, 3, heads, -1)`), not from the width of the tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from ...records import Refusal

_COUNTS = ("heads", "num_heads", "n_heads", "n_head", "num_attention_heads")
_ROLES = tuple(re.compile(rf"(^|_|w|to_){role}(_|$|uery|ey|alue|_?proj)") for role in "qkv")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one tensor for each head, as in `groups.Slice`."""

    tensor: Tensor
    dim: int
    rows: tuple[tuple[int, ...], ...]
    reads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention module: where its heads are, and the paths of the layers that produce them."""

    path: str
    count: str
    producers: tuple[str, ...]
    parts: tuple[Part, ...]


def attentions(model: nn.Module) -> tuple[list[Attention], list[Refusal]]:
    """Every attention with a layout that is known, and the reason for each other."""
    found: list[Attention] = []
    refused: list[Refusal] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            refused.append(
                Refusal(lever=path, reason="nn.MultiheadAttention checks its own width: heads stay")
            )
            continue
        count = next((name for name in _COUNTS if isinstance(getattr(module, name, None), int)), "")
        layers = {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}
        if count and layers and getattr(module, count) > 1:
            attention = _read(path, getattr(module, count), count, layers)
            if attention is None:
                reason = "its queries, keys and values are laid out in a way that is not known: heads stay"
                refused.append(Refusal(lever=path, reason=reason))
            else:
                found.append(attention)
    return found, refused


def _read(path: str, heads: int, count: str, layers: dict[str, nn.Linear]) -> Attention | None:
    """The attention of these layers: one that makes queries, keys and values, or three; and one that reads."""
    producers = _producers(layers)
    readers = [name for name in layers if name not in producers]
    if not producers or len(readers) != 1:
        return None
    width = layers[readers[0]].in_features
    made = [layers[name] for name in producers]
    if width % heads or sum(layer.out_features for layer in made) != 3 * width:
        return None
    if any(layer.out_features != made[0].out_features for layer in made):
        return None  # grouped queries: fewer keys than queries
    blocks = 3 // len(made)  # of the width, in each producing layer
    rows = _head_rows(heads, width // heads, blocks)
    parts = [Part(layer.weight, 0, rows, False) for layer in made]
    parts += [Part(layer.bias, 0, rows, False) for layer in made if layer.bias is not None]
    parts.append(Part(layers[readers[0]].weight, 1, _head_rows(heads, width // heads, 1), True))
    prefix = f"{path}." if path else ""
    return Attention(
        path=path,
        count=count,
        producers=tuple(f"{prefix}{name}" for name in producers),
        parts=tuple(parts),
    )


def _producers(layers: dict[str, nn.Linear]) -> list[str]:
    """The one fused layer, three times as wide as what it reads makes, or the three named after q, k and v."""
    if len(layers) == 2:
        (first, one), (second, two) = layers.items()
        return [first] if one.out_features == 3 * two.in_features else [second]
    named = [[name for name in layers if role.search(name)] for role in _ROLES]
    return [names[0] for names in named] if all(len(names) == 1 for names in named) else []


def _head_rows(heads: int, head_width: int, blocks: int) -> tuple[tuple[int, ...], ...]:
    """For each head its indices in `blocks` blocks of [heads, head width], one after the other."""
    block = heads * head_width
    return tuple(
        tuple(
            part * block + head * head_width + place for part in range(blocks) for place in range(head_width)
        )
        for head in range(heads)
    )
