"""Certify: what is counted, in which direction, by which bound; what is said of bad input; fidelity without labels."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import enxuto as ex
from enxuto.errors import UndecidableError, UsageError, UserCodeError
from enxuto.records import Counts, Decision, Outcome, Scores
from enxuto.samples import Samples
from enxuto.verifying import Ledger, Runnable, answered, certify, fidelity, needed_samples, recheck, top1

CLASSES = 4


def answers(labels: Tensor) -> Tensor:
    """Outputs whose largest is that of the label."""
    return nn.functional.one_hot(labels, CLASSES).float()


def says(labels: Tensor) -> Any:
    """A model that answers so, whatever the batch; its input is each sample's number."""
    return lambda rows: answers(labels[rows.long()])


def samples(targets: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(len(targets)).float(), targets


def judged(original: Tensor, candidate: Tensor, targets: Tensor, **options: Any) -> ex.Certificate:
    return certify(says(original), says(candidate), samples(targets), **options)


LABELS = st.lists(st.tuples(*[st.integers(0, CLASSES - 1)] * 3), min_size=2, max_size=200)


@given(LABELS, st.integers(1, 70))
@settings(deadline=None)
def test_counts_are_those_of_a_table(rows: list[tuple[int, int, int]], batch: int) -> None:
    targets, original, candidate = torch.tensor(rows).T
    made = judged(original, candidate, targets, batch=batch)
    hurt = sum(o == t != c for t, o, c in rows)
    helped = sum(c == t != o for t, o, c in rows)
    assert made.evidence == Counts(n=len(rows), hurt=hurt, helped=helped)
    assert made.original.metric == pytest.approx(sum(o == t for t, o, _ in rows) / len(rows))
    assert made.candidate.metric == pytest.approx(sum(c == t for t, _, c in rows) / len(rows))
    worst = made.worst_class
    assert worst is not None
    drops = {
        label: sum((o == t) - (c == t) for t, o, c in rows if t == label)
        / sum(t == label for t, _, _ in rows)
        for label in {t for t, _, _ in rows}
    }
    assert worst.drop == pytest.approx(max(drops.values())) == pytest.approx(drops[worst.label])
    assert worst.n == sum(t == worst.label for t, _, _ in rows)
    assert made.recompute() == made.judgement


@given(LABELS)
@settings(deadline=None, max_examples=30)
def test_exchanging_the_two_mirrors_the_judgement(rows: list[tuple[int, int, int]]) -> None:
    targets, original, candidate = torch.tensor(rows).T
    forth, back = judged(original, candidate, targets), judged(candidate, original, targets)
    assert (forth.judgement.drop, forth.judgement.upper) == (-back.judgement.drop, -back.judgement.lower)


def wrong_at(targets: Tensor, rows: slice | list[int]) -> Tensor:
    changed = targets.clone()
    changed[rows] = (changed[rows] + 1) % CLASSES
    return changed


def test_the_three_decisions() -> None:
    targets = torch.arange(3_000) % CLASSES
    accepted = judged(targets, wrong_at(targets, slice(0, 15)), targets)
    assert (accepted.decision, accepted.judgement.needed_n) == (Decision.ACCEPTED, None)
    rejected = judged(targets, wrong_at(targets, slice(0, 90)), targets)
    assert rejected.decision is Decision.REJECTED and rejected.judgement.lower > 0.01
    undecided = judged(targets, wrong_at(targets, slice(0, 28)), targets)
    assert undecided.decision is Decision.UNDECIDABLE
    assert undecided.judgement.drop < 0.01 < undecided.judgement.upper
    few = judged(targets[:100], targets[:100], targets[:100])
    assert few.decision is Decision.UNDECIDABLE
    assert few.judgement.needed_n == needed_samples(0.0, 0.01)


def test_a_tolerance_on_either_side_of_the_bound() -> None:
    targets = torch.arange(500) % CLASSES
    upper = judged(targets, wrong_at(targets, [3, 8]), targets).judgement.upper
    assert judged(targets, wrong_at(targets, [3, 8]), targets, tolerance=upper).accepted
    assert not judged(targets, wrong_at(targets, [3, 8]), targets, tolerance=upper - 1e-9).accepted


# ---- Other metrics -----------------------------------------------------------------------------------------


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).float()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) ** 2


