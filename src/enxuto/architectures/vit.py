"""Vision transformer, small size, with the parameter names of timm's `vit_small_patch16_224`.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020), https://arxiv.org/abs/2010.11929; the
small size is from Touvron et al., "Training data-efficient image transformers" (2020),
https://arxiv.org/abs/2012.12877
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


class PatchEmbedding(nn.Module):
    """Cut an image into square patches and project each to a token.

    Args:
        width: channels of a token.
        patch: side of a patch, in pixels.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map [batch, 3, height, width] to [batch, patches, width]."""
        grid: Tensor = self.proj(images)
        return grid.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention without a mask.

    Args:
        width: channels of a token.
        heads: number of attention heads.
        dropout: probability of dropping an output in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, tokens, width] to the same shape."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out = self.proj(mixed.transpose(1, 2).flatten(2))
        return nn.functional.dropout(out, self.dropout, self.training)


class MLP(nn.Module):
    """Two linear layers around a GELU.

    Args:
        width: channels of a token; four times as many are hidden.
        dropout: probability of dropping a hidden value or an output in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, tokens, width] to the same shape."""
        hidden = nn.functional.dropout(self.act(self.fc1(x)), self.dropout, self.training)
        return nn.functional.dropout(self.fc2(hidden), self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm attention and MLP, each around a shortcut.

    Args:
        width: channels of a token.
        heads: number of attention heads.
        dropout: dropout probability in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _layer_norm(width)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = _layer_norm(width)
        self.mlp = MLP(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, tokens, width] to the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patch tokens and a class token through a stack of blocks to a linear classifier.

    Args:
        num_classes: number of output classes.
        image_size: side of the square input, in pixels.
        patch: side of a patch, in pixels; divides image_size.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; divides width.
        dropout: dropout probability in training.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"patch {patch} does not divide image_size {image_size}")
        tokens = (image_size // patch) ** 2 + 1
        self.dropout = dropout
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = _layer_norm(width)
        self.head = nn.Linear(width, num_classes)
        self.apply(_init_weights)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, image_size, image_size], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        patches = self.patch_embed(images)
        first = self.cls_token.expand(patches.size(0), -1, -1)
        x = torch.cat([first, patches], dim=1) + self.pos_embed
        x = nn.functional.dropout(x, self.dropout, self.training)
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # trunc_normal_ would cut at 100 deviations, to no effect, and its rejection loop reads
        # values, which fake tensors do not have.
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def vit_small(
    num_classes: int = 1000, image_size: int = 224, patch: int = 16, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-S: width 384, depth 12, 6 heads; 22,050,664 parameters at the defaults.

    Args:
        num_classes: number of output classes.
        image_size: side of the square input, in pixels.
        patch: side of a patch, in pixels; divides image_size.
        dropout: dropout probability in training, after the positions and every dense layer but
            those of queries, keys and values, as in appendix B.1 of the paper.

    Returns:
        A net from float [batch, 3, image_size, image_size] to logits [batch, num_classes].

    Source:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929, in the small
        size of Touvron et al., 2020, arXiv:2012.12877.
    """
    return VisionTransformer(num_classes, image_size, patch, width=384, depth=12, heads=6, dropout=dropout)
