"""The tuner's choice among measured settings, its order, its cache; one real search over a small chain."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enxuto.records import LatencyRatio, OnnxRuntimeFlags, PeakBasis, Quartiles, RuntimeCost

pytest.importorskip("onnxruntime", reason="the compress extra is not installed")
from enxuto.compressing.runtimes import tuning
from enxuto.compressing.runtimes.onnx_runtime import OnnxRuntime
from enxuto.compressing.runtimes.tuning import NOISE_BYTES, Grid, tune
from tests.compressing.chains import write_convolutions

X = np.zeros((1, 16, 4, 4), np.float32)
SMALL = Grid(prepacking=(True,), external_data=(False,))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return write_convolutions(tmp_path / "chain.onnx", layers=2, channels=16)


class Bench:
    """Invented measurements in place of real ones: above-base bytes and latency ratio of each setting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.asked: list[OnnxRuntimeFlags] = []
        self.compared: list[OnnxRuntimeFlags] = []
        self.random = random.Random(seed)
        self.bytes: dict[OnnxRuntimeFlags, int] = {}
        self.ratios: dict[OnnxRuntimeFlags, float] = {}
        self.fail_after = 10**9
        monkeypatch.setattr(tuning, "measure", self.measure)
        monkeypatch.setattr(tuning, "compare_latency", self.compare)

    def measure(self, path: Path, example: object, *, flags: OnnxRuntimeFlags, **_: object) -> RuntimeCost:
        if len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(flags)
        size = self.bytes.setdefault(flags, self.random.randrange(1, 40) * NOISE_BYTES)
        return RuntimeCost(
            artefact="00",
            runtime="onnxruntime",
            flags=flags,
            base_bytes=10,
            standing_bytes=10,
            load_peak_bytes=10,
            run_peak_bytes=10 + size,
            latency=Quartiles(lower=1, median=1, upper=1, runs=1),
            versions=(),
            basis=PeakBasis.KERNEL,
        )

    def compare(self, candidate: tuple[Path, OnnxRuntimeFlags], *_: object, **__: object) -> LatencyRatio:
        flags = candidate[1]
        self.compared.append(flags)
        value = self.ratios.setdefault(flags, self.random.choice([0.8, 1.0, 1.3, 2.0]))
        return LatencyRatio(
            candidate="00",
            reference="00",
            candidate_flags=flags,
            reference_flags=OnnxRuntimeFlags(),
            ratio=Quartiles(lower=value, median=value, upper=value, runs=1),
            versions=(),
        )


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_least_memory_within_both_limits(
    seed: int, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, seed)
    draw = random.Random(seed)
    ram = draw.choice([None, draw.randrange(1, 40) * NOISE_BYTES])
    limit = draw.choice([None, 0.9, 1.0, 1.5])

    tuned = tune(chain, X, ram=ram, latency_ratio=limit, grid=SMALL)

    settings = list(SMALL)
    for flags in settings:
        bench.compare((chain, flags))  # draw what the search had no need of
    allowed = [
        flags
        for flags in settings
        if (ram is None or bench.bytes[flags] <= ram) and (limit is None or bench.ratios[flags] <= limit)
    ]
    if not allowed:
        assert tuned.best is None
    else:
        assert tuned.best is not None
        assert tuned.best.flags == min(allowed, key=lambda flags: (bench.bytes[flags], settings.index(flags)))
        assert [row.chosen for row in tuned.rows].count(True) == 1
    assert {row.flags for row in tuned.rows} == set(settings)
    assert [row.cost.above_base_bytes for row in tuned.rows] == sorted(bench.bytes[f] for f in settings)
    assert tuned.default.flags == OnnxRuntimeFlags()


def test_a_difference_within_the_noise_does_not_decide(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 0)
    first, second, *others = SMALL
    bench.bytes |= {first: 4 * NOISE_BYTES + 5, second: 4 * NOISE_BYTES} | dict.fromkeys(
        others, 9 * NOISE_BYTES
    )
    best = tune(chain, X, grid=SMALL).best
    assert best is not None
    assert best.flags == first


def test_latency_is_compared_only_until_one_is_allowed(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 1)
    bench.ratios |= dict.fromkeys(SMALL, 1.0)
    tuned = tune(chain, X, latency_ratio=1.0, grid=SMALL)
    assert len(bench.compared) == 1
    assert [row.ratio is not None for row in tuned.rows] == [row.chosen for row in tuned.rows]


def test_an_interrupted_search_goes_on_where_it_was(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, 2)
    bench.fail_after = 5
    with pytest.raises(KeyboardInterrupt):
        tune(chain, X, grid=SMALL, cache=tmp_path / "cache")
    assert len(bench.asked) == 5
    bench.fail_after = 10**9
    first = tune(chain, X, grid=SMALL, cache=tmp_path / "cache")
    assert sorted(map(repr, bench.asked)) == sorted(map(repr, SMALL))  # each once, over both searches
    bench.asked.clear(), bench.compared.clear()
    assert tune(chain, X, grid=SMALL, cache=tmp_path / "cache") == first
    assert bench.asked == bench.compared == []


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes() + b"\x72\x00"),  # an empty metadata entry
        lambda path: None,
    ],
    ids=["another file", "the same file"],
)
def test_what_was_measured_belongs_to_the_file(
    change: Callable[[Path], object], chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, 3)
    tune(chain, X, grid=SMALL, cache=tmp_path / "cache")
    before, content = len(bench.asked), chain.read_bytes()
    change(chain)
    tune(chain, X, grid=SMALL, cache=tmp_path / "cache")
    assert (len(bench.asked) > before) == (chain.read_bytes() != content)


def test_a_real_search_finds_what_the_prepared_file_needs(tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "wide.onnx", layers=4, channels=256)
    x = np.zeros((1, 256, 4, 4), np.float32)
    grid = Grid(prepacking=(True,), external_data=(True,), activations=((True, True),))
    tuned = tune(path, x, grid=grid, runs=2, pairs=3)
    assert tuned.best is not None
    assert tuned.best.flags.ahead or tuned.best.flags.level.value == "extended"
    # blocked copies of 9 MiB of weights: the default holds three of each
    assert tuned.default.cost.above_base_bytes > 2 * tuned.best.cost.above_base_bytes
    OnnxRuntime().prepare(path, tuned.best.flags, tmp_path / "best.onnx")
    OnnxRuntime().load(tmp_path / "best.onnx", tuned.best.flags)(x)
