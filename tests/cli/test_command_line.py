"""Bad input gives one clear message and the documented exit code; good input what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enxuto.cli import main

NET = """
import torch, enxuto as ex
from torch import nn
def build(loss=lambda m, x: m(x).sum(), batch=lambda n=None: torch.zeros(n or 2, 4)):
    return ex.Workload(model=lambda: nn.Linear(4, 2), batch=batch, loss=loss,
                       optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
work = build()
def fails(m, x): raise ValueError("their own words")
broken = build(fails)
matrix = build(lambda m, x: m(x))
elsewhere = build(batch=lambda n=None: torch.zeros(2, 4, device="meta"))
number = 3
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["explain", "gone.py:work"], 2, "there is no file gone.py"),
        (["explain", "net.py:wrok"], 2, "did you mean work"),
        (["explain", "net.py"], 2, "needs a name"),
        (["explain", "net.py:number"], 2, "is a int, not an enxuto.Workload"),
        (["explain", "net.py:matrix"], 2, "must return a scalar tensor"),
        (["explain", "net.py:elsewhere"], 2, "the batch is on meta and the model on cpu"),
        (["explain", "net.py:broken"], 4, "their own words"),
        (["explain", "zoo:resnet81"], 2, "did you mean resnet18"),
        (["explain", "zoo:lstm?batch=nan"], 2, "must be a positive whole number"),
        (["explain", "zoo:lstm?bacth=3"], 2, "did you mean batch?"),
        (["explain", "net.py:work", "--html", "no/such/x.html"], 2, "there is no folder"),
        (["explain", "net.py:work", "--world", "moon"], 2, "--world is one of"),
        (["explain"], 2, "what shall be explained?"),
        (["explian"], 2, "No such command"),
        (["report", "corrupt.json"], 2, "is no enxuto record"),
        (["report", "future.json"], 2, "format version 99"),
    ],
)
def test_bad_input(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (net / "corrupt.json").write_text("{")
    (net / "future.json").write_text('{"kind": "explanation", "version": 99, "body": {}}')
    before = sorted(net.iterdir())
    assert main(arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert [p for p in sorted(net.iterdir()) if p.suffix != "" and "cache" not in p.name] == before


def test_json_goes_to_stdout_alone_and_files_can_be_reported(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "net.py:work", "--json", "--save", "a.json", "--html", "a.html"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((net / "a.json").read_text())
    assert sum(share["nbytes"] for share in printed["body"]["shares"]) == printed["body"]["peak"]
    assert main(["report", "a.json"]) == 0
    assert "Receipt at the peak" in capsys.readouterr().out
    assert main(["explain", "--diff", "a.json", "a.json"]) == 0
