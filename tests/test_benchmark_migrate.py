"""The migration benchmark: what its results promise, and that the weights kept beside them are the student's."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.migrate import ALONE, RESULT, RUNS, SETTINGS, TAUGHT, TEACHER, WEIGHTS
from benchmarks.nets import fashion
from benchmarks.nets.models import KINDS, PICTURE, squeezenet_style
from benchmarks.nets.train import accuracy
from benchmarks.tables import migrate_table

safetensors = pytest.importorskip("safetensors.torch", reason="needs enxuto[compress]")
CONTENT = json.loads(RESULT.read_text())
SIZES = {size["net"]: size for size in CONTENT["sizes"]}
STUDENTS = {student["run"]: student for student in CONTENT["students"]}


def student() -> torch.nn.Module:
    net = squeezenet_style()
    net.load_state_dict(safetensors.load_file(WEIGHTS))
    return net.eval()


def test_the_student_is_lean_in_its_file_and_in_training_and_certified() -> None:
    fat, lean = SIZES[TEACHER], SIZES["squeezenet_style"]
    assert fat["file"] >= 5 * lean["file"]
    assert fat["sgd"] >= 1.5 * lean["sgd"] and fat["adamw"] >= 1.5 * lean["adamw"]
    assert STUDENTS[TAUGHT]["decision"] == "accepted" and STUDENTS[TAUGHT]["upper_drop"] <= 0.01
    assert lean["parameters"] == sum(p.numel() for p in squeezenet_style().parameters())


def test_both_students_learnt_alike_but_for_the_teacher() -> None:
    assert RUNS[TAUGHT] is SETTINGS and RUNS[ALONE].labels == 1
    assert {len(STUDENTS[run]["epochs"]) for run in RUNS} == {SETTINGS.epochs}
    assert all(epoch["teacher"] == 0 for epoch in STUDENTS[ALONE]["epochs"])


def test_a_leaner_file_may_take_more_to_train() -> None:
    """The lesson of the table: MobileNet's file is the smallest, and its training peak the highest."""
    assert min(SIZES.values(), key=lambda size: size["file"])["net"] == "mobilenet_style"
    assert max(SIZES.values(), key=lambda size: size["sgd"])["net"] == "mobilenet_style"


def test_the_table_says_what_the_results_say() -> None:
    lines = migrate_table().splitlines()
    (taught,) = [line for line in lines if line.startswith("| squeezenet_style, taught")]
    assert f"| {STUDENTS[TAUGHT]['accuracy']:.2%} |" in taught and "accepted" in taught
    assert len(lines) == 2 + 1 + len(RUNS) + len(SIZES) - 2 + 2


def test_the_student_maps_any_batch_to_logits() -> None:
    batch = torch.randn(3, *PICTURE)
    with torch.no_grad():
        logits = student()(batch)
        torch.testing.assert_close(logits[1:2], student()(batch[1:2]), rtol=0, atol=1e-5)
    assert logits.shape == (3, KINDS)


@pytest.mark.skipif(not fashion.available(), reason="apt-get install dataset-fashion-mnist")
def test_the_weights_are_as_good_as_the_results_say() -> None:
    said = STUDENTS[TAUGHT]["accuracy"]
    found = accuracy(student(), fashion.test().first(1_000))
    assert abs(found - said) <= 4 * math.sqrt(said * (1 - said) / 1_000)
