"""The laws of every runtime that is installed, on small nets; the others skip, and say so."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from enxuto.compressing.runtimes import NAMES, Runtime, runtime
from enxuto.compressing.runtimes.contract import digest, needed
from enxuto.errors import MissingDependency, UsageError
from enxuto.records import OnnxRuntimeFlags, ThreadFlags
from tests.compressing import workloads
from tests.compressing.workloads import Net, inputs

MODULES = {
    "onnxruntime": ("onnxruntime", "onnxscript"),
    "torch": ("safetensors",),
    "executorch": ("executorch",),
    "openvino": ("openvino",),
    "litert": ("litert_torch", "ai_edge_litert"),
}
SUFFIXES = {"openvino": ".xml"}
DYNAMIC = ("onnxruntime", "torch", "openvino")


def opened(name: str) -> Runtime:
    for module in MODULES[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the runtime {name} is not installed ({module} is missing)")
    return runtime(name, target=f"{workloads.__file__}:net" if name == "torch" else None)


def made() -> Net:
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.uniform_(-1, 1)  # a batch norm that does something
    net.norm.running_var.uniform_(0.5, 2)
    return net.train()


each_runtime = pytest.mark.parametrize("name", NAMES)


@each_runtime
def test_a_runtime_keeps_its_laws(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    used, net = opened(name), made()
    path = tmp_path / f"net{SUFFIXES.get(name, '')}"
    before = {key: value.clone() for key, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    capfd.readouterr()

    written = used.export(net, inputs(1), path, dynamic_batch=name in DYNAMIC)

    out, _ = capfd.readouterr()
    assert out == "" or name not in ("onnxruntime", "torch")  # native code of the others writes as it likes
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert torch.equal(generator, torch.get_rng_state())

    run = used.load(path)
    for batch in (1, 3) if name in DYNAMIC else (1,):
        given = inputs(batch)
        expected = net.eval()(*given)
        found = run(*(tensor.numpy() for tensor in given))
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)

    assert used.describe(path) == written
    assert written.file == path.name
    assert written.inputs[0].shape[1:] == (2, 6, 6)
    assert used.sha256(path) == written.sha256
    assert written.inputs[0].shape[0] == ("batch" if name in DYNAMIC else 1)
    assert written.file_bytes == sum(file.stat().st_size for file in used.files(path))
    assert written.gzip_bytes == sum(
        len(gzip.compress(file.read_bytes(), 9, mtime=0)) for file in used.files(path)
    )
    if name in ("onnxruntime", "torch"):
        again = used.export(net, inputs(1), tmp_path / "again")
        assert again.sha256 == written.sha256


@each_runtime
def test_a_torchscript_module_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    used = opened(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated; users have files of it
        script = torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    path = tmp_path / f"net{SUFFIXES.get(name, '')}"
    with pytest.raises(UsageError, match="TorchScript"):
        used.export(script, torch.zeros(1, 3), path, dynamic_batch=name in DYNAMIC)
    assert not path.exists()


def test_of_one_file_the_digest_is_sha256sums(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    assert digest([one]) == hashlib.sha256(b"x").hexdigest()
    lines = f"{hashlib.sha256(b'x').hexdigest()}  a\n{hashlib.sha256(b'y').hexdigest()}  b\n"
    assert digest([one, two]) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: runtime("tensorrt"), "unknown runtime 'tensorrt'; there are onnxruntime"),
        (lambda: runtime("torch"), "needs target="),
        (lambda: runtime("onnxruntime", target="zoo:digits_cnn"), "it alone"),
        (lambda: runtime().describe("/nowhere/net.onnx"), "no artefact at /nowhere/net.onnx"),
        (lambda: runtime().load(__file__, ThreadFlags()), "takes OnnxRuntimeFlags, not ThreadFlags"),
        (
            lambda: runtime("torch", target="zoo:digits_cnn").load(__file__, OnnxRuntimeFlags()),
            "takes ThreadFlags",
        ),
    ],
)
def test_a_wrong_call_is_told(call: Callable[[], object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        call()


def test_a_missing_runtime_says_how_to_install_it() -> None:
    with pytest.raises(MissingDependency, match="pip install a-runtime"):
        needed("a_runtime_that_is_not_there", "pip install a-runtime")


class _Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class _Unexportable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = _Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.first(x))


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def test_an_unexportable_op_is_named_with_its_module(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(UsageError, match=r"no translation of the op \S*bessel_j0, used in module 'inner'"):
        opened("onnxruntime").export(_Unexportable(), torch.rand(1, 4), path)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_branch_on_values_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"_Branching cannot be exported at .*test_runtimes\.py:\d+"):
        opened("onnxruntime").export(_Branching(), torch.rand(1, 4), tmp_path / "net.onnx")


def test_batch_norms_are_folded_by_the_export(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    opened("onnxruntime").export(made(), inputs(1), tmp_path / "net.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert "BatchNormalization" not in nodes
    assert nodes.count("Conv") == 1
