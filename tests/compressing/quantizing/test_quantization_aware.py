"""Quantization-aware fine-tuning: an 8-bit file for onnxruntime that is nearer to the teacher than it began."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from enxuto.compressing.quantizing.affine import sqnr_db
from enxuto.compressing.quantizing.coverage import cover
from enxuto.compressing.quantizing.layers import outputs_of
from enxuto.compressing.quantizing.quantization_aware import FineTuning, fine_tune_quantized
from enxuto.compressing.runtimes.onnx_runtime import int8_saturates
from enxuto.errors import UndecidableError, UsageError
from enxuto.samples import Samples
from tests.compressing.quantizing.nets import SmallNet, images, run_onnx

pytest.importorskip("torchao", reason="the extra 'compress' is not installed")


@pytest.fixture(scope="module")
def teacher() -> SmallNet:
    return SmallNet(uneven=1.0).eval()


def test_the_file_runs_at_any_batch_size_and_follows_the_teacher(teacher: SmallNet, tmp_path: Path) -> None:
    samples, before = images(64), copy.deepcopy(teacher.state_dict())
    settings = FineTuning(
        steps=12, batch_size=64, learning_rate=0.1, temperature=1.0, reduce_range=int8_saturates()
    )
    tuned = fine_tune_quantized(teacher, samples, tmp_path / "a.onnx", settings)
    assert len(tuned.losses) == 12
    assert sum(tuned.losses[-4:]) < sum(tuned.losses[:4])  # every step has all samples
    original = outputs_of(teacher, samples)
    assert sqnr_db(original, run_onnx(tmp_path / "a.onnx", samples)) > 25
    one = run_onnx(tmp_path / "a.onnx", samples.first(1))
    assert torch.allclose(one, run_onnx(tmp_path / "a.onnx", samples)[:1], atol=1e-5)
    assert cover(tmp_path / "a.onnx").quantized_ratio > 0.95
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    fine_tune_quantized(teacher, samples, tmp_path / "b.onnx", settings)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_users_loss_gets_the_users_targets(teacher: SmallNet, tmp_path: Path) -> None:
    targets = torch.arange(32) % 10
    seen: list[Tensor] = []

    def loss(output: Tensor, batch: Samples) -> Tensor:
        assert batch.targets is not None
        seen.append(batch.targets)
        return nn.functional.cross_entropy(output, batch.targets)

    settings = FineTuning(steps=2, batch_size=32)
    fine_tune_quantized(
        teacher, Samples(images(32).inputs, targets), tmp_path / "a.onnx", settings, loss=loss
    )
    assert [sorted(batch.tolist()) for batch in seen] == [sorted(targets.tolist())] * 2


class _Dependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_bad_input_is_refused(teacher: SmallNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes 32 samples"):
        fine_tune_quantized(teacher, images(8), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="at least 1 step"):
        FineTuning(batch_size=1)
    with pytest.raises(UndecidableError, match=r"torch\.export cannot follow"):
        fine_tune_quantized(_Dependent(), Samples((torch.randn(40, 4),)), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
