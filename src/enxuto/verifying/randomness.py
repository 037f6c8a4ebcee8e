"""Dropout switched off, in modules and in functions, so that runs in one piece and in several can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_MODULES = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
#: Their second argument is `p`.
_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.dropout_,
        torch.alpha_dropout,
        torch.alpha_dropout_,
        torch.feature_dropout,
        torch.feature_dropout_,
        torch.feature_alpha_dropout,
        torch.feature_alpha_dropout_,
        torch.native_dropout,
    }
)
_ATTENTION_DROPOUT = 4  # query, key, value, attn_mask, dropout_p


class _NoDropout(TorchFunctionMode):
    """Every dropout function drops with probability 0, attention's own included."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in _FUNCTIONS:
            args, named = _without(args, named, 1, "p")
        elif func is F.scaled_dot_product_attention:
            args, named = _without(args, named, _ATTENTION_DROPOUT, "dropout_p")
        return func(*args, **named)


def _without(
    args: tuple[Any, ...], named: dict[str, Any], place: int, name: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) > place:
        return (*args[:place], 0.0, *args[place + 1 :]), named
    return args, {**named, name: 0.0}


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Nothing is dropped while the context lasts.

    Random numbers that are drawn in other ways (stochastic depth, noise) stay; whoever compares has to notice.
    """
    changed: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        name = "p" if isinstance(module, _MODULES) else "dropout"
        if isinstance(module, (*_MODULES, nn.MultiheadAttention, nn.RNNBase)):
            changed.append((module, name, getattr(module, name)))
    try:
        for module, name, _ in changed:
            setattr(module, name, 0.0)
        with _NoDropout():
            yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
