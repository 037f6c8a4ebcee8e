"""Candidates judged on the samples that choose: as their runtime executes them, beside the original's outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..records import Flags
from ..records.certificate import judge
from ..samples import Samples
from ..verifying import Fidelity, Runnable, fidelity
from ..verifying.quality import Measure, Metric, evidence_of, runnable
from .runtimes import runtime

_ERROR = 0.05
_BATCH = 128


def as_executed(path: Path, flags: Flags | None = None) -> Runnable:
    """An ONNX file as onnxruntime executes it."""
    ort = runtime()
    run = ort.load(path, flags)
    return Runnable(
        run=lambda *inputs: run(*(tensor.numpy() for tensor in inputs))[0],
        runtime=" ".join(ort.versions()[0]),
        files=tuple(ort.files(path)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the choosing samples say of a candidate; `fidelity` is None where outputs are numbers, not classes."""

    metric: float
    drop: float
    upper: float
    fidelity: Fidelity | None


@dataclass(slots=True, eq=False)
class Judge:
    """The original's outputs on the choosing samples, and others judged beside them.

    Args:
        original: the network as it was.
        samples: labelled.
        tolerance: the drop that is allowed.
        metric: as for `certify`; None is top-1 accuracy.
        higher_is_better: of the metric.

    Raises:
        UsageError, UserCodeError: as `certify`.
    """

    original: nn.Module
    samples: Samples
    tolerance: float
    metric: Metric | None = None
    higher_is_better: bool = True
    _measure: Measure = field(init=False)
    _outputs: Tensor = field(init=False)
    _scores: np.ndarray[Any, np.dtype[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._measure = Measure.over(self.samples, self.metric, _BATCH, None)
        self._outputs, self._scores = self._measure.with_outputs("original", runnable(self.original))

    def see(self, candidate: nn.Module | Runnable) -> Seen:
        """A candidate by its outputs."""
        outputs, scores = self._measure.with_outputs("candidate", runnable(candidate))
        evidence = evidence_of(self._scores, scores, higher_is_better=self.higher_is_better)
        return Seen(
            metric=float(scores.mean()),
            drop=evidence.drop,
            upper=evidence.upper(_ERROR),
            fidelity=None if self.gives_numbers else fidelity(self._outputs, outputs),
        )

    @property
    def enough(self) -> bool:
        """Whether the samples could bound a drop of nothing within the tolerance."""
        same = evidence_of(self._scores, self._scores, higher_is_better=self.higher_is_better)
        return judge(same, tolerance=self.tolerance, error=_ERROR).needed_n is None

    @property
    def gives_numbers(self) -> bool:
        """Whether targets, and so outputs, are numbers and not classes."""
        assert self.samples.targets is not None  # checked at the start
        return self.samples.targets.is_floating_point()

    @property
    def metric_name(self) -> str:
        """What the metric is called."""
        return self._measure.name
