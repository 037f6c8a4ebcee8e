"""A certificate in words: every decision, the units of its metric, the look, hostile names."""

from __future__ import annotations

from dataclasses import replace

from enxuto.records import (
    Certificate,
    ClassDrop,
    Counts,
    Judged,
    Outcome,
    Recheck,
    Rechecked,
    Scores,
    display,
)
from enxuto.records.bounds import error_of_look
from enxuto.records.certificate import judge
from enxuto.reporting import to_text
from tests.reporting.samples import ESCAPE, MARKUP, SCRIPT


def certificate(evidence: Counts | Scores, *, look: int = 1, planned: int = 1) -> Certificate:
    error = error_of_look(0.05, look, planned)
    return Certificate(
        metric="top1",
        higher_is_better=True,
        tolerance=0.01,
        confidence=0.95,
        look=look,
        planned=planned,
        evidence=evidence,
        judgement=judge(evidence, tolerance=0.01, error=error),
        original=Judged(metric=0.9, scores="", runtime=f"torch {ESCAPE}"),
        candidate=Judged(
            metric=0.9 - evidence.drop,
            scores="",
            runtime="onnxruntime 1.32.0",
            files=(f"{MARKUP}{SCRIPT}.onnx",),
            sha256="0123456789abcdef01234567",
            nbytes=3 * 2**20,
        ),
        data="fedcba9876543210fedcba98",
        versions=("torch 2.13.0",),
        worst_class=ClassDrop(label=6, n=300, hurt=10, helped=1),
    )


KEPT = certificate(Counts(n=3_000, hurt=20, helped=15))


def test_the_card_of_a_certificate() -> None:
    assert to_text(KEPT, width=140).splitlines() == [
        "certificate  accepted: top-1 accuracy loses at most 0.54 points",
        "tolerated       1.00 points",
        "drop            0.17 points seen; at least -0.20 points and at most 0.54 points, each with 95 % confidence",
        "top-1 accuracy  90.00 % → 89.83 %",
        "samples         3,000: 20 hurt, 15 helped, 2,965 as before",
        "worst class     class 6 loses 3.00 points (10 hurt, 1 helped of 300 samples); seen, not certified by itself",
        "",
        "How sure, and of what",
        "confidence  95 %: one look at these samples",
        "data        SHA-256 fedcba9876543210…",
        "original    torch \ufffd[31mred\ufffd[0m ; a live object, no file",
        f"candidate   {MARKUP}{SCRIPT}.onnx, 3.0 MiB, SHA-256 0123456789abcdef…; onnxruntime 1.32.0",
        "versions    torch 2.13.0",
    ]


def first_line(made: Certificate) -> str:
    return to_text(made, width=140).splitlines()[0]


def test_every_decision_in_one_line() -> None:
    assert (
        first_line(certificate(Counts(n=3_000, hurt=10, helped=60)))
        == "certificate  accepted: nothing is lost"
    )
    lost = certificate(Counts(n=3_000, hurt=120, helped=10))
    assert first_line(lost) == "certificate  rejected: top-1 accuracy loses at least 3.05 points"
    few = certificate(Counts(n=100, hurt=3, helped=2))
    assert first_line(few) == "certificate  undecidable: needs 3,359 samples, and there are 100"
    even = certificate(Counts(n=10_000, hurt=300, helped=200))
    assert first_line(even) == "certificate  undecidable: the drop seen is the tolerance itself"


def test_looks_in_words() -> None:
    counts = Counts(n=3_000, hurt=20, helped=15)
    opened = to_text(certificate(counts, look=2, planned=0), width=140)
    assert "look 2 of a number that is open, it spends 0.833 % of the 5 % error" in opened
    assert "each with 99.17 % confidence" in opened
    assert "look 2 of 3 planned, it spends 1.67 % of" in to_text(
        certificate(counts, look=2, planned=3), width=140
    )
    assert "one look of 3 planned" in to_text(certificate(counts, look=0, planned=3), width=140)


def test_scores_are_in_the_units_of_their_metric() -> None:
    scores = certificate(Scores(n=400, mean=0.002, deviation=0.03, skewness=0.1))
    loss = replace(scores, metric=f"loss {MARKUP}", higher_is_better=False, worst_class=None)
    lines = to_text(loss, width=140).splitlines()
    assert lines[0] == f"certificate  accepted: loss {MARKUP} rises by at most 0.004481"
    assert any(line.startswith(f"loss {MARKUP}, lower is better") for line in lines)
    assert "points" not in to_text(loss) and "worst class" not in to_text(loss)


def test_the_cell_of_a_notebook_holds_text_alone() -> None:
    checks = (
        Rechecked(name="numbers", outcome=Outcome.PASSED, found=f"fine {SCRIPT}"),
        Rechecked(name="samples", outcome=Outcome.NOT_CHECKED, found="none"),
    )
    held = Recheck(certificate=KEPT, checks=checks)
    for record in (KEPT, held):
        cell = display.html(record)
        assert cell is not None
        assert "accepted: top-1 accuracy loses at most 0.54 points" in cell
        assert "&lt;script&gt;" in cell and "<script" not in cell and "\x1b" not in cell
    assert "Looked at again: holds in 1 check" in to_text(held)
    failed = replace(held, checks=(*checks, Rechecked(name="x", outcome=Outcome.FAILED, found="no")))
    assert "Looked at again: 1 of 2 checks failed" in to_text(failed)
    assert held.holds and not failed.holds
