"""Distillation: its loss, its order, its checkpoints, and that it leaves the teacher and the process alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import enxuto as ex
from enxuto.compressing.distilling import Distillation, Hint, attention_loss, distil, imitation_loss
from enxuto.errors import UsageError

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


def test_attention_hints_need_no_adapter_and_see_places():
    torch.manual_seed(0)
    shown = torch.rand(2, 8, 4, 4)
    assert attention_loss(shown.repeat(1, 3, 1, 1), shown) == pytest.approx(0, abs=1e-10)
    assert attention_loss(shown.flip(-1), shown) > 1e-3
    tokens = torch.rand(2, 5, 8)
    assert attention_loss(torch.cat([tokens, tokens], -1), tokens) == pytest.approx(0, abs=1e-10)
    with pytest.raises(UsageError, match="places"):
        attention_loss(torch.rand(2, 8, 4, 4), torch.rand(2, 8, 5, 4))


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
    )
    assert distance() < 0.5 * apart
    assert len(history) == 40 and history[-1].teacher < history[0].teacher
    assert history[0].labels == 0 and history[0].hints == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.training and not student.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in (*teacher.parameters(), *student.parameters()))


def test_the_loss_is_the_sum_of_its_parts():
    epoch = distil(net(12, 1), net(6, 2), samples(), SETTINGS)[0]
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
    with pytest.raises(Stop):
        distil(net(12, 1), net(6, 2), samples(), SETTINGS, checkpoint=file, change=dying)
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
    )
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
    for first, second in zip(once, every_time, strict=True):
        torch.testing.assert_close(first.loss, second.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(students[0].weight, students[1].weight, rtol=1e-4, atol=1e-6)
