"""A certificate looked at again: its arithmetic, the samples, the files, and both models run once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import RecordError, UsageError
from ..records import Certificate, Counts, Judged, Outcome, Recheck, Rechecked, Scores
from .quality import Measure, Metric, Runnable, Say, evidence_of, judged, runnable

Model = nn.Module | Callable[..., Any] | Runnable


def recheck(
    certificate: Certificate,
    *,
    data: Any = None,
    original: Model | None = None,
    candidate: Model | None = None,
    metric: Metric | None = None,
    batch: int = 64,
    progress: Say | None = None,
) -> Recheck:
    """What still holds of a certificate. What is not given is not checked, and the answer says so.

    Args:
        certificate: as it was read.
        data: the samples; without them no model is run.
        original, candidate, metric, batch, progress: as for `certify`. To look again is no further look.

    Counts have to come out equal. Scores that are no counts round differently on another machine: their mean may
    move by a thousandth of the distance from the drop to its bound.

    Raises:
        UsageError: the samples cannot be measured, or the metric is not the one that was certified.
        UserCodeError: a model or the metric raised, or gave NaN.
    """
    checks = [_numbers(certificate)]
    sides = {"original": (original, certificate.original), "candidate": (candidate, certificate.candidate)}
    models = {who: (runnable(model), was) for who, (model, was) in sides.items() if model is not None}
    if data is None:
        checks.append(_unchecked("samples", "no data were given, so no model was run"))
        checks += [_file(who, *models[who]) for who in models]
        return Recheck(certificate=certificate, checks=tuple(checks))
    measure = Measure.over(data, metric, batch, progress)
    if measure.name != certificate.metric:
        raise UsageError(f"{certificate.metric} was certified, and the metric given is {measure.name}")
    checks.append(_samples(certificate, measure.samples.fingerprint))
    scores = {who: measure(who, model) for who, (model, _) in models.items()}
    for who, (model, was) in models.items():
        checks += [_file(who, model, was), _scores(who, certificate, judged(model, scores[who]), was)]
    if len(scores) == 2:
        better = certificate.higher_is_better
        checks.append(_evidence(certificate, evidence_of(*scores.values(), higher_is_better=better)))
    return Recheck(certificate=certificate, checks=tuple(checks))


def _numbers(certificate: Certificate) -> Rechecked:
    try:
        found = certificate.recompute()
    except RecordError as error:
        return _check("numbers", False, str(error))
    return _check("numbers", True, f"{found.decision.value} follows from the evidence")


def _samples(certificate: Certificate, fingerprint: str) -> Rechecked:
    same = fingerprint == certificate.data
    return _check(
        "samples", same, "the same, bit by bit" if same else "others than those that were certified on"
    )


def _file(who: str, model: Runnable, was: Judged) -> Rechecked:
    name = f"{who}'s file"
    if not was.sha256:
        return _unchecked(name, "the certificate names none")
    if not model.files:
        return _unchecked(name, "none was given")
    same = model.sha256 == was.sha256
    return _check(name, same, "the same bytes" if same else "other bytes than those that were certified")


def _scores(who: str, certificate: Certificate, now: Judged, was: Judged) -> Rechecked:
    name = f"{who}'s scores"
    if now.scores == was.scores:
        return _check(name, True, "the same, sample by sample")
    near = abs(now.metric - was.metric) <= _slack(certificate)
    counted = isinstance(certificate.evidence, Counts)
    found = f"{certificate.metric} is {now.metric:.6g}, and {was.metric:.6g} was certified"
    if counted and now.metric == was.metric:
        found = f"{certificate.metric} is the same, {now.metric:.6g}, and other samples are right"
    return _check(name, near and not counted, found)


def _evidence(certificate: Certificate, found: Counts | Scores) -> Rechecked:
    was = certificate.evidence
    same = found == was
    if isinstance(found, Scores) and isinstance(was, Scores):
        same = abs(found.mean - was.mean) <= _slack(certificate) and found.n == was.n
    return _check("both together", same, f"{_said(found)}, and {_said(was)} certified")


def _slack(certificate: Certificate) -> float:
    return 1e-3 * (certificate.judgement.upper - certificate.judgement.drop)


def _said(evidence: Counts | Scores) -> str:
    if isinstance(evidence, Counts):
        return f"{evidence.hurt} hurt and {evidence.helped} helped of {evidence.n}"
    return f"a drop of {evidence.mean:.6g} over {evidence.n}"


def _check(name: str, holds: bool, found: str) -> Rechecked:
    return Rechecked(name=name, outcome=Outcome.PASSED if holds else Outcome.FAILED, found=found)


def _unchecked(name: str, reason: str) -> Rechecked:
    return Rechecked(name=name, outcome=Outcome.NOT_CHECKED, found=reason)
