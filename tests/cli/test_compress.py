"""`enxuto compress` from the command line: what it writes, its exit codes, and what a typo gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enxuto.cli import main
from enxuto.records import Compressed, Scheme, from_json

pytest.importorskip("onnxruntime")

WORK = """
import torch
from torch import nn
import enxuto as ex

torch.manual_seed(0)
labels = torch.randint(4, (3000,))
inputs = torch.randn(3000, 16) + 4 * nn.functional.one_hot(labels, 16)

def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[:300]), labels[:300]).backward()
        optimizer.step()
    return net

def broken():
    raise RuntimeError("the weights are lost")

parts = dict(batch=lambda n=None: inputs[: n or 8], loss=lambda m, x: m(x).sum())
work = ex.Workload(model=model, name="blobs", **parts)
lost = ex.Workload(model=broken, **parts)
samples = inputs, labels
few = inputs[:200], labels[:200]
unlabelled = inputs
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: str) -> int:
    return main(["compress", "train.py:work", "--epochs", "1", *options])


def test_a_network_within_its_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("--data", "train.py:samples", "--file", "3kB", "--max-drop", "2%", "-o", "small", "--json")
    found = from_json(capsys.readouterr().out, expect=Compressed)
    assert code == 0
    assert found.artefact is not None
    assert found.artefact.file_bytes <= 3000
    assert found.workload == "blobs"
    assert found.samples == (300, 900, 1800)
    assert (folder / "small" / "model.onnx").stat().st_size == found.artefact.file_bytes
    assert json.loads((folder / "small" / "certificate.json").read_text())["kind"] == "certificate"


def test_the_card_says_what_it_became(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", "train.py:samples", "--file", "3kB", "--max-drop", "2%", "--html", "page.html") == 0
    shown = capsys.readouterr().out
    for expected in ("blobs", "int8", "accepted"):
        assert expected in shown
    assert "<html" in (folder / "page.html").read_text()


def test_agreement_needs_no_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", "train.py:unlabelled", "--agreement", "--file", "3kB", "--max-drop", "2%", "--json")
    assert run(*options) == 0
    found = from_json(capsys.readouterr().out, expect=Compressed)
    assert (found.original.metric, found.original.agreement) == (1.0, 1.0)


def test_prune_only_rounds_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("--data", "train.py:samples", "--prune-only", "--file", "6kB", "--max-drop", "2%", "--json") == 0
    )
    found = from_json(capsys.readouterr().out, expect=Compressed)
    made = [row.settings.recipe.default for row in found.candidates if row.settings]
    assert made and set(made) == {Scheme.FLOAT32}


def test_what_nothing_keeps_is_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", "train.py:samples", "--file", "100", "--max-drop", "2%", "--time-limit", "1") == 1
    assert "100 B" in capsys.readouterr().out
    assert not (folder / "compressed" / "model.onnx").exists()


def test_too_few_samples_are_exit_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", "train.py:few", "--file", "3kB") == 3
    assert "undecidable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--data"),
        (("--data", "train.py:nothing"), "nothing"),
        (("--data", "train.py:unlabelled"), "labelled"),
        (("--data", "train.py:samples", "--file", "4 apples"), "apples"),
        (("--data", "train.py:samples", "--file", "-3"), "-3"),
        (("--data", "train.py:samples", "--max-drop", "much"), "much"),
        (("--data", "train.py:samples", "--metric", "train.py:model"), "--max-drop"),
        (("--data", "train.py:samples", "--max-latency", "-1"), "-1"),
    ],
)
def test_a_typo_says_what_to_do(
    options: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) == 2
    assert said in capsys.readouterr().err


def test_the_user_s_own_error_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "train.py:lost", "--data", "train.py:samples"]) == 4
    assert "the weights are lost" in capsys.readouterr().err
