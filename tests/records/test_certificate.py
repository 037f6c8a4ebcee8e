"""A certificate follows from its own numbers, there and back as JSON, and every forged one is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto.errors import RecordError
from enxuto.records import (
    Certificate,
    ClassDrop,
    Counts,
    Decision,
    Judged,
    Judgement,
    Looks,
    Scores,
    from_json,
    to_json,
)
from enxuto.records.bounds import error_of_look
from enxuto.records.certificate import judge


def certificate(
    evidence: Counts | Scores,
    *,
    tolerance: float = 0.01,
    look: int = 1,
    planned: int = 1,
    higher: bool = True,
) -> Certificate:
    error = error_of_look(1 - 0.95, look, planned)
    now = 0.75 - evidence.drop if higher else 0.75 + evidence.drop
    return Certificate(
        metric="top1",
        higher_is_better=higher,
        tolerance=tolerance,
        confidence=0.95,
        look=look,
        planned=planned,
        evidence=evidence,
        judgement=judge(evidence, tolerance=tolerance, error=error),
        original=Judged(metric=0.75, scores="a", runtime="torch 2.13.0"),
        candidate=Judged(
            metric=now, scores="b", runtime="torch 2.13.0", files=("a.onnx",), sha256="c", nbytes=9
        ),
        data="d",
        versions=("torch 2.13.0",),
        worst_class=ClassDrop(label=3, n=10, hurt=2, helped=1),
    )


COUNTS = st.tuples(st.integers(1, 5_000), st.integers(0, 300), st.integers(0, 300)).map(
    lambda of: Counts(n=of[0] + of[1] + of[2], hurt=of[1], helped=of[2])
)
SCORES = st.builds(
    Scores,
    n=st.integers(2, 5_000),
    mean=st.floats(-1, 1),
    deviation=st.floats(0, 5),
    skewness=st.floats(-1.4, 1.4),
)


@given(
    COUNTS | SCORES,
    st.sampled_from([0.002, 0.01, 0.05, 0.3]),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None)
def test_every_certificate_comes_back_and_recomputes(
    evidence: Counts | Scores, tolerance: float, look: int, open_end: bool, higher: bool
) -> None:
    planned = 0 if open_end else 9
    made = certificate(evidence, tolerance=tolerance, look=look, planned=planned, higher=higher)
    again = from_json(to_json(made), expect=Certificate)
    assert again == made
    assert again.recompute() == made.judgement


@given(COUNTS | SCORES, st.sampled_from([0.002, 0.01, 0.05, 0.3]))
@settings(deadline=None)
def test_the_decision_is_what_the_bounds_say(evidence: Counts | Scores, tolerance: float) -> None:
    found = judge(evidence, tolerance=tolerance, error=0.05)
    assert found.lower <= found.drop <= found.upper
    enough = evidence.n >= evidence.least
    assert (found.decision is Decision.ACCEPTED) == (enough and found.upper <= tolerance)
    assert (found.decision is Decision.REJECTED) == (enough and found.lower > tolerance)
    if found.decision is not Decision.UNDECIDABLE:
        assert found.needed_n is None
    elif found.drop != tolerance:
        assert found.needed_n is not None and found.needed_n > evidence.n


def test_one_look_more_never_helps() -> None:
    evidence = Counts(n=2_000, hurt=20, helped=20)
    uppers = [certificate(evidence, look=look, planned=0).judgement.upper for look in range(1, 8)]
    assert uppers == sorted(uppers) and uppers[0] < uppers[-1]
    assert certificate(evidence).accepted and not certificate(evidence, look=2, planned=20).accepted


def test_what_is_needed_first_supposes_no_drop_then_the_seen_one() -> None:
    few = judge(Counts(n=100, hurt=4, helped=1), tolerance=0.01, error=0.05)
    assert few.decision is Decision.UNDECIDABLE and few.needed_n == 3_359
    many = judge(Counts(n=5_000, hurt=145, helped=105), tolerance=0.01, error=0.05)
    assert many.decision is Decision.UNDECIDABLE and many.drop == 0.008
    assert many.needed_n is not None and many.needed_n > 70_000
    exactly = judge(Counts(n=10_000, hurt=300, helped=200), tolerance=0.01, error=0.05)
    assert exactly.decision is Decision.UNDECIDABLE and exactly.needed_n is None


def test_few_scores_are_undecidable_even_if_all_are_alike() -> None:
    alike = Scores(n=29, mean=0.0, deviation=0.0, skewness=0.0)
    found = judge(alike, tolerance=0.01, error=0.05)
    assert found.decision is Decision.UNDECIDABLE and found.needed_n == 30
    assert (
        judge(msgspec.structs.replace(alike, n=30), tolerance=0.01, error=0.05).decision is Decision.ACCEPTED
    )


GOOD = certificate(Counts(n=3_000, hurt=20, helped=15))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("judgement.upper", 0.001, "does not follow from its own numbers"),
        ("judgement.lower", 0.001, "does not follow"),
        ("judgement.drop", 0.0, "does not follow"),
        ("judgement.decision", "undecidable", "does not follow"),
        ("judgement.needed_n", 7, "does not follow"),
        ("tolerance", 0.001, "does not follow"),
        ("confidence", 0.999, "does not follow"),
        ("planned", 3, "does not follow"),
        ("look", 2, "it is look 2 of 1"),
        ("look", 0, None),
        ("planned", 0, "does not follow"),
        ("evidence.hurt", 14, "the two metrics differ by"),
        ("evidence.n", 34, "are no counts of 34 samples"),
        ("evidence.hurt", -1, "are no counts"),
        ("candidate.metric", 0.75, "the two metrics differ by"),
        ("higher_is_better", False, "the two metrics differ by"),
        ("tolerance", -1, "out of range"),
        ("confidence", 1.0, "out of range"),
        ("worst_class.hurt", 10, "are no counts of 10 samples"),
    ],
)
def test_a_forged_number_is_found(path: str, value: Any, said: str | None) -> None:
    assert GOOD.accepted
    envelope = json.loads(to_json(GOOD))
    *above, last = path.split(".")
    place = envelope["body"]
    for key in above:
        place = place[key]
    assert place[last] != value
    place[last] = value
    forged = from_json(json.dumps(envelope), expect=Certificate)
    if said is None:  # who counted does not change what was spent
        assert forged.recompute() == GOOD.judgement
        return
    with pytest.raises(RecordError, match=said):
        forged.recompute()


@pytest.mark.parametrize(
    "change", [{"n": 1}, {"deviation": -1.0}, {"skewness": 40.0}, {"mean": float("nan")}]
)
def test_moments_that_no_numbers_have_are_refused(change: dict[str, float]) -> None:
    fine = Scores(n=1_000, mean=0.0, deviation=1.0, skewness=0.0)
    fine.check()
    with pytest.raises(ValueError, match="no moments"):
        msgspec.structs.replace(fine, **change).check()


def test_text_that_is_no_certificate_is_refused() -> None:
    envelope = json.loads(to_json(GOOD))
    envelope["body"]["evidence"]["type"] = "guesses"
    with pytest.raises(RecordError, match="this certificate is corrupt"):
        from_json(json.dumps(envelope))
    with pytest.raises(RecordError, match="expected a record of kind 'certificate', found 'looks'"):
        from_json(to_json(Looks(data="d", confidence=0.95, planned=0)), expect=Certificate)


def test_a_judgement_is_read_without_torch_or_scipy() -> None:
    """Counts need neither; only the bound of a mean asks for scipy."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('torch', 'scipy'): sys.modules[name] = None\n"
        "from enxuto.records import from_json\n"
        "print(from_json(sys.stdin.read()).recompute().decision.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=to_json(GOOD), capture_output=True, timeout=120)
    assert done.stdout.strip() == b"accepted", done.stderr
    assert isinstance(GOOD.judgement, Judgement)
