"""Fashion-MNIST from the Debian package `dataset-fashion-mnist`: 60,000 + 10,000 pictures of ten kinds of clothes.

    apt-get install dataset-fashion-mnist

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms"
(2017), https://arxiv.org/abs/1708.07747. The files are in the IDX format: a big-endian header of a magic number
(its low byte counts the dimensions) and one 32-bit size for each dimension, then unsigned bytes.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enxuto.errors import UsageError
from enxuto.samples import Samples

FOLDER = Path("/usr/share/datasets/fashion-mnist")
KINDS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

#: Mean and standard deviation of the 60,000 training pictures' pixels, on the scale of 0 to 1.
MEAN, SPREAD = 0.2860, 0.3530

#: Pictures of the 60,000 that no training sees; `split` draws them.
HELD_OUT = 5_000

_BYTES = 0x08  # the IDX code of unsigned bytes


def available() -> bool:
    """Whether the Debian package is installed."""
    return (FOLDER / "train-images-idx3-ubyte.gz").exists()


def train() -> Samples:
    """The 60,000: normalised float32 pictures of shape [60000, 1, 28, 28], and int64 kinds 0 to 9.

    Raises:
        UsageError: the package is not installed.
    """
    return _samples("train")


def test() -> Samples:
    """The 10,000 that only ever measure: [10000, 1, 28, 28], normalised by the training pictures' figures.

    Raises:
        UsageError: the package is not installed.
    """
    return _samples("t10k")


def split(samples: Samples, *, seed: int = 0) -> tuple[Samples, Samples]:
    """What a net learns from (55,000 of the 60,000) and the 5,000 held out, drawn under `seed`."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.take(order[HELD_OUT:]), samples.take(order[:HELD_OUT])


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes, gzipped, as a uint8 tensor.

    Raises:
        UsageError: the file is missing, or is something else.
    """
    if not path.exists():
        raise UsageError(f"{path} is missing: apt-get install dataset-fashion-mnist")
    content = gzip.decompress(path.read_bytes())
    if content[:3] != bytes((0, 0, _BYTES)):
        raise UsageError(f"{path} is no IDX file of unsigned bytes")
    dimensions = content[3]
    sizes = np.frombuffer(content, ">u4", dimensions, offset=4)
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(pixels.reshape(sizes).copy())


def _samples(part: str) -> Samples:
    pictures = read_idx(FOLDER / f"{part}-images-idx3-ubyte.gz").unsqueeze(1)
    kinds = read_idx(FOLDER / f"{part}-labels-idx1-ubyte.gz")
    return Samples((pictures.float().div_(255).sub_(MEAN).div_(SPREAD),), kinds.long())
