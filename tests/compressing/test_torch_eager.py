"""The runtime torch: a pruned, factorised, folded net from the user's model function, JSON and safetensors alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn

from enxuto.architectures import resnet18
from enxuto.compressing.runtimes import runtime
from enxuto.errors import UsageError
from tests.compressing import workloads

pytest.importorskip("safetensors", reason="the compress extra is not installed")
from enxuto.compressing.runtimes import torch_eager
from enxuto.compressing.runtimes.torch_eager import TorchEager

TARGET = f"{workloads.__file__}:classifier"


def narrowed(seed: int) -> nn.Module:
    """The classifier with random widths, as pruning leaves it: tensors and settings change in place."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    net, came = workloads.Classifier(), 1
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for conv, norm in zip(convolutions, norms, strict=True):
        kept = draw.randint(1, conv.out_channels)
        conv.weight = nn.Parameter(conv.weight.detach()[:kept, :came].clone())
        conv.in_channels, conv.out_channels = came, kept
        if conv.bias is not None:
            conv.bias = nn.Parameter(conv.bias.detach()[:kept].clone())
        norm.num_features = kept
        for name in ("weight", "bias"):
            setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[:kept].clone()))
        norm.running_mean, norm.running_var = (
            norm.running_mean[:kept],
            norm.running_var[:kept] + draw.random(),
        )
        came = kept
    rank = draw.randint(1, 8)
    net.classifier = nn.Sequential(nn.Linear(came * 16, rank, bias=False), nn.Linear(rank, 10))
    return net


@pytest.mark.parametrize("seed", range(5))
def test_any_narrowed_and_factorised_net_comes_back_to_the_bit(seed: int, tmp_path: Path) -> None:
    net, images = narrowed(seed), torch.rand(3, 1, 8, 8)
    TorchEager(TARGET).export(net, images, tmp_path / "net")
    again = TorchEager(TARGET).module_of(tmp_path / "net")
    assert torch.equal(again(images), net.eval()(images))
    assert [(n, p.shape) for n, p in again.named_parameters()] == [
        (n, p.shape) for n, p in net.named_parameters()
    ]


def test_it_loads_in_a_fresh_process(tmp_path: Path) -> None:
    net, images = narrowed(7), torch.rand(2, 1, 8, 8)
    TorchEager(TARGET).export(net, images, tmp_path / "net")
    np.save(tmp_path / "x.npy", images.numpy())
    code = (
        "import sys, numpy as np\n"
        "from enxuto.compressing.runtimes import runtime\n"
        f"run = runtime('torch', target={TARGET!r}).load(sys.argv[1] + '/net')\n"
        "np.save(sys.argv[1] + '/y.npy', run(np.load(sys.argv[1] + '/x.npy'))[0])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    with torch.inference_mode():
        np.testing.assert_allclose(
            np.load(tmp_path / "y.npy"), net.eval()(images).numpy(), rtol=1e-5, atol=1e-6
        )


def test_the_originals_weights_never_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = resnet18(num_classes=3)
    small = TorchEager("zoo:resnet18?classes=3")
    small.export(net, torch.rand(1, 3, 32, 32), tmp_path / "net")
    seen: list[torch.device] = []
    build = torch_eager._skeleton
    monkeypatch.setattr(
        torch_eager,
        "_skeleton",
        lambda target: (m := build(target), seen.extend(p.device for p in m.parameters()))[0],
    )
    small.module_of(tmp_path / "net")
    assert {device.type for device in seen} == {"meta"}


def test_a_changed_forward_is_refused(tmp_path: Path) -> None:
    net = narrowed(1)
    net.forward = MethodType(lambda self, x: 2 * self.classifier(self.features(x).flatten(1)), net)  # type: ignore
    with pytest.raises(UsageError, match="computes something else"):
        TorchEager(TARGET).export(net, torch.rand(1, 1, 8, 8), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_module_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    net = narrowed(1)
    net.classifier[0] = nn.Bilinear(2, 2, 2)
    with pytest.raises(UsageError, match=r"'classifier.0' is a Bilinear"):
        torch_eager.differences(torch_eager._skeleton(TARGET), net)


def test_an_artefact_never_chooses_the_code(tmp_path: Path) -> None:
    TorchEager(TARGET).export(narrowed(2), torch.rand(1, 1, 8, 8), tmp_path / "net")
    with pytest.raises(UsageError, match="never chooses which code"):
        runtime("torch", target="zoo:digits_cnn").load(tmp_path / "net")


def test_weights_of_another_export_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        TorchEager(TARGET).export(narrowed(seed), torch.rand(1, 1, 8, 8), tmp_path / str(seed))
    (tmp_path / "1" / "model.safetensors").write_bytes((tmp_path / "2" / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match=r"is not the file that architecture.json was written with"):
        runtime("torch", target=TARGET).load(tmp_path / "1")


def test_the_architecture_is_plain_json(tmp_path: Path) -> None:
    TorchEager(TARGET).export(narrowed(3), torch.rand(1, 1, 8, 8), tmp_path / "net")
    architecture = json.loads((tmp_path / "net" / "architecture.json").read_bytes())
    assert architecture["target"] == TARGET
    assert architecture["changes"]["classifier"] == {"type": "made", "of": "Sequential", "arguments": {}}
