"""The benchmark of published nets: paddings, tones and masks by their definitions, and rows of a net of our own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("onnxruntime")
from benchmarks import imagenet, pretrained, texts, tones
from benchmarks.baselines import OnnxruntimeInt8, artefact
from benchmarks.pretrained import Row, Task, keep, rows_of
from enxuto.samples import Samples, Splits


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [8, 14])
def test_padding_of_stride_2_is_tensorflow_s(kernel: int, size: int) -> None:
    """SAME: ceil(n / 2) outputs, and of what that needs the smaller half comes first."""
    torch.manual_seed(kernel)
    conv, x = nn.Conv2d(2, 3, kernel, 2, kernel // 2), torch.randn(1, 2, size, size)
    needed = (math.ceil(size / 2) - 1) * 2 + kernel - size
    first, last = needed // 2, needed - needed // 2
    expected = F.conv2d(F.pad(x, (first, last) * 2), conv.weight, conv.bias, stride=2)
    assert torch.equal(imagenet._padded_as_tensorflow(conv)(x), expected)


def test_pictures_are_rescaled_from_their_colours() -> None:
    colours = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(each)[:, None, None] for each in (imagenet.MEAN, imagenet.STD))
    found = imagenet.rescaled(Samples(((colours - mean) / std,), torch.tensor([1, 2])))
    torch.testing.assert_close(found.inputs[0], (colours - 0.498) / 0.502)
    assert found.targets is not None and found.targets.tolist() == [1, 2]


def test_a_tone_s_target_is_its_pitch() -> None:
    """The fundamental is the loudest line of the spectrum; a bin is 15.6 Hz wide."""
    samples = tones.tones(200, seed=5)
    (frames,), targets = samples.inputs, samples.targets
    assert targets is not None
    assert torch.allclose(frames.mean(1), torch.zeros(200), atol=1e-5)
    hertz = 10 * 2 ** ((targets * tones.CENTS + tones.LOWEST) / 1200)
    assert 59 < hertz.min() < hertz.max() < 1012
    line = (hertz * tones.WINDOW / tones.RATE).round().long()
    spectrum = torch.fft.rfft(frames).abs()
    near = torch.stack([spectrum[row, max(0, at - 2) : at + 3].max() for row, at in enumerate(line)])
    assert (near > 5 * spectrum.median(1).values).double().mean() > 0.95
    assert tones.tones(3, seed=1).fingerprint != tones.tones(3, seed=2).fingerprint


def test_a_quarter_tone_is_two_bins() -> None:
    outputs = F.one_hot(torch.tensor([10, 12, 8, 13, 7]), tones.BINS).double()
    assert tones.within_50_cents(outputs, torch.full((5,), 10)).tolist() == [1, 1, 1, 0, 0]


def test_words_that_are_not_there_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "WORDS", 50)
    torch.manual_seed(0)
    net = texts.Topics(topics=3).eval()
    ids = torch.randint(1, 50, (2, 6))
    with torch.no_grad():
        alone, padded = net(ids), net(F.pad(ids, (0, 5)))
    torch.testing.assert_close(alone, padded, rtol=0, atol=1e-5)
    assert torch.allclose(net.embed(ids).norm(dim=1), torch.ones(2), atol=1e-5)


@dataclass(frozen=True)
class Failing:
    name: ClassVar[str] = "failing"
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def write(self, *_: Any) -> None:
        raise RuntimeError("no kernel for this")


def test_rows_of_a_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 6)).eval()
    inputs = torch.randn(2000, 64)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    parts = [Samples((inputs[a:b],), labels[a:b]) for a, b in ((0, 300), (300, 1000), (1000, 2000))]
    task = Task(
        name="small",
        net=net,
        splits=Splits(calibrate=parts[0], choose=parts[1], certify=parts[2]),
        tolerance=0.1,
        smaller=2.5,
        photos=parts[1].first(20),
    )
    monkeypatch.setattr(pretrained, "BASELINES", (OnnxruntimeInt8(), Failing()))
    monkeypatch.setattr(pretrained, "RESULT", tmp_path / "rows.json")
    monkeypatch.setattr(pretrained, "artefact", partial(artefact, folder=tmp_path / "kept"))
    rows = list(rows_of(task, tmp_path))
    for row in [*rows, rows[1]]:
        keep(row)
    plain, ours, theirs, failed = rows
    assert [row.method for row in rows] == ["float32", "enxuto", "onnxruntime int8 per channel", "failing"]
    assert (plain.ratio, plain.metric, plain.agreement, plain.photos) == (1.0, 1.0, 1.0, 20)
    assert ours.decision == "accepted" and ours.ratio >= 2.5 and ours.settings
    assert ours.metric == ours.agreement and theirs.metric == theirs.agreement > 0.9
    assert theirs.file_bytes < plain.file_bytes / 2
    assert failed.failed == "RuntimeError: no kernel for this" and failed.file_bytes == 0
    known = pretrained.json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [Row(**row) for row in known] == [plain, theirs, failed, ours]  # an older row makes way