def closeness(outputs: Tensor, targets: Tensor) -> Tensor:
    return -squared_error(outputs, targets)


def test_an_error_rate_is_accuracy_the_other_way_round() -> None:
    targets = torch.arange(800) % CLASSES
    original, candidate = wrong_at(targets, slice(0, 9)), wrong_at(targets, slice(5, 40))
    plain = judged(original, candidate, targets)
    rate = judged(original, candidate, targets, metric=error_rate, higher_is_better=False)
    assert plain.evidence == rate.evidence == Counts(n=800, hurt=31, helped=5)
    assert plain.judgement == rate.judgement and plain.worst_class == rate.worst_class
    assert rate.candidate.metric == pytest.approx(1 - plain.candidate.metric)
    assert rate.recompute() == rate.judgement


def regression(n: int = 400, *, harm: float) -> tuple[Any, Any, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(n, generator=generator)
    noise = 0.1 * torch.randn(n, generator=generator)
    rows = torch.arange(n).float()
    return (
        (lambda x: targets[x.long()] + noise[x.long()]),
        lambda x: targets[x.long()] + (1 + harm) * noise[x.long()],
        (rows, targets),
    )


def test_regression_is_judged_by_the_mean_of_its_differences() -> None:
    original, candidate, data = regression(harm=0.2)
    made = certify(original, candidate, data, metric=squared_error, higher_is_better=False, tolerance=0.01)
    rows, targets = data
    harm = (squared_error(candidate(rows), targets) - squared_error(original(rows), targets)).double().numpy()
    evidence = made.evidence
    assert isinstance(evidence, Scores) and made.worst_class is None
    assert evidence.mean == pytest.approx(harm.mean(), rel=1e-5)
    assert evidence.deviation == pytest.approx(harm.std(ddof=1), rel=1e-5)
    assert evidence.skewness == pytest.approx(((harm - harm.mean()) ** 3).mean() / harm.std() ** 3, rel=1e-4)
    assert made.accepted and 0 < evidence.mean < made.judgement.upper <= 0.01
    strict = certify(original, candidate, data, metric=squared_error, higher_is_better=False, tolerance=0.001)
    assert strict.decision is Decision.REJECTED
    turned = certify(original, candidate, data, metric=closeness, tolerance=0.01)
    assert turned.judgement == made.judgement and turned.recompute() == turned.judgement


def test_scores_that_cannot_tell_say_how_many_could() -> None:
    original, candidate, data = regression(60, harm=0.3)
    made = certify(original, candidate, data, metric=squared_error, higher_is_better=False, tolerance=0.008)
    assert made.decision is Decision.UNDECIDABLE
    assert made.judgement.needed_n is not None and made.judgement.needed_n > 60


def test_a_share_of_pixels_is_a_score_and_not_a_count() -> None:
    targets = torch.randint(CLASSES, (40, 5, 5), generator=torch.Generator().manual_seed(1))
    outputs = nn.functional.one_hot(wrong_at(targets, slice(0, 1)), CLASSES).permute(0, 3, 1, 2).float()
    outputs[1, :, 0, 0] = outputs[1, :, 0, 0].roll(1)
    scores = top1(outputs, targets)
    assert scores.tolist() == [0.0, 0.96] + [1.0] * 38


def test_coverage_by_draws_of_whole_runs() -> None:
    """A true drop of the tolerance, 5 points, at 300 samples: at most one run in twenty may accept it."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(300, dtype=torch.long)
    accepted = 0
    for _ in range(400):
        drawn = torch.rand(300, generator=generator)
        original, candidate = (
            (drawn < 0.10).long(),
            ((drawn >= 0.10) & (drawn < 0.25)).long(),
        )  # 15 % hurt, 10 % helped
        accepted += judged(original, candidate, targets, tolerance=0.05, batch=300).accepted
    assert 2 <= accepted <= 31  # 5 % of 400 is 20; 31 is two and a half standard errors more


# ---- Looks -------------------------------------------------------------------------------------------------


def test_each_look_is_counted_in_its_certificate() -> None:
    targets = torch.arange(1_000) % CLASSES
    ledger = Ledger()
    made = [judged(targets, wrong_at(targets, [k]), targets, looks=ledger) for k in (1, 2, 3, 2)]
    assert [each.look for each in made] == [1, 2, 3, 2]
    assert made[1] == made[3]
    assert [each.error for each in made[:3]] == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    assert made[0].judgement.upper < made[1].judgement.upper < made[2].judgement.upper


def test_planned_looks_share_alike_and_then_there_is_none() -> None:
    targets = torch.arange(1_000) % CLASSES
    by_word = judged(targets, wrong_at(targets, [1]), targets, looks=2)
    ledger = Ledger(planned=2)
    made = [judged(targets, wrong_at(targets, [k]), targets, looks=ledger) for k in (1, 2)]
    assert [each.error for each in made] == pytest.approx([0.025, 0.025])
    assert by_word.judgement == made[0].judgement and (by_word.look, by_word.planned) == (0, 2)
    with pytest.raises(UndecidableError, match="as planned"):
        judged(targets, wrong_at(targets, [3]), targets, looks=ledger)


# ---- What is run -------------------------------------------------------------------------------------------


def test_a_module_runs_in_eval_mode_and_stays_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = (torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4)
    made = certify(net, net, data)
    assert made.evidence == Counts(n=50, hurt=0, helped=0)
    assert net.training and net[1].training and not net[2].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_several_inputs_arrays_and_lists_of_one() -> None:
    inputs = (torch.randn(30, 3), torch.randn(30, 3))
    data = (inputs, (inputs[0] + inputs[1]).argmax(1))
    made = certify(lambda a, b: a + b, lambda a, b: [(a + b).numpy()], data)
    assert made.original.metric == made.candidate.metric == 1.0
    assert made.original.scores == made.candidate.scores


def test_files_and_data_are_named_by_their_bytes(tmp_path: Path) -> None:
    targets = torch.arange(40) % CLASSES
    parts = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    for path, content in zip(parts, (b"graph", b"weights"), strict=True):
        path.write_bytes(content)
    model = Runnable(run=says(targets), runtime="onnxruntime 1.32.0", files=parts)
    made = certify(says(targets), model, samples(targets))
    assert made.candidate.sha256 == hashlib.sha256(b"graphweights").hexdigest()
    assert (made.candidate.nbytes, made.candidate.files) == (12, ("net.onnx", "net.onnx.data"))
    assert (made.original.sha256, made.original.nbytes) == ("", 0)
    assert made.data == Samples.of(samples(targets)).fingerprint
    parts[0].unlink()
    with pytest.raises(UsageError, match="cannot read"):
        certify(says(targets), model, samples(targets))


def raising(message: str) -> Any:
    def run(*_: Tensor) -> Tensor:
        raise ValueError(message)

    return run


TARGETS = torch.arange(100) % CLASSES
FINE = says(TARGETS)


def with_nan(rows: Tensor) -> Tensor:
    outputs = answers(TARGETS[rows.long()])
    outputs[rows.long() == 70] = math.nan
    return outputs


@pytest.mark.parametrize(
    ("candidate", "options", "error", "said"),
    [
        (FINE, {"tolerance": 0.0}, UsageError, "a positive number, 0.01 for one point, not 0"),
        (FINE, {"tolerance": -0.01}, UsageError, "not -0.01"),
        (FINE, {"tolerance": math.nan}, UsageError, "not nan"),
        (FINE, {"tolerance": 1}, UsageError, "0.01 for one point, not 1"),
        (FINE, {"confidence": 95}, UsageError, "such as 0.95, not 95"),
        (FINE, {"looks": 0}, UsageError, "at least 1, not 0"),
        (FINE, {"batch": 0}, UsageError, "at least one sample, not 0"),
        ("net.onnx", {}, UsageError, "a module, a function or a Runnable, not a str"),
        (with_nan, {}, UserCodeError, "the candidate gave NaN for 1 of 36 samples"),
        (raising("no\nway"), {}, UserCodeError, "the candidate on samples 0 to 63 raised ValueError: no$"),
        (
            lambda x: answers(TARGETS[:5]),
            {},
            UsageError,
            r"the candidate gave the shape \[5, 4\] for 64 samples",
        ),
        (lambda x: {"logits": x}, {}, UsageError, "a tensor or an array, not dict"),
        (
            lambda x: x,
            {},
            UsageError,
            r"outputs \[n, classes, ...\] for targets \[n, ...\], not \[64\] for \[64\]",
        ),
        (
            lambda x: answers(TARGETS[x.long()])[:, :2],
            {},
            UsageError,
            "from 0 to 3, and the outputs have 2 classes",
        ),
        (
            FINE,
            {"metric": lambda o, t: o.mean()},
            UsageError,
            r"the metric gave the shape \[\] for 64 samples",
        ),
        (FINE, {"metric": lambda o, t: o}, UsageError, r"the metric gave the shape \[64, 4\]"),
        (
            FINE,
            {"metric": lambda o, t: o[:, 0] * math.nan},
            UserCodeError,
            "the metric gave NaN or infinity for 64 of 64",
        ),
        (
            FINE,
            {"metric": lambda o, t: o[:, 0] + math.inf},
            UserCodeError,
            "the metric gave NaN or infinity for 64",
        ),
        (
            FINE,
            {"metric": raising("odd")},
            UserCodeError,
            "the metric on samples 0 to 63 of the original raised",
        ),
    ],
)
def test_bad_input_is_said(
    candidate: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        certify(FINE, candidate, samples(TARGETS), **options)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.zeros(9), "needs labelled samples"),
        ((torch.zeros(9), torch.zeros(8)), r"\[9, 8\]"),
        ((torch.zeros(9), torch.zeros(9)), "the targets are no classes but numbers; pass metric="),
        ((torch.zeros(1), torch.zeros(1, dtype=torch.long)), "one sample certifies nothing"),
        (7, "not int"),
    ],
)
def test_bad_data_are_said(data: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        certify(FINE, FINE, data)


def test_a_failed_run_is_no_look() -> None:
    ledger = Ledger(planned=1)
    with pytest.raises(UserCodeError):
        certify(FINE, with_nan, samples(TARGETS), looks=ledger)
    assert certify(FINE, FINE, samples(TARGETS), looks=ledger).look == 1


# ---- Looking again -----------------------------------------------------------------------------------------


def outcomes(again: Any) -> dict[str, str]:
    return {check.name: check.outcome.value for check in again.checks}


def test_a_certificate_looked_at_again_holds() -> None:
    made = certify(FINE, FINE, samples(TARGETS))
    again = recheck(made, data=samples(TARGETS), original=FINE, candidate=FINE)
    assert again.holds
    assert outcomes(again) == {
        "numbers": "passed",
        "samples": "passed",
        "original's file": "not checked",
        "original's scores": "passed",
        "candidate's file": "not checked",
        "candidate's scores": "passed",
        "both together": "passed",
    }
    assert outcomes(recheck(made)) == {"numbers": "passed", "samples": "not checked"}


def test_another_candidate_with_the_same_accuracy_is_found() -> None:
    first, other = says(wrong_at(TARGETS, [1, 2])), says(wrong_at(TARGETS, [1, 3]))
    made = certify(FINE, first, samples(TARGETS))
    again = recheck(made, data=samples(TARGETS), candidate=other)
    assert not again.holds
    (failed,) = [check for check in again.checks if check.outcome is Outcome.FAILED]
    assert (
        failed.name == "candidate's scores"
        and "is the same, 0.98, and other samples are right" in failed.found
    )
    worse = recheck(
        made, data=samples(TARGETS), original=FINE, candidate=says(wrong_at(TARGETS, slice(0, 5)))
    )
    found = {check.name: check.found for check in worse.checks}
    assert found["candidate's scores"] == "top1 is 0.95, and 0.98 was certified"
    assert found["both together"] == "5 hurt and 0 helped of 100, and 2 hurt and 0 helped of 100 certified"


def test_other_samples_and_other_files_are_found(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"one")
    model = Runnable(run=FINE, runtime="onnxruntime", files=(path,))
    made = certify(FINE, model, samples(TARGETS))
    assert outcomes(recheck(made, candidate=model))["candidate's file"] == "passed"
    path.write_bytes(b"two")
    assert outcomes(recheck(made, candidate=model))["candidate's file"] == "failed"
    assert outcomes(recheck(made, candidate=FINE))["candidate's file"] == "not checked"
    fewer = tuple(tensor[:99] for tensor in samples(TARGETS))
    assert outcomes(recheck(made, data=fewer))["samples"] == "failed"
    with pytest.raises(UsageError, match="top1 was certified, and the metric given is error_rate"):
        recheck(made, data=samples(TARGETS), metric=error_rate)


def test_scores_may_round_otherwise_and_no_more() -> None:
    original, candidate, data = regression(harm=0.2)
    made = certify(original, candidate, data, metric=squared_error, higher_is_better=False)
    slack = made.judgement.upper - made.judgement.drop

    def moved(by: float) -> Any:
        metric = lambda o, t: squared_error(o, t) + by  # noqa: E731
        metric.__name__ = "squared_error"
        return recheck(made, data=data, candidate=candidate, metric=metric)

    assert moved(1e-5 * slack).holds and not moved(0.01 * slack).holds


def test_answered_samples_are_labelled_by_the_model_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.9)).train()
    samples = answered(model, torch.randn(30, 4))
    assert samples.targets is not None
    assert torch.equal(samples.targets, model[0](samples.inputs[0]).argmax(1))
    assert model.training
    other = certify(model, nn.Linear(4, 5), samples, tolerance=0.9)
    assert (other.original.metric, other.metric) == (1.0, "top1")
    with pytest.raises(UsageError, match="classes"):
        answered(nn.Linear(4, 1), torch.randn(3, 4))


# ---- Fidelity ----------------------------------------------------------------------------------------------


def test_fidelity_by_its_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    was, now = (torch.randn(50, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    found = fidelity(was.numpy(), now)
    p, q = (np.exp(x.numpy()) / np.exp(x.numpy()).sum(1, keepdims=True) for x in (was, now))
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert found.agreement == float((was.argmax(1) == now.argmax(1)).double().mean())
    noise = ((was - now) ** 2).sum() / (was**2).sum()
    assert found.sqnr_db == pytest.approx(-10 * math.log10(float(noise)))
    assert found.n == 50


def test_fidelity_of_equal_and_opposite_outputs() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    same, other = fidelity(logits, logits), fidelity(logits, -logits)
    assert (same.kl, same.agreement, same.sqnr_db) == (0.0, 1.0, None)
    assert (other.agreement, other.sqnr_db) == (0.0, pytest.approx(-20 * math.log10(2)))


@given(st.floats(-3, 3), st.floats(1e-3, 1))
@settings(deadline=None, max_examples=30)
def test_fidelity_sees_noise_and_not_a_shift_of_all_classes(shift: float, scale: float) -> None:
    was = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert fidelity(was, was + shift).kl == pytest.approx(0, abs=1e-12)
    noise = torch.randn(20, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert fidelity(was, was + scale * noise).kl > 0
    louder, quieter = (fidelity(was, was + s * noise).sqnr_db for s in (2 * scale, scale))
    assert quieter - louder == pytest.approx(20 * math.log10(2))


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 2), r"not \[3, 2\] and \[4, 2\]"),
        (torch.zeros(3, 1), torch.zeros(3, 1), r"\[n, classes, ...\]"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), "NaN or infinite"),
    ],
)
def test_fidelity_says_what_it_cannot_compare(was: Tensor, now: Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fidelity(was, now)
