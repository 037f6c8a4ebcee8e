"""Batch norm frozen: running statistics are used and stay as they are, so that samples do not see each other.

It changes what is computed (and what batch norm learns), so it needs consent; it is what fine-tuning recipes do when
a batch has to run in pieces. A module's own `training` flag is left to the user: it is off only inside the forward.

Source: `torch.nn.BatchNorm2d` in eval mode; "FrozenBatchNorm2d" of torchvision's detection models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .. import _torch_private as private
from .forwards import replaced
from .regions import Refused


def check(model: nn.Module) -> None:
    """Refuse a model without batch norm, or one whose batch norms keep no running statistics.

    Raises:
        Refused: with the reason.
    """
    norms = [(path, m) for path, m in model.named_modules() if isinstance(m, private.BatchNorms)]
    if not any(norm.training for _, norm in norms):
        raise Refused("no batch norm trains in this model")
    for path, norm in norms:
        if norm.running_mean is None:
            raise Refused(f"batch norm {path} keeps no running statistics")


@contextlib.contextmanager
def apply(model: nn.Module) -> Iterator[None]:
    """Freeze the model's batch norms while the context lasts."""
    norms = [module for module in model.modules() if isinstance(module, private.BatchNorms)]
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(replaced(norm, _in_eval(norm)))
        yield


def _in_eval(norm: nn.Module) -> Callable[..., Any]:
    inner = norm.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        training, norm.training = norm.training, False
        try:
            return inner(*args, **kwargs)
        finally:
            norm.training = training

    return forward
