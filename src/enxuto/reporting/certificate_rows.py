"""The rows of a certificate, once for all forms."""

from __future__ import annotations

from ..records import Certificate, Counts, Decision, Judged, Outcome, Recheck
from ..units import format_bytes
from .wording import counted, plain

_NAMES = {"top1": "top-1 accuracy"}
_HASH = 16  # hexadecimal digits shown


def metric_name(certificate: Certificate) -> str:
    """What was scored."""
    return _NAMES.get(certificate.metric, plain(certificate.metric))


def headline(certificate: Certificate) -> str:
    """The decision in one sentence."""
    found = certificate.judgement
    moves = f"{metric_name(certificate)} {'loses' if certificate.higher_is_better else 'rises by'}"
    match found.decision:
        case Decision.ACCEPTED if found.upper <= 0:
            return "accepted: nothing is lost"
        case Decision.ACCEPTED:
            return f"accepted: {moves} at most {_amount(certificate, found.upper)}"
        case Decision.REJECTED:
            return f"rejected: {moves} at least {_amount(certificate, found.lower)}"
        case Decision.UNDECIDABLE:
            return f"undecidable: {_needs(certificate)}"


def summary(certificate: Certificate) -> list[tuple[str, str]]:
    """What was found, as name and value."""
    found, evidence = certificate.judgement, certificate.evidence
    better = "" if certificate.higher_is_better else ", lower is better"
    rows = [
        ("decision", headline(certificate)),
        ("tolerated", _amount(certificate, certificate.tolerance)),
        ("drop", f"{_amount(certificate, found.drop)} seen; {_bounds(certificate)}"),
        (f"{metric_name(certificate)}{better}", _metrics(certificate)),
        ("samples", f"{evidence.n:,}{_discordant(evidence) if isinstance(evidence, Counts) else ''}"),
    ]
    if worst := certificate.worst_class:
        counts = f"{worst.hurt:,} hurt, {worst.helped:,} helped of {counted(worst.n, 'sample')}"
        text = f"class {worst.label} loses {points(worst.drop)} ({counts}); seen, not certified by itself"
        rows.append(("worst class", text))
    return rows


def conditions(certificate: Certificate) -> list[tuple[str, str]]:
    """What was run and how sure it is, as name and value."""
    return [
        ("confidence", _confidence(certificate)),
        ("data", f"SHA-256 {plain(certificate.data)[:_HASH]}…"),
        ("original", _judged(certificate.original)),
        ("candidate", _judged(certificate.candidate)),
        ("versions", plain(", ".join(certificate.versions))),
    ]


def rechecked(recheck: Recheck) -> list[tuple[str, str, Outcome]]:
    """The checks: name, what was found, how it went."""
    return [(plain(check.name), plain(check.found), check.outcome) for check in recheck.checks]


def recheck_outcome(recheck: Recheck) -> str:
    """The checks in one phrase."""
    failed = sum(check.outcome is Outcome.FAILED for check in recheck.checks)
    made = sum(check.outcome is not Outcome.NOT_CHECKED for check in recheck.checks)
    return f"{failed} of {counted(made, 'check')} failed" if failed else f"holds in {counted(made, 'check')}"


def _needs(certificate: Certificate) -> str:
    needed, evidence = certificate.judgement.needed_n, certificate.evidence
    if needed is None:
        return "the drop seen is the tolerance itself"
    return f"needs {needed:,} samples, and there are {evidence.n:,}"


def _bounds(certificate: Certificate) -> str:
    found = certificate.judgement
    low, high = (_amount(certificate, bound) for bound in (found.lower, found.upper))
    return f"at least {low} and at most {high}, each with {100 * (1 - certificate.error):.4g} % confidence"


def _metrics(certificate: Certificate) -> str:
    was, now = certificate.original.metric, certificate.candidate.metric
    if isinstance(certificate.evidence, Counts):
        return f"{100 * was:.2f} % → {100 * now:.2f} %"
    return f"{was:.6g} → {now:.6g}"


def _discordant(counts: Counts) -> str:
    alike = counts.n - counts.hurt - counts.helped
    return f": {counts.hurt:,} hurt, {counts.helped:,} helped, {alike:,} as before"


def _amount(certificate: Certificate, drop: float) -> str:
    """A drop in the unit of its metric."""
    return points(drop) if isinstance(certificate.evidence, Counts) else f"{drop:.4g}"


def points(share: float) -> str:
    """A share of samples in points.

    >>> points(0.01), points(-0.0025)
    ('1.00 points', '-0.25 points')
    """
    return f"{100 * share:.2f} points"


def _confidence(certificate: Certificate) -> str:
    whole, look, planned = certificate.confidence, certificate.look, certificate.planned
    text = f"{100 * whole:.4g} %"
    if planned == 1:
        return f"{text}: one look at these samples"
    number = f"look {look}" if look else "one look"
    share = f"it spends {100 * certificate.error:.3g} % of the {100 * (1 - whole):.3g} % error"
    of = f"of {planned} planned" if planned else "of a number that is open"
    return f"{text} for all looks at these samples; {number} {of}, {share}"


def _judged(side: Judged) -> str:
    text = plain(side.runtime)
    if not side.files:
        return f"{text}; a live object, no file"
    files = plain(", ".join(side.files))
    return f"{files}, {format_bytes(side.nbytes)}, SHA-256 {plain(side.sha256)[:_HASH]}…; {text}"
