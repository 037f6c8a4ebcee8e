"""Quality: what a candidate loses against the original, sample by sample, and how sure that is."""

from __future__ import annotations

import contextlib
import hashlib
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import __version__
from ..errors import EnxutoError, UsageError, UserCodeError
from ..records import Certificate, ClassDrop, Counts, Judged, Scores
from ..records.bounds import error_of_look, needed_samples
from ..records.certificate import judge
from ..samples import Samples
from .looks import Ledger

Metric = Callable[[Tensor, Tensor], Tensor]
Values = NDArray[np.float64]
Say = Callable[[str], None]

_BATCH = 64  # samples run at once
_PIECE = 2**20  # bytes of a file in memory at once: an artefact may be larger than we are


__all__ = ["Fidelity", "Metric", "Runnable", "answered", "certify", "fidelity", "needed_samples", "top1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """A model as its runtime executes it.

    Args:
        run: takes the input tensors of a batch, in the model's order; gives a tensor or array with one row for
            each sample.
        runtime: what executes it, with its version: "onnxruntime 1.32.0".
        files: of the artefact, the one that is opened first.
    """

    run: Callable[..., Any]
    runtime: str
    files: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the files' bytes, one after the other; empty where there is no file.

        Raises:
            UsageError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for path in self.files:
            with _readable(path), path.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
        return digest.hexdigest() if self.files else ""

    @property
    def nbytes(self) -> int:
        """Of the files together; raises as `sha256` does."""
        return sum(map(_size, self.files))


def certify(
    original: nn.Module | Callable[..., Any] | Runnable,
    candidate: nn.Module | Callable[..., Any] | Runnable,
    data: Any,
    *,
    tolerance: float = 0.01,
    metric: Metric | None = None,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    looks: int | Ledger = 1,
    batch: int = _BATCH,
    progress: Say | None = None,
) -> Certificate:
    """Whether a candidate is no worse than the original by more than a tolerance: paired non-inferiority.

    Both run over the same samples, in their order. ACCEPTED: the one-sided upper bound of the drop is at most the
    tolerance, so if the true drop is the tolerance or more, this happens with probability 1 - confidence at most,
    in all looks together (`records.bounds`; measured in `benchmarks/guard.py`). REJECTED: the lower bound is above
    the tolerance. Everything between is UNDECIDABLE, with the samples that it needs.

    Args:
        original, candidate: modules (run in eval mode, without gradients), functions from input tensors to outputs,
            or `Runnable`s, whose files the certificate then names.
        data: what `Samples.of` takes, with targets. No sample of it may have trained, calibrated or chosen the
            candidate.
        tolerance: the drop that is tolerated: 0.01 is one point of accuracy; in the metric's units otherwise.
        metric: `metric(outputs, targets)` gives one score for each sample, shape `[batch]`. Scores that are all 0
            or 1 are judged by counts, others by the mean of their differences. None is top-1 accuracy.
        higher_is_better: of the metric; False for losses.
        confidence: of all looks at these samples together.
        looks: how many candidates these samples certify, fixed ahead, this one included; or a `Ledger`, which counts.
        batch: samples run at once.
        progress: takes lines that say what goes on.

    Assumed, not checked: the samples are independent draws of what the model will meet. For scores that are no
    counts also that no harm is so rare that the samples do not show it.

    Raises:
        UsageError: a setting is out of range, there are no targets, or the metric does not fit the outputs.
        UserCodeError: a model or the metric raised, or gave NaN.
        UndecidableError: the ledger has no look left.
        MissingDependency: scores that are no counts need scipy.

    >>> data = (torch.eye(4), torch.arange(4))
    >>> certificate = certify(nn.Identity(), nn.Identity(), data)
    >>> certificate.decision.value, certificate.judgement.needed_n
    ('undecidable', 446)
    """
    _check_settings(tolerance, confidence, looks)
    measure = Measure.over(data, metric, batch, progress)
    before, after = runnable(original), runnable(candidate)
    was, now = measure("original", before), measure("candidate", after)
    evidence = evidence_of(was, now, higher_is_better=higher_is_better)
    counted = isinstance(evidence, Counts)
    if counted and tolerance >= 1:
        raise UsageError(
            f"of samples right or wrong a share may be lost, 0.01 for one point, not {tolerance:g}"
        )
    sides = judged(before, was), judged(after, now)
    fingerprint = measure.samples.fingerprint
    look, planned = _take_look(looks, fingerprint, sides, confidence)
    error = error_of_look(1 - confidence, look, planned)
    return Certificate(
        metric=measure.name,
        higher_is_better=higher_is_better,
        tolerance=tolerance,
        confidence=confidence,
        look=look,
        planned=planned,
        evidence=evidence,
        judgement=judge(evidence, tolerance=tolerance, error=error),
        original=sides[0],
        candidate=sides[1],
        data=fingerprint,
        versions=_versions(),
        worst_class=_worst_class(measure.samples, _harm(was, now, higher_is_better)) if counted else None,
    )


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Top-1 accuracy: whether the largest of the outputs `[n, classes, ...]` is the target's, `[n, ...]`.

    Where a sample has several targets (pixels, tokens), its score is the share that is right.

    Raises:
        UsageError: the outputs are no scores of classes, or a target is none of these.
    """
    classes = outputs.shape[1] if outputs.dim() > 1 else 1
    if classes < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        raise UsageError(
            f"top-1 accuracy takes outputs [n, classes, ...] for targets [n, ...], not {list(outputs.shape)} for "
            f"{list(targets.shape)}; pass metric= for another score"
        )
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise UsageError(
            f"targets run from {int(targets.min())} to {int(targets.max())}, and the outputs have {classes} classes"
        )
    right = outputs.argmax(1) == targets
    return right if right.dim() == 1 else right.flatten(1).double().mean(1)


def answered(
    model: nn.Module | Callable[..., Any] | Runnable, inputs: Any, *, batch: int = _BATCH
) -> Samples:
    """Samples whose targets are what a model says of them: top-1 is then the agreement with that model.

    For data without labels: `certify` and `compress` on these samples bound how often the candidate differs from the
    original, which is more than it may lose.

    Args:
        model: as for `certify`; runs in eval mode, without gradients.
        inputs: as `Samples.of` takes them; targets are not read.
        batch: samples run at once.

    Raises:
        UsageError: the outputs are no scores of classes.
        UserCodeError: the model raised, or gave NaN.

    >>> answered(nn.Identity(), torch.eye(3)).targets
    tensor([0, 1, 2])
    """
    samples, run = Samples.of(inputs), runnable(model)
    said = []
    for part in samples.batches(batch):
        with _users("the model"):
            given = run.run(*part.inputs)
        outputs = _rows(given, len(part), "the model")
        if outputs.dim() < 2 or outputs.shape[1] < 2:
            raise UsageError(f"the model's outputs are no scores of classes: {list(outputs.shape)}")
        said.append(outputs.argmax(1))
    return Samples(samples.inputs, torch.cat(said))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near a candidate's outputs are to the original's; no labels are needed, and none are certified.

    Attributes:
        n: samples.
        agreement: share of samples (pixels, tokens) with the same largest output.
        kl: mean Kullback-Leibler divergence of the candidate's softmax from the original's, in nats.
        sqnr_db: signal-to-quantization-noise ratio in decibel; None where the outputs are equal.
    """

    n: int
    agreement: float
    kl: float
    sqnr_db: float | None


def fidelity(original: Any, candidate: Any) -> Fidelity:
    """How near a candidate's outputs are to the original's.

    Args:
        original, candidate: outputs `[n, classes, ...]` of the same samples, tensors or arrays, before the softmax.

    Raises:
        UsageError: the shapes differ or have no classes, or a value is NaN or infinite.

    >>> fidelity(torch.eye(3), torch.eye(3))
    Fidelity(n=3, agreement=1.0, kl=0.0, sqnr_db=None)
    """
    was, now = (torch.as_tensor(outputs).detach().cpu().double() for outputs in (original, candidate))
    if was.shape != now.shape or was.dim() < 2 or was.shape[1] < 2 or not len(was):
        raise UsageError(
            "fidelity compares two outputs [n, classes, ...] of the same shape, not "
            f"{list(was.shape)} and {list(now.shape)}"
        )
    if not (was.isfinite().all() and now.isfinite().all()):
        raise UsageError("fidelity compares finite outputs, and some here are NaN or infinite")
    log_was, log_now = was.log_softmax(1), now.log_softmax(1)
    return Fidelity(
        n=len(was),
        agreement=float((was.argmax(1) == now.argmax(1)).double().mean()),
        kl=float((log_was.exp() * (log_was - log_now)).sum(1).mean()),
        sqnr_db=_decibel(float(was.square().sum()), float((was - now).square().sum())),
    )


def _decibel(signal: float, noise: float) -> float | None:
    if not noise:
        return None
    return 10 * math.log10(signal / noise) if signal else -math.inf


# ---- Running both ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """Gives a model's scores: one for each sample, in order."""

    samples: Samples
    metric: Metric
    batch: int
    progress: Say | None

    @classmethod
    def over(cls, data: Any, metric: Metric | None, batch: int, progress: Say | None) -> Measure:
        """What measures by `metric` on `data`, if that can be: see `certify` for both and for what is raised."""
        if batch < 1:
            raise UsageError(f"a batch has at least one sample, not {batch}")
        samples = Samples.of(data)
        if samples.targets is None:
            raise UsageError(
                "a certificate needs labelled samples, (inputs, targets); fidelity() compares without labels"
            )
        if len(samples) < 2:
            raise UsageError("one sample certifies nothing")
        if metric is None and samples.targets.is_floating_point():
            raise UsageError(
                "the targets are no classes but numbers; pass metric=, a function of (outputs, targets) that gives "
                "one score for each sample"
            )
        return cls(samples, metric or top1, batch, progress)

    @property
    def name(self) -> str:
        """What the metric is called."""
        return str(getattr(self.metric, "__name__", type(self.metric).__name__))

    def __call__(self, who: str, model: Runnable) -> Values:
        return np.concatenate([scores for _, scores in self._batches(who, model)])

    def with_outputs(self, who: str, model: Runnable) -> tuple[Tensor, Values]:
        """The outputs too, which are then kept for all samples at once."""
        outputs, scores = zip(*self._batches(who, model), strict=True)
        return torch.cat(outputs), np.concatenate(scores)

    def _batches(self, who: str, model: Runnable) -> Iterator[tuple[Tensor, Values]]:
        done = 0
        for part in self.samples.batches(self.batch):
            if self.progress:
                self.progress(f"running the {who}: sample {done:,} of {len(self.samples):,}")
            where = f"on samples {done} to {done + len(part) - 1}"
            with _users(f"the {who} {where}"):
                given = model.run(*part.inputs)
            outputs = _rows(given, len(part), f"the {who}")
            assert part.targets is not None
            with _users(f"the metric {where} of the {who}"):
                scored = self.metric(outputs, part.targets)
            yield outputs, _rows(scored, len(part), "the metric", flat=True).double().numpy()
            done += len(part)


@contextlib.contextmanager
def _users(what: str) -> Iterator[None]:
    """Around the user's models and metrics: what they raise is theirs, but for our own errors."""
    try:
        yield
    except EnxutoError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise UserCodeError(f"{what} raised {type(error).__name__}: {lines[0][:160]}") from error


def _rows(given: Any, n: int, who: str, *, flat: bool = False) -> Tensor:
    """What a model, or (`flat`) a metric gave: on the CPU, n rows of no NaN, or n finite scores."""
    alone = given[0] if isinstance(given, tuple | list) and len(given) == 1 else given  # as runtimes give it
    if not isinstance(alone, Tensor | np.ndarray):
        raise UsageError(
            f"{who} has to give a tensor or an array, not {type(given).__name__}; wrap it in a function"
        )
    rows = torch.as_tensor(alone).detach().cpu()
    if rows.dim() < 1 or len(rows) != n or (flat and rows.dim() != 1):
        shape = f"[{n}]" if flat else f"[{n}, ...]"
        raise UsageError(f"{who} gave the shape {list(rows.shape)} for {n} samples, and {shape} is needed")
    bad = rows.reshape(n, -1).isfinite().logical_not() if flat else rows.reshape(n, -1).isnan()
    if count := int(bad.any(1).sum()):
        what = "NaN or infinity" if flat else "NaN"
        raise UserCodeError(
            f"{who} gave {what} for {count} of {n} samples of a batch; nothing follows from that"
        )
    return rows


def runnable(model: nn.Module | Callable[..., Any] | Runnable) -> Runnable:
    """What `certify` takes, as a Runnable.

    Raises:
        UsageError: it cannot be run.
    """
    if isinstance(model, Runnable):
        return model
    if isinstance(model, nn.Module):
        return Runnable(run=_InEval(model), runtime=f"torch {torch.__version__}")
    if callable(model):
        return Runnable(run=model, runtime="a Python function")
    raise UsageError(f"a model to judge is a module, a function or a Runnable, not a {type(model).__name__}")


@dataclass(frozen=True, slots=True)
class _InEval:
    """A module run in eval mode on its own device; every submodule's mode is as before afterwards."""

    module: nn.Module

    def __call__(self, *inputs: Tensor) -> Any:
        modes = [(part, part.training) for part in self.module.modules()]
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        try:
            self.module.eval()
            with torch.no_grad():
                return self.module(*(tensor.to(device) for tensor in inputs))
        finally:
            for part, mode in modes:
                part.training = mode


# ---- What was seen -----------------------------------------------------------------------------------------


def evidence_of(was: Values, now: Values, *, higher_is_better: bool) -> Counts | Scores:
    """What two models' scores of the same samples say of the drop."""
    harm = _harm(was, now, higher_is_better)
    if np.isin(was, (0, 1)).all() and np.isin(now, (0, 1)).all():
        return _counts(harm)
    return _moments(harm)


def _harm(was: Values, now: Values, higher_is_better: bool) -> Values:
    return was - now if higher_is_better else now - was


def _counts(harm: Values) -> Counts:
    return Counts(n=len(harm), hurt=int((harm > 0).sum()), helped=int((harm < 0).sum()))


def _moments(harm: Values) -> Scores:
    mean = float(harm.mean())
    variance, third = (float(((harm - mean) ** power).mean()) for power in (2, 3))
    return Scores(
        n=len(harm),
        mean=mean,
        deviation=float(harm.std(ddof=1)),
        skewness=third / variance**1.5 if variance > 0 else 0.0,
    )


def _worst_class(samples: Samples, harm: Values) -> ClassDrop | None:
    """The class with the largest drop, of equals the one with the most samples; None where samples have none."""
    targets = samples.targets
    if targets is None or targets.dim() != 1 or targets.is_floating_point():
        return None
    labels = targets.cpu().numpy()
    return max(
        (_class_drop(int(label), _counts(harm[labels == label])) for label in np.unique(labels)),
        key=lambda each: (each.drop, each.n),
    )


def _class_drop(label: int, seen: Counts) -> ClassDrop:
    return ClassDrop(label=label, n=seen.n, hurt=seen.hurt, helped=seen.helped)


def judged(model: Runnable, scores: Values) -> Judged:
    """A model with its scores, as a certificate names it; raises as `Runnable.sha256` does."""
    return Judged(
        metric=float(scores.mean()),
        scores=hashlib.sha256(scores.tobytes()).hexdigest(),
        runtime=model.runtime,
        files=tuple(path.name for path in model.files),
        sha256=model.sha256,
        nbytes=model.nbytes,
    )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _size(path: Path) -> int:
    with _readable(path):
        return path.stat().st_size


def _take_look(
    looks: int | Ledger, data: str, sides: tuple[Judged, Judged], confidence: float
) -> tuple[int, int]:
    """The number of this look, 0 where nobody counts, and how many were planned."""
    if isinstance(looks, int):
        return (1 if looks == 1 else 0), looks
    seen = hashlib.sha256("".join(side.scores for side in sides).encode()).hexdigest()
    counted = looks.look(data, seen, confidence)
    return counted.seen.index(seen) + 1, counted.planned


def _versions() -> tuple[str, ...]:
    return (
        f"enxuto {__version__}",
        f"torch {torch.__version__}",
        f"numpy {np.__version__}",
        f"Python {platform.python_version()}",
    )


def _check_settings(tolerance: float, confidence: float, looks: int | Ledger) -> None:
    if not 0 < tolerance < math.inf:
        raise UsageError(f"the tolerated drop is a positive number, 0.01 for one point, not {tolerance:g}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"the confidence is from 0.5 to below 1, such as 0.95, not {confidence:g}")
    if isinstance(looks, int) and looks < 1:
        raise UsageError(f"looks= is how many candidates these samples certify, at least 1, not {looks}")
