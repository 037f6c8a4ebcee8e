"""Zeros in place: by magnitude, or n of every m; and the honest table of what they save, which is measured.

A zero is stored like any other number: the tensors keep their size in memory and in a plain file, and kernels
multiply by it. Only a compressed file becomes smaller. Whoever wants less memory removes structures instead (`prune`).

Example:
    >>> import torch
    >>> net = torch.nn.Linear(64, 64)
    >>> sparse = zeroed(net, Magnitude(ratio=0.9))
    >>> round(sparse.zeros_ratio, 2)
    0.9
"""

from __future__ import annotations

import copy
import gzip
import statistics
import time
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...errors import MissingDependency, UsageError
from .groups import WEIGHTED, as_arguments
from .structured import refuse_wrapped

_LEVEL = 6  # gzip's own default
_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude:
    """The share of all weights of linear layers and convolutions that becomes zero: the smallest ones, globally."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UsageError(f"a ratio is above 0 and below 1, not {self.ratio}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NOfM:
    """n of every m weights in a row (of one output) stay, the largest ones: 2 of 4 on sparse tensor cores.

    Weights beyond the last whole m stay. Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021,
    arXiv:2104.08378.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UsageError(f"n of every m needs 0 < n < m, not n={self.n}, m={self.m}")


Zeros: TypeAlias = Magnitude | NOfM


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Zeroed:
    """A copy with weights at zero, where they are (True stays), and the share of the weights that is zero."""

    model: nn.Module
    masks: dict[str, Tensor]
    zeros_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ZerosRow:
    """What was measured of one model.

    Attributes:
        name: the model's.
        zeros_ratio: the share of its parameters that is zero.
        memory: bytes of its parameters and buffers, as torch holds them.
        file: bytes of its safetensors file.
        gzip: bytes of that file after gzip.
        seconds: median seconds of one call, on `threads` threads.
        spread: half the distance of the quartiles of these calls, in seconds.
        threads: torch's threads while it ran.
    """

    name: str
    zeros_ratio: float
    memory: int
    file: int
    gzip: int
    seconds: float
    spread: float
    threads: int


def zeroed(model: nn.Module, settings: Zeros) -> Zeroed:
    """A copy of a model with weights of its linear layers and convolutions set to zero.

    Raises:
        UsageError: a TorchScript module or a wrapper, or no such layer.
    """
    refuse_wrapped(model)
    copied = copy.deepcopy(model)
    weights: dict[str, Tensor] = {
        f"{name}.weight".lstrip("."): layer.weight.detach()
        for name, layer in copied.named_modules()
        if isinstance(layer, WEIGHTED)
    }
    if not weights:
        raise UsageError(f"this {type(model).__name__} has no linear layer or convolution")
    if isinstance(settings, Magnitude):
        masks = _largest(weights, settings.ratio)
    else:
        masks = {name: _n_of_m(weight, settings) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.mul_(masks[name])
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    total = sum(weight.numel() for weight in weights.values())
    return Zeroed(model=copied, masks=masks, zeros_ratio=zeros / total)


def measure_zeros(name: str, model: nn.Module, example: Any, *, calls: int = 30) -> ZerosRow:
    """Measure one row of the honest table, on this machine, now.

    Args:
        name: what the row is called.
        model: runs in evaluation mode without gradients; its modes are restored.
        example: what it takes.
        calls: how often it is timed, after three calls that are not.

    Raises:
        MissingDependency: safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise MissingDependency("the file is a safetensors file: pip install 'enxuto[compress]'") from None
    state = {key: tensor.detach().contiguous().clone() for key, tensor in model.state_dict().items()}
    content = save(state)
    parameters = list(model.parameters())
    quartiles = statistics.quantiles(_seconds(model, example, calls), n=4)
    return ZerosRow(
        name=name,
        zeros_ratio=sum(int((p == 0).sum()) for p in parameters) / sum(p.numel() for p in parameters),
        memory=sum(t.numel() * t.element_size() for t in (*parameters, *model.buffers())),
        file=len(content),
        gzip=len(gzip.compress(content, _LEVEL, mtime=0)),
        seconds=quartiles[1],
        spread=(quartiles[2] - quartiles[0]) / 2,
        threads=torch.get_num_threads(),
    )


def _largest(weights: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """True for all but the smallest share of the weights of all tensors together."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    kept = torch.ones(len(sizes), dtype=torch.bool, device=sizes.device)
    kept[sizes.argsort(stable=True)[: round(ratio * len(sizes))]] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def _n_of_m(weight: Tensor, settings: NOfM) -> Tensor:
    """True for the n largest of every m in a row; a stable order, so that ties stay the same everywhere."""
    rows = weight.abs().flatten(1)
    whole = rows.size(1) // settings.m * settings.m
    kept = torch.ones_like(rows, dtype=torch.bool)
    blocks = rows[:, :whole].unflatten(1, (-1, settings.m))
    places = blocks.argsort(dim=2, descending=True, stable=True)[..., settings.n :]
    kept[:, :whole] = torch.ones_like(blocks, dtype=torch.bool).scatter(2, places, False).flatten(1)
    return kept.view(weight.shape)


def _seconds(model: nn.Module, example: Any, calls: int) -> list[float]:
    arguments, named = as_arguments(example)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.inference_mode():
            taken = []
            for _ in range(calls + _WARM_UP):
                begun = time.perf_counter()
                model(*arguments, **named)
                taken.append(time.perf_counter() - begun)
        return taken[_WARM_UP:]
    finally:
        for module, mode in modes.items():
            module.training = mode
