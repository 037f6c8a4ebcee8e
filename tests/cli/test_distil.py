"""`enxuto distil` end to end: what it writes, that it goes on, its exit codes, and what a typo gives."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from torch import nn

import enxuto.fitting
from enxuto.cli import main
from enxuto.records import Certificate, Decision, read

safetensors = pytest.importorskip("safetensors.torch", reason="needs enxuto[compress]")

OWN = """
import torch, enxuto as ex
from torch import nn
generator = torch.Generator().manual_seed(0)
inputs = torch.randn(4_000, 8, generator=generator)
weight = torch.randn(3, 8, generator=generator)
def fat():
    net = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Linear(64, 3, bias=False))
    net[0].weight.data.copy_(torch.eye(64, 8))
    net[1].weight.data.zero_()[:, :8] = weight
    return net
parts = dict(batch=lambda n=None: torch.zeros(n or 8, 8), loss=lambda m, x: m(x).sum())
def work(model): return ex.Workload(model=model, **parts)
teacher, lean = work(fat), work(lambda: nn.Linear(8, 3))
blind = work(lambda: nn.Sequential(nn.Linear(8, 1), nn.Linear(1, 3)))
def breaks(x): raise ValueError("their own words")
data = inputs, (inputs @ weight.T).argmax(1)
apart = torch.flip(inputs, [0])[:1_500], data[1].flip(0)[:1_500]
few = data[0][:40], data[1][:40]
"""
USUAL = ["--data", "own.py:data", "--epochs", "6", "--batch", "100", "--rate", "0.05", "--labels", "0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distil(*options: str, student: str = "own.py:lean") -> int:
    return main(["distil", "own.py:teacher", student, *options])


def test_a_student_is_taught_certified_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distil(*USUAL, "--max-drop", "2%", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    made = read(folder / "distilled" / "certificate.json", expect=Certificate)
    assert made.decision is Decision.ACCEPTED and made.evidence.n == 1_000  # a quarter was kept
    assert shown == json.loads((folder / "distilled" / "certificate.json").read_text())
    student = nn.Linear(8, 3)
    student.load_state_dict(safetensors.load_file(folder / "distilled" / "student.safetensors"))
    # run again, it goes on from its checkpoint and ends with the same bytes
    kept = (folder / "distilled" / "student.safetensors").read_bytes()
    checkpoint = (folder / "distilled" / "distil.pt").read_bytes()
    assert distil(*USUAL, "--max-drop", "2%") == 0
    assert "accepted" in capsys.readouterr().out
    assert (folder / "distilled" / "student.safetensors").read_bytes() == kept
    assert (folder / "distilled" / "distil.pt").read_bytes() == checkpoint
    assert distil(*USUAL, "--seed", "1") == 2
    assert "other settings" in capsys.readouterr().err


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--certify", "own.py:apart"]
    assert distil(*USUAL, *own, "-o", "blind", student="own.py:blind") == 1
    assert read(folder / "blind" / "certificate.json", expect=Certificate).evidence.n == 1_500
    assert distil(*USUAL, "--certify", "own.py:few", "-o", "few") == 3
    assert distil(*USUAL, *own, "--change", "own.py:breaks", "-o", "breaks") == 4
    assert "their own words" in capsys.readouterr().err
    assert distil() == 2 and "--data" in capsys.readouterr().err
    assert distil(*USUAL, "--certify", "own.py:data") == 2  # it would certify what it learnt by heart


def test_a_budget_is_kept_or_nothing_is_taught(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        enxuto.fitting, "fit", partial(enxuto.fitting.fit, calibrate=False)
    )  # seconds, not bytes
    assert distil(*USUAL, "--max-drop", "2%", "--budget", "1KiB", "-o", "small") == 1
    assert "infeasible" in capsys.readouterr().out
    assert not (folder / "small").exists()
    assert distil(*USUAL, "--max-drop", "2%", "--budget", "40KiB", "-o", "small") == 0
