"""`enxuto certify` end to end: an .onnx file in onnxruntime, exit codes, the ledger beside it, a certificate again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enxuto.cli import main
from enxuto.records import Certificate, Decision, Looks, read

onnx = pytest.importorskip("onnx", reason="needs enxuto[compress]")
pytest.importorskip("onnxruntime", reason="needs enxuto[compress]")

import numpy as np  # noqa: E402
import torch  # noqa: E402

N = 1_200
OWN = f"""
import torch, enxuto as ex
from torch import nn
generator = torch.Generator().manual_seed(0)
weight = torch.randn(4, 6, generator=generator)
inputs = torch.randn({N}, 6, generator=generator)
def build():
    net = nn.Linear(6, 4, bias=False)
    net.weight.data.copy_(weight)
    return net
work = ex.Workload(model=build, batch=lambda n=None: torch.zeros(n or 1, 6), loss=lambda m, x: m(x))
def breaks(): raise ValueError("no such checkpoint")
broken = ex.Workload(model=breaks, batch=lambda n=None: torch.zeros(1, 6), loss=lambda m, x: m(x))
def data():
    return inputs, (inputs @ weight.T).argmax(1)
few = [each[:100] for each in data()]
unlabelled = inputs
numbers = (inputs, inputs @ weight.T)
def distance(outputs, targets):
    return (outputs - targets).square().sum(1)
def failing(outputs, targets): raise ValueError("their own words")
def lost(): raise ValueError("no such file")
"""


def matmul(path: Path, weight: torch.Tensor) -> None:
    """An .onnx file that multiplies by a weight."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", 6])],
        [helper.make_tensor_value_info("y", kind, ["n", 4])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net and its data, an artefact that keeps it, and one that has lost a class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    matmul(tmp_path / "good.onnx", weight + 1e-4)
    matmul(tmp_path / "bad.onnx", weight * torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None])
    return tmp_path


CERTIFY = ["certify", "own.py:work", "--data", "own.py:data"]


def test_a_faithful_artefact_is_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CERTIFY, "--model", "good.onnx", "--max-drop", "1%", "--save", "cert.json"]) == 0
    shown = capsys.readouterr()
    assert "accepted: top-1 accuracy loses at most" in shown.out and "good.onnx" in shown.out
    made = read(folder / "cert.json", expect=Certificate)
    assert made.recompute().decision is Decision.ACCEPTED
    assert (made.tolerance, made.evidence.n, made.look, made.planned) == (0.01, N, 1, 0)
    assert made.candidate.runtime.startswith("onnxruntime ") and made.candidate.files == ("good.onnx",)
    assert made.candidate.nbytes == (folder / "good.onnx").stat().st_size


def test_a_spoilt_artefact_is_rejected_and_few_samples_decide_nothing(folder: Path) -> None:
    assert main([*CERTIFY, "--model", "bad.onnx"]) == 1
    assert main(["certify", "own.py:work", "--data", "own.py:few", "--model", "good.onnx"]) == 3


def test_the_original_may_be_a_file_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "good.onnx", "--data", "own.py:data", "--model", "bad.onnx", "--json"]) == 1
    body = json.loads(capsys.readouterr().out)["body"]
    assert (body["original"]["files"], body["candidate"]["files"]) == (["good.onnx"], ["bad.onnx"])


def test_looks_are_counted_beside_the_artefact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def certified(model: str, *more: str) -> dict:
        capsys.readouterr()
        main([*CERTIFY, "--model", model, "--json", *more])
        return json.loads(capsys.readouterr().out)["body"]

    assert [certified(name)["look"] for name in ("bad.onnx", "good.onnx", "bad.onnx")] == [1, 2, 1]
    (ledger,) = folder.glob("looks-*.json")
    assert len(read(ledger, expect=Looks).seen) == 2
    (folder / "apart").mkdir()
    planned = certified("good.onnx", "--ledger", "apart", "--looks", "1")
    assert (planned["look"], planned["planned"]) == (1, 1)
    assert main([*CERTIFY, "--model", "bad.onnx", "--ledger", "apart", "--looks", "1"]) == 3
    assert "no error is left" in capsys.readouterr().err


