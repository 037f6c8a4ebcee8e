"""Distillation: its loss, its order, its checkpoints, and that it leaves the teacher and the process alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import enxuto as ex
from enxuto.compressing.distilling import Distillation, distil, distillation_workload
from enxuto.compressing.lessons import Hint, Pair, hint_loss, imitation_loss
from enxuto.errors import UsageError, UserCodeError
from enxuto.fitting import Fit
from enxuto.records import Checkpoint, MicroBatches, SmallerBatch

torch.set_num_threads(1)


def net(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


def samples(n=48):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator)


SETTINGS = Distillation(epochs=4, batch=16, rate=0.01, hints=(Hint(teacher="2", student="2"),))


def test_the_imitation_loss_is_hintons():
    torch.manual_seed(0)
    own, said = torch.randn(6, 5), torch.randn(6, 5)
    p = torch.softmax(said / 3, 1)
    by_hand = 9 * (p * (p.log() - torch.softmax(own / 3, 1).log())).sum(1).mean()
    torch.testing.assert_close(imitation_loss(own, said, regression=False, temperature=3), by_hand)
    assert imitation_loss(said, said, regression=False, temperature=3) == pytest.approx(0, abs=1e-6)
    # with T² the gradient at high temperatures is that of the squared difference of centred logits, over classes
    own.requires_grad_()
    imitation_loss(own, said, regression=False, temperature=1e3).backward()
    centred = (own - own.mean(1, keepdim=True)) - (said - said.mean(1, keepdim=True))
    torch.testing.assert_close(own.grad, centred.detach() / (5 * 6), rtol=1e-2, atol=1e-4)


def test_a_hint_is_a_share_of_what_is_shown():
    torch.manual_seed(0)
    shown = torch.randn(6, 3, 4)
    scales = torch.logspace(-3, 3, 6)[:, None, None]
    assert hint_loss(torch.zeros_like(shown), scales * shown) == pytest.approx(
        1, rel=1e-6
    )  # whatever the scale
    assert hint_loss(shown, shown) == 0
    halves = hint_loss(shown[:2], shown[:2].flip(0)), hint_loss(shown[2:], 0 * shown[2:] + 1)
    whole = hint_loss(shown, torch.cat([shown[:2].flip(0), 0 * shown[2:] + 1]))
    torch.testing.assert_close(
        whole, (2 * halves[0] + 4 * halves[1]) / 6
    )  # a mean over samples, as pieces need it


@pytest.mark.parametrize(
    ("shape", "teacher", "student"),
    [
        ((4, 2), nn.Linear(2, 7), nn.Linear(2, 3)),  # [batch, channels]
        ((4, 5, 2), nn.Linear(2, 7), nn.Linear(2, 3)),  # [batch, tokens, channels]
        ((4, 2, 9, 9), nn.Conv2d(2, 7, 3), nn.Conv2d(2, 3, 3, stride=2)),  # other channels and other places
    ],
)
def test_hints_join_features_of_other_shapes(shape, teacher, student):
    """The map is a linear one over channels: it finds the teacher's features where they follow from the student's."""
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    pair = Pair(teacher, student, [Hint(teacher="", student="")], (inputs[:1],), asked=True)
    ((own, seen),) = pair(inputs).hints
    assert own.shape == seen.shape and own.shape[-1] == 7
    if inputs.dim() == 4:
        pooled = F.adaptive_avg_pool2d(teacher(inputs), 4).movedim(1, -1)
        torch.testing.assert_close(seen, pooled)
        mapped = F.conv2d(student(inputs), pair.adapters[0].weight[:, :, None, None], pair.adapters[0].bias)
        torch.testing.assert_close(own, mapped.movedim(1, -1))  # a 1x1 convolution
    assert not seen.requires_grad and own.requires_grad


def test_a_student_comes_to_say_what_its_teacher_says():
    teacher, student = net(12, 1), net(6, 2)
    images, labels = samples()
    before = copy.deepcopy(teacher.state_dict())
    state = torch.get_rng_state()
    teacher.train()
    student.eval()

    def distance():
        with torch.no_grad():
            said = copy.deepcopy(teacher).eval()(images).softmax(1)  # a constant on all logits says nothing
            return F.mse_loss(student.eval()(images).softmax(1), said)

    apart = distance()
    history = distil(
        teacher, student, (images, labels), Distillation(epochs=40, batch=16, rate=0.02, labels=0.0)
    ).epochs
    assert distance() < 0.5 * apart
    assert len(history) == 40 and history[-1].teacher < history[0].teacher
    assert history[0].labels == 0 and history[0].hints == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.training and not student.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in (*teacher.parameters(), *student.parameters()))


def test_a_teacher_that_is_asked_in_every_step_stays_as_it_was():
    """In evaluation mode: no dropout, no statistics of batches, no gradients; and its own mode comes back."""
    teacher = net(12, 1).train()
    before = copy.deepcopy(teacher.state_dict())
    seen = []
    teacher[3].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    distil(teacher, net(6, 2), samples(), SETTINGS, change=lambda x: x)
    assert len(seen) > 12 and not any(seen)
    assert teacher.training and all(torch.equal(a, before[key]) for key, a in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_loss_is_the_sum_of_its_parts():
    epoch = distil(net(12, 1), net(6, 2), samples(), SETTINGS).epochs[0]
    parts = 0.7 * epoch.teacher + 0.3 * epoch.labels + epoch.hints
    assert epoch.loss == pytest.approx(parts, rel=1e-5)
    assert min(epoch.teacher, epoch.labels, epoch.hints) > 0


class Stop(Exception):
    pass


@pytest.mark.parametrize("steps", [4, 8])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, steps):
    """Three steps make an epoch; the run dies in the middle of the second or of the third."""
    whole = net(6, 2)
    expected = distil(net(12, 1), whole, samples(), SETTINGS, change=lambda x: x + 0.1 * torch.randn_like(x))

    left = iter(range(steps))

    def dying(x):
        if next(left, None) is None:
            raise Stop
        return x + 0.1 * torch.randn_like(x)

    file = tmp_path / "distil.pt"
    with pytest.raises(UserCodeError, match="Stop") as stopped:
        distil(net(12, 1), net(6, 2), samples(), SETTINGS, checkpoint=file, change=dying)
    assert isinstance(stopped.value.__cause__, Stop)
    assert file.exists()
    resumed, calls = net(6, 2), []

    def counting(x):
        calls.append(len(x))
        return x + 0.1 * torch.randn_like(x)

    history = distil(net(12, 1), resumed, samples(), SETTINGS, checkpoint=file, change=counting)
    assert len(calls) == 12 - 3 * (steps // 3)  # whole epochs are not run again
    assert history == expected
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())
    torch.load(file, weights_only=True)


def test_every_sample_is_seen_once_an_epoch_in_another_order():
    seen = []
    images = torch.arange(10.0).view(10, 1)
    teacher, student = nn.Linear(1, 2), nn.Linear(1, 2)

    def look(x):
        seen.append(x.flatten().tolist())
        return x

    distil(teacher, student, images, Distillation(epochs=2, batch=4), change=look)
    assert [len(part) for part in seen] == [4, 4, 2, 4, 4, 2]
    first, second = ([x for part in half for x in part] for half in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == images.flatten().tolist()
    assert first != second


def test_regression_is_imitated_by_its_values():
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 1), nn.Linear(3, 1)
    x = torch.randn(64, 3)
    history = ex.distil(
        teacher, student, (x, torch.randn(64, 1)), Distillation(labels=0.0, epochs=40, batch=16, rate=0.05)
    ).epochs
    assert history[-1].teacher < 1e-3 < history[0].teacher


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: Distillation(epochs=0), "epochs"),
        (lambda path: Distillation(labels=2), "shares"),
        (lambda path: distil(net(4, 0), net(4, 0), samples(), missing()), "teacher does not"),
        (lambda path: distil(nn.Linear(2, 3), nn.Linear(2, 4), torch.rand(8, 2)), "must be the same"),
        (lambda path: distil(nn.Linear(2, 3), nn.Linear(2, 3), (torch.rand(8, 2), torch.rand(8, 5))), "neither"),
        (lambda path: other_run(path), "other settings"),
        (lambda path: broken(path), "no distillation checkpoint"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_to_do(tmp_path, call, message):
    with pytest.raises(UsageError, match=message):
        call(tmp_path / "distil.pt")


def missing():
    return Distillation(hints=(Hint(teacher="9", student="2"),))


def other_run(path):
    distil(net(12, 1), net(6, 2), samples(), SETTINGS, checkpoint=path)
    distil(net(12, 1), net(6, 3), samples(), SETTINGS, checkpoint=path)


def broken(path):
    path.write_bytes(b"no checkpoint")
    distil(net(12, 1), net(6, 2), samples(), SETTINGS, checkpoint=path)


def test_a_teacher_whose_answers_never_change_says_them_once() -> None:
    """And the student learns the same as when it says them in every batch."""

    class Counting(nn.Linear):
        rows = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.rows += len(x)
            return super().forward(x)

    torch.manual_seed(0)
    teacher, data, settings = Counting(4, 3), torch.randn(64, 4), Distillation(epochs=3, batch=16, rate=0.05)
    students = [nn.Linear(4, 3) for _ in range(2)]
    students[1].load_state_dict(students[0].state_dict())
    once = distil(teacher, students[0], data, settings)
    assert Counting.rows == 64 + 1  # one sample tells how large an answer is
    every_time = distil(teacher, students[1], data, settings, change=lambda x: x)
    assert Counting.rows == 65 + 3 * 64
    for first, second in zip(once.epochs, every_time.epochs, strict=True):
        torch.testing.assert_close(first.loss, second.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(students[0].weight, students[1].weight, rtol=1e-4, atol=1e-6)


def test_with_labels_alone_the_teacher_is_not_asked():
    class Mute(nn.Module):
        def forward(self, x):
            raise AssertionError("asked")

    student, plain = net(6, 2), net(6, 2)
    settings = Distillation(epochs=1, batch=48, labels=1.0, rate=0.01)
    (epoch,) = distil(Mute(), student, samples(), settings).epochs
    assert (epoch.loss, epoch.teacher) == (epoch.labels, 0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), net(6, 2).parameters(), strict=True))
    assert not torch.equal(student[0].weight, plain[0].weight)


def test_what_joins_hints_is_learnt_with_the_student_and_dropped():
    """Without its own learning the map would stay random, and the hint would cost at least what is left of it."""
    torch.manual_seed(0)
    teacher, student = nn.Sequential(nn.Linear(4, 16)), nn.Sequential(nn.Linear(4, 3))
    teacher.append(nn.Linear(16, 2)), student.append(nn.Linear(3, 2))
    names = list(student.state_dict())
    settings = Distillation(
        epochs=60, batch=32, rate=0.05, labels=0.0, hints=(Hint(teacher="0", student="0"),), hints_weight=3.0
    )
    history = distil(teacher, student, torch.randn(128, 4), settings).epochs
    assert list(student.state_dict()) == names
    # three features carry at least the three largest of the four directions that sixteen have
    assert history[-1].hints < 0.3 * history[0].hints


# Under a plan


def deep(width, seed):
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1)) for _ in range(3)]
    return nn.Sequential(nn.Linear(8, width), *blocks, nn.Linear(width, 3))


LESSON = Distillation(epochs=2, batch=128, rate=0.01)
LEVERS = (
    "early-release",
    "fused-step",
    "foreach-off",
    "optimizer-in-backward",
    "micro-batches",
    "checkpoint",
)


def vectors():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(384, 8, generator=generator), torch.randint(3, (384,), generator=generator)


@pytest.fixture(scope="module")
def planner():
    """Plans for the lesson of a deep student, by the one kind of lever that they may use and a share of its peak."""
    work = distillation_workload(deep(12, 1), deep(20, 2), vectors(), LESSON)
    fitter, peak = Fit(work, calibrate=False, exact=False), ex.trace(work, calibrate=False).peak

    def plan(lever, share):
        budget = ex.Budget(bytes=int(share * peak), fixed=tuple(x for x in LEVERS if x != lever))
        return fitter.within(budget, measure=False).plan

    return plan


def taught(plan, dropout):
    """What became of a student under a plan, and the student."""
    student = deep(20, 2)
    for layer in student.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    ran = []
    for layer in student.modules():
        layer.forward = partial(recorded, ran, layer.forward)
    return distil(deep(12, 1), student, vectors(), LESSON, plan=plan), student, ran


def recorded(ran, forward, x):
    ran.append(len(x))
    return forward(x)


def test_a_student_recomputed_under_a_plan_is_the_plain_one_bit_for_bit(planner):
    plan = planner("checkpoint", 0.9)
    assert plan.fits and plan.actions and all(isinstance(action, Checkpoint) for action in plan.actions)
    (plain, first, once), (under, second, ran) = taught(None, 0.1), taught(plan, 0.1)
    assert under == plain
    assert len(ran) > len(once)  # some modules ran again
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_student_taught_in_micro_batches_is_the_plain_one_but_for_rounding(planner):
    """Without dropout, whose masks differ; the tolerance is that which `verify` has for ROUNDING in float32."""
    plan = planner("micro-batches", 0.8)
    assert plan.fits and [type(action) for action in plan.actions] == [MicroBatches]
    (plain, first, once), (under, second, ran) = taught(None, 0.0), taught(plan, 0.0)
    assert max(once) == 128 and max(ran) == 128 // plan.actions[0].pieces
    for one, other in zip(plain.epochs, under.epochs, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.labels == pytest.approx(one.labels, rel=1e-5)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * one.abs().max().item())


def test_a_plan_that_the_batches_do_not_suit_is_refused(planner):
    plan = planner("micro-batches", 0.8)
    with pytest.raises(UsageError, match="last batch of an epoch has 1 sample"):
        distil(deep(12, 1), deep(20, 2), [x[:129] for x in vectors()], LESSON, plan=plan)
    smaller = replace(plan, levers=(replace(plan.levers[0], action=SmallerBatch(size=64, rate=0.5)),))
    with pytest.raises(UsageError, match=r"Distillation\(batch=64\)"):
        distil(deep(12, 1), deep(20, 2), vectors(), LESSON, plan=smaller)


# The guard


def test_a_student_is_certified_against_its_teacher_on_samples_that_chose_nothing():
    torch.manual_seed(0)
    teacher = nn.Linear(4, 3)
    inputs = torch.randn(3_000, 4)
    labels = teacher(inputs).argmax(1)
    good, bad = nn.Linear(4, 3), nn.Linear(4, 3)
    parts = (inputs[:1_000], labels[:1_000]), (inputs[1_000:], labels[1_000:])
    settings = Distillation(epochs=30, batch=50, rate=0.1, labels=0.0)
    accepted = distil(teacher, good, parts[0], settings, certify=parts[1], tolerance=0.02).certificate
    assert accepted.decision.value == "accepted" and accepted.evidence.n == 2_000
    assert accepted.original.metric == 1 and accepted.tolerance == 0.02
    assert accepted == ex.certify(teacher, good, parts[1], tolerance=0.02)
    few = Distillation(epochs=1, batch=500, rate=1e-4)
    assert distil(teacher, bad, parts[0], few, certify=parts[1]).certificate.decision.value == "rejected"
    assert distil(teacher, bad, parts[0], few).certificate is None
    with pytest.raises(UsageError, match="those that train"):
        distil(teacher, bad, parts[0], few, certify=(inputs[:1_000].clone(), labels[:1_000]))
    with pytest.raises(UsageError, match="with targets"):
        distil(teacher, bad, parts[0], few, certify=inputs[1_000:])
