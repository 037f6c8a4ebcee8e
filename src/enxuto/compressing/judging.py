"""Candidates judged on the samples that choose: as their runtime executes them, beside the original's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..records.certificate import judge
from ..samples import Samples
from ..verifying import Fidelity, fidelity, top1
from ..verifying.quality import evidence_of

Metric = Callable[[Tensor, Tensor], Tensor]
_ERROR = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the choosing samples say of a candidate; `decided` is False where they are too few to say."""

    metric: float
    drop: float
    upper: float
    decided: bool
    fidelity: Fidelity


@dataclass(slots=True, eq=False)
class Judge:
    """The original's outputs on the choosing samples, and others judged beside them.

    Args:
        original: the network as it was.
        samples: labelled.
        metric: as for `certify`; None is top-1 accuracy.
        higher_is_better: of the metric.
        tolerance: the drop that is allowed.
    """

    original: nn.Module
    samples: Samples
    tolerance: float
    metric: Metric | None = None
    higher_is_better: bool = True
    batch: int = 128
    _outputs: Tensor = field(init=False)
    _scores: Any = field(init=False)

    def __post_init__(self) -> None:
        if self.samples.targets is None:
            raise UsageError(
                "compress needs labelled samples, (inputs, targets): a drop of quality can only be bounded with them"
            )
        self._outputs = self._run(_in_eval(self.original))
        self._scores = self._score(self._outputs)

    def see(self, run: Callable[..., Any]) -> Seen:
        """A candidate by its outputs; `run` takes arrays."""
        return self._seen(self._run(lambda *inputs: run(*(tensor.numpy() for tensor in inputs))))

    def see_module(self, model: nn.Module) -> Seen:
        """A network as torch runs it."""
        return self._seen(self._run(_in_eval(model)))

    def _seen(self, outputs: Tensor) -> Seen:
        scores = self._score(outputs)
        evidence = evidence_of(self._scores, scores, higher_is_better=self.higher_is_better)
        found = judge(evidence, tolerance=self.tolerance, error=_ERROR)
        return Seen(
            metric=float(scores.mean()),
            drop=found.drop,
            upper=found.upper,
            decided=found.needed_n is None,
            fidelity=fidelity(self._outputs, outputs),
        )

    @property
    def metric_name(self) -> str:
        """What the metric is called."""
        return str(getattr(self.metric or top1, "__name__", type(self.metric).__name__))

    @property
    def original_metric(self) -> float:
        """The original's on these samples."""
        return float(self._scores.mean())

    def _run(self, run: Callable[..., Any]) -> Tensor:
        rows = [run(*part.inputs) for part in self.samples.batches(self.batch)]
        return torch.cat([torch.as_tensor(r[0] if isinstance(r, tuple | list) else r) for r in rows])

    def _score(self, outputs: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        assert self.samples.targets is not None  # checked at the start
        scores: np.ndarray[Any, np.dtype[Any]] = (
            (self.metric or top1)(outputs, self.samples.targets).double().numpy()
        )
        return scores


def _in_eval(model: nn.Module) -> Callable[..., Any]:
    def run(*inputs: Tensor) -> Any:
        modes = [(part, part.training) for part in model.modules()]
        try:
            model.eval()
            with torch.no_grad():
                return model(*inputs)
        finally:
            for part, mode in modes:
                part.training = mode

    return run