def test_a_metric_of_the_users(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [
        "certify",
        "own.py:work",
        "--data",
        "own.py:numbers",
        "--metric",
        "own.py:distance",
        "--lower-is-better",
    ]
    assert main([*call, "--model", "good.onnx", "--max-drop", "0.001"]) == 0
    assert main([*call, "--model", "bad.onnx", "--max-drop", "0.001"]) == 1
    assert "distance, lower is better" in capsys.readouterr().out


def test_a_certificate_looked_at_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*CERTIFY, "--model", "good.onnx", "--save", "cert.json"])
    again = ["certify", "--recheck", "cert.json", "--data", "own.py:data"]
    assert main([*again, "--model", "good.onnx"]) == 0
    assert main(["certify", "own.py:work", *again[1:], "--model", "good.onnx"]) == 0
    assert "Looked at again: holds in 6 checks" in capsys.readouterr().out
    assert main([*again, "--model", "bad.onnx"]) == 1
    shown = capsys.readouterr().out
    assert "other bytes than those that were certified" in shown and "was certified" in shown
    assert main(["certify", "--recheck", "cert.json", "--data", "own.py:few"]) == 1
    assert main(["certify", "--recheck", "cert.json"]) == 0
    content = json.loads((folder / "cert.json").read_text())
    content["body"]["evidence"]["helped"] = 9
    (folder / "forged.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["certify", "--recheck", "forged.json"]) == 1
    assert "contradicts itself" in capsys.readouterr().out
    assert main(["report", "cert.json"]) == 0


BAD = [
    (["certify", "own.py:work"], 2, "certify needs the original as TARGET, --model FILE and --data"),
    ([*CERTIFY, "--model", "none.onnx"], 2, "cannot run none.onnx"),
    ([*CERTIFY, "--model", "own.py"], 2, "cannot run own.py"),
    ([*CERTIFY, "--model", "text.onnx"], 2, "onnxruntime cannot load text.onnx"),
    ([*CERTIFY, "--model", "good.onnx", "--max-drop", "much"], 2, "--max-drop is such as 1%"),
    ([*CERTIFY, "--model", "good.onnx", "--max-drop", "-1%"], 2, "a positive number, 0.01 for one point"),
    ([*CERTIFY, "--model", "good.onnx", "--max-drop", "0"], 2, "a positive number"),
    ([*CERTIFY, "--model", "good.onnx", "--metric", "own.py:distance"], 2, "say --max-drop in its units"),
    (
        [*CERTIFY, "--model", "good.onnx", "--metric", "own.py:distance", "--max-drop", "1%"],
        2,
        "the drop is a number in the metric's own units",
    ),
    ([*CERTIFY, "--model", "good.onnx", "--lower-is-better"], 2, "is said of a --metric"),
    ([*CERTIFY, "--model", "good.onnx", "--save", "none/cert.json"], 2, "there is no folder none"),
    ([*CERTIFY[:2], "--data", "own.py:unlabelled", "--model", "good.onnx"], 2, "needs labelled samples"),
    ([*CERTIFY[:2], "--data", "own.py:numbers", "--model", "good.onnx"], 2, "no classes but numbers"),
    (
        [*CERTIFY[:2], "--data", "own.py:dta", "--model", "good.onnx"],
        2,
        "own.py has no 'dta'; did you mean data",
    ),
    (
        [*CERTIFY[:2], "--data", "own.py:lost", "--model", "good.onnx"],
        4,
        "own.py:lost raised ValueError: no such file",
    ),
    (["certify", "own.py:broken", *CERTIFY[2:], "--model", "good.onnx"], 4, "no such checkpoint"),
    (
        [*CERTIFY, "--model", "good.onnx", "--metric", "own.py:failing", "--max-drop", "1"],
        4,
        "their own words",
    ),
    (["certify", "--recheck", "text.onnx"], 2, "this is no enxuto record"),
    (["certify", "--recheck", "none.json"], 2, "cannot read none.json"),
    (["certify", "--recheck", "text.onnx", "--max-drop", "2%"], 2, "--recheck takes a certificate as it is"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_is_one_message_and_no_look(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    (folder / "text.onnx").write_text("no model")
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split()) and shown.out == ""
    assert not list(folder.glob("looks-*")) and not list(folder.glob("*.json"))
