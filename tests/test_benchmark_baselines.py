"""What a user would pick instead: the rows say what the files do."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import baselines
from benchmarks.baselines import Bench, Data, Float32, OnnxruntimeInt8, Row, UniformPruning, artefact, key
from benchmarks.nets import NETS
from benchmarks.nets.models import KINDS, PICTURE, conv_bn
from benchmarks.nets.train import Recipe
from enxuto.samples import Samples

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch_pruning")


def samples(n: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(
        (torch.randn(n, *PICTURE, generator=generator),),
        torch.randint(0, KINDS, (n,), generator=generator),
    )


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = conv_bn(1, 8, stride=4, act=nn.ReLU()), nn.Flatten(), nn.Linear(8 * 7 * 7, 40), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(40, KINDS)).eval()


DATA = Data(calibrate=samples(16, 1), learn=samples(64, 2))
TEST = samples(500, 3)


@dataclass(frozen=True, slots=True)
class Broken:
    """A baseline whose tool fails, as often as `counter` counts."""

    name: ClassVar[str] = "broken"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    counter: ClassVar[list[int]] = []

    def write(self, net: nn.Module, data: Data, path: Path) -> None:
        self.counter.append(1)
        raise RuntimeError("no kernel for this")


def test_a_row_says_what_its_file_does(tmp_path: Path) -> None:
    net = small()
    with torch.no_grad():
        said = net(TEST.inputs[0]).argmax(1)
    assert TEST.targets is not None
    targets = torch.where(torch.arange(500) < 400, said, TEST.targets)  # the net is right more often than not
    right = (said == targets).numpy()

    bench = Bench(data=DATA, test=Samples(TEST.inputs, targets), folder=tmp_path)
    plain = bench.row("small", net, Float32())
    int8 = bench.row("small", net, OnnxruntimeInt8())

    path = artefact(net, OnnxruntimeInt8(), DATA, folder=tmp_path)
    content = path.read_bytes()
    assert int8.file_bytes == len(content) < plain.file_bytes / 2
    assert int8.gzip_bytes == len(gzip.compress(content, 9, mtime=0))
    assert int8.sha256 == hashlib.sha256(content).hexdigest()

    mine = baselines.logits(path, TEST, batch=7).argmax(1) == targets.numpy()
    assert (plain.n, plain.right, plain.hurt, plain.helped) == (500, right.sum(), 0, 0)
    assert (int8.n, int8.right) == (500, mine.sum())
    assert int8.hurt == (right & ~mine).sum() > (mine & ~right).sum() == int8.helped
    assert int8.accuracy == int8.right / 500

    assert bench.row("small", net, OnnxruntimeInt8()) is int8  # kept, not measured again
    assert set(bench.rows) == {key(net, Float32(), DATA), key(net, OnnxruntimeInt8(), DATA)}


def test_pruning_fine_tunes_smaller_layers_and_int8_begins_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruning = UniformPruning(0.5, Recipe(epochs=1, peak_rate=1e-3, batch=16))
    bench = Bench(data=DATA, test=TEST, folder=tmp_path)
    row = bench.row("small", net, pruning)
    assert not row.failed and row.settings["recipe"]["epochs"] == 1

    monkeypatch.setattr(UniformPruning, "pruned", lambda *_: pytest.fail("pruned and fine-tuned twice"))
    int8 = bench.row("small", net, replace(pruning, int8=True))
    assert not int8.failed
    assert int8.file_bytes < row.file_bytes < bench.row("small", net, Float32()).file_bytes
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("name", list(NETS))
def test_torch_pruning_takes_half_of_the_channels_of_every_net(name: str) -> None:
    net = NETS[name]().eval()
    smaller = UniformPruning(0.5).pruned(net, DATA.example)
    kept = sum(p.numel() for p in smaller.parameters()) / sum(p.numel() for p in net.parameters())
    # Both sides of a matrix halve; depthwise kernels, biases and the last layer have one side only.
    assert 0.25 <= kept < 0.33
    assert smaller(DATA.example).shape == (2, KINDS)


def test_what_fails_is_a_row_and_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(data=DATA, test=TEST, folder=tmp_path)
    Broken.counter.clear()
    for _ in range(2):
        row = bench.row("small", small(), Broken())
        assert row.failed == "RuntimeError: no kernel for this"
        assert (row.file_bytes, row.n) == (0, 0)
    assert len(bench.rows) == 1 and len(Broken.counter) == 2


def test_a_row_that_older_versions_gave_makes_way(tmp_path: Path) -> None:
    bench = Bench(data=DATA, test=TEST, folder=tmp_path)
    old = Row(net="small", baseline="broken", settings={}, versions={"torch": "1.0"})
    other = replace(old, net="large")
    bench.rows = {"old": old, "other": other}
    found = bench.row("small", small(), Broken())
    assert list(bench.rows.values()) == [other, found]


def test_the_key_of_a_row_hangs_on_all_that_its_file_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    net, elsewhere = small(), replace(DATA, calibrate=samples(16, 9))
    prune = UniformPruning(0.5)
    keys = {
        key(net, OnnxruntimeInt8(), DATA),
        key(small(1), OnnxruntimeInt8(), DATA),
        key(net, OnnxruntimeInt8(per_channel=False), DATA),
        key(net, OnnxruntimeInt8(), elsewhere),
        key(net, Float32(), DATA),
        key(net, prune, DATA),
        key(net, replace(prune, ratio=0.6), DATA),
        key(net, replace(prune, recipe=Recipe(epochs=9, peak_rate=0.02)), DATA),
        key(net, prune, replace(DATA, learn=samples(64, 9))),
    }
    assert len(keys) == 9
    assert key(small(), OnnxruntimeInt8(), DATA) == key(net, OnnxruntimeInt8(), DATA)
    monkeypatch.setattr(baselines.metadata, "version", lambda _: "next")
    assert key(net, Float32(), DATA) not in keys


def test_rows_come_back_from_json_as_they_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setattr(baselines, "RESULTS", tmp_path / "rows.json")
    row = Row(
        net="small", baseline="b", settings={"per_channel": True}, versions={"torch": "2"}, n=4, right=3
    )
    Bench(data=DATA, test=TEST, rows={"k": row}).save()
    content: dict[str, Any] = json.loads((tmp_path / "rows.json").read_text())
    assert {own: Row(**kept) for own, kept in content["rows"].items()} == {"k": row}
    assert asdict(row) == content["rows"]["k"]
    assert content["machine"]["torch"]


def test_words_choose_baselines() -> None:
    every = (*baselines.POST_TRAINING, *baselines.PRUNING)
    assert baselines.chosen(every, []) == list(every)
    assert [b.name for b in baselines.chosen(every, ["nncf", "weight-only"])] == [
        "torchao int8 weight-only",
        "nncf int8",
    ]
    assert len({b.name for b in every}) == len(every)


def test_a_missing_nncf_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if baselines.metadata.packages_distributions().get("nncf"):
        pytest.skip("nncf is installed here")
    monkeypatch.delenv("ENXUTO_NNCF_PYTHON", raising=False)
    row = Bench(data=DATA, test=TEST, folder=tmp_path).row("small", small(), baselines.NncfInt8())
    assert "No module named 'nncf'" in row.failed and row.versions["nncf"] == "missing"


def test_logits_are_those_of_the_net(tmp_path: Path) -> None:
    net = small()
    path = artefact(net, Float32(), DATA, folder=tmp_path)
    with torch.no_grad():
        expected = net(TEST.inputs[0]).numpy()
    np.testing.assert_allclose(baselines.logits(path, TEST, batch=33), expected, rtol=0, atol=1e-5)
