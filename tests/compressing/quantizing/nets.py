"""Small nets with the traits that quantization meets, and their exported files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from enxuto._torch_private import onnx_registry_read_once
from enxuto.compressing.silence import quietly
from enxuto.samples import Samples

CLASSES = 10


class SmallNet(nn.Module):
    """Convolutions (plain, depthwise, pointwise) with ReLU and ReLU6, pooling, and two linear layers.

    `uneven` scales the channels' weights by factors over several orders of magnitude, as folded batch norms do.
    """

    def __init__(self, uneven: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1),
                nn.ReLU6(),
                nn.Conv2d(16, 16, 3, 2, 1, groups=16),
                nn.ReLU6(),
                nn.Conv2d(16, 24, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            self.hidden = nn.Linear(24 * 16, 64)
            self.head = nn.Linear(64, CLASSES)
            with torch.no_grad():
                for layer in (self.features[0], self.features[2], self.features[4]):
                    factors = torch.exp(uneven * torch.randn(len(layer.weight)))
                    layer.weight.mul_(factors.reshape(-1, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """`[n, 3, 16, 16]` to `[n, 10]`."""
        return self.head(torch.relu(self.hidden(self.features(images).flatten(1))))


class Sequence(nn.Module):
    """An embedding and products of three axes, which export as MatMul, not Gemm; one weight of odd size."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.embedding = nn.Embedding(50, 32)
            self.norm = nn.LayerNorm(32)
            self.inner = nn.Linear(32, 67)
            self.outer = nn.Linear(67, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[n, length]` to `[n, length, 5]`."""
        return self.outer(torch.relu(self.inner(self.norm(self.embedding(tokens)))))


def images(n: int = 48, seed: int = 0) -> Samples:
    """Random images for `SmallNet`."""
    return Samples((torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2,))


def tokens(n: int = 24) -> Samples:
    """Random tokens for `Sequence`."""
    return Samples((torch.randint(50, (n, 7), generator=torch.Generator().manual_seed(0)),))


def exported(model: nn.Module, samples: Samples, path: Path) -> Path:
    """The model as an ONNX file with a free batch size."""
    with quietly(), onnx_registry_read_once():
        torch.onnx.export(
            model.eval(),
            samples.first(2).inputs,
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=tuple({0: torch.export.Dim("n")} for _ in samples.inputs),
        )
    return path


def run_onnx(path: Path, samples: Samples) -> Tensor:
    """The first output, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, samples.inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])
