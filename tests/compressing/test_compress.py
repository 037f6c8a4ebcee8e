"""`compress` end to end on real digits: limits, certificates, resuming, determinism, and what cannot be done."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import enxuto as ex
from enxuto.compressing import Effort, answered_by, compress, compression, levels, search
from enxuto.compressing.distilling import Distillation
from enxuto.compressing.making import Making
from enxuto.compressing.runtimes.tuning import Grid
from enxuto.compressing.search import Search
from enxuto.errors import EnxutoError, UsageError, UserCodeError
from enxuto.records import (
    Candidate,
    Compressed,
    Coverage,
    CutKind,
    Decision,
    Limits,
    OptimizationLevel,
    Quartiles,
    Recipe,
    Repair,
    Scheme,
    Settings,
    read,
)
from enxuto.samples import Samples, Splits
from examples.digits import load_digits

pytest.importorskip("onnxruntime")

QUICK = Effort(
    step=0.4, least=0.3, refine=0, distillation=Distillation(epochs=1), spared=(), fine_tune=False, pairs=3
)

DEEPER = replace(QUICK, least=0.1)  # pruning ends above it on any machine, so that low rank is tried

PARTS = ("calibrate", "choose", "certify")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2)
        self.hidden = nn.Linear(16 * 36, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.last(F.relu(self.hidden(x.flatten(1))))


@cache
def digits() -> Splits:
    images, labels = load_digits()
    parts = [Samples((images[a:b],), labels[a:b]) for a, b in ((0, 1500), (1500, 2500), (2500, 5000))]
    return Splits(calibrate=parts[0], choose=parts[1], certify=parts[2])


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model, data = Small(), digits().calibrate
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in data.batches(64):
            optimizer.zero_grad()
            F.cross_entropy(model(*batch.inputs), batch.targets).backward()
            optimizer.step()
    return model.eval()


def made(row: Candidate) -> Candidate:
    """A row without what is timed and measured."""
    return replace(row, latency=None, ram_bytes=0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, Path]:
    out = tmp_path_factory.mktemp("compressed")
    return compress(trained(), digits(), out=out, limits=Limits(max_drop=0.03), effort=DEEPER), out


def test_what_is_chosen_is_small_and_certified(found: tuple[Compressed, Path]) -> None:
    compressed, out = found
    artefact, certificate = compressed.artefact, compressed.certificate
    assert artefact is not None
    assert certificate is not None
    assert certificate.decision is Decision.ACCEPTED
    assert artefact.file_bytes * 3 < compressed.original.file_bytes
    assert artefact.covered_ratio > 0.9
    assert artefact.refused == ""
    assert all(row.refused for row in compressed.candidates if row not in (compressed.original, artefact))
    assert certificate.data == digits().certify.fingerprint
    assert certificate.candidate.sha256 == artefact.sha256
    assert (out / "model.onnx").stat().st_size == artefact.file_bytes


def test_the_shipped_file_gives_the_certificate_again(found: tuple[Compressed, Path]) -> None:
    from enxuto.compressing.runtimes import runtime
    from enxuto.verifying import Runnable, recheck

    compressed, out = found
    run = runtime().load(out / "model.onnx")
    candidate = Runnable(
        run=lambda *x: run(*(each.numpy() for each in x))[0],
        runtime="onnxruntime",
        files=(out / "model.onnx",),
    )
    certificate = ex.read(out / "certificate.json")
    assert certificate == compressed.certificate
    assert recheck(certificate, data=digits().certify, original=trained(), candidate=candidate).holds
    assert read(out / "compressed.json") == compressed


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = Small().train()
    model.load_state_dict(trained().state_dict())
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    compress(model, digits(), out=tmp_path, limits=Limits(file=2000), effort=replace(QUICK, least=0.9))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_search_goes_on_from_the_first(
    found: tuple[Compressed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed, out = found
    monkeypatch.setattr(levels, "distil", lambda *_, **__: pytest.fail("taught again"))
    again = compress(trained(), digits(), out=out, limits=Limits(max_drop=0.03), effort=DEEPER)
    assert replace(again, seconds=0.0) == replace(compressed, seconds=0.0)


def test_a_search_that_was_stopped_ends_like_one_that_was_not(
    found: tuple[Compressed, Path], tmp_path: Path
) -> None:
    def stop(line: str) -> None:
        if line.startswith("making 40"):
            raise KeyboardInterrupt

    options = {"out": tmp_path, "limits": Limits(max_drop=0.03), "effort": DEEPER}
    with pytest.raises(KeyboardInterrupt):
        compress(trained(), digits(), progress=stop, **options)
    assert not (tmp_path / "model.onnx").exists()
    ended = compress(trained(), digits(), **options)
    assert [made(row) for row in ended.candidates] == [made(row) for row in found[0].candidates]
    assert ended.chosen == found[0].chosen


def test_a_memory_limit_is_kept_by_the_runtime_s_settings(
    found: tuple[Compressed, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships is the file that those settings ask for, and the certificate is about that file."""
    few = Grid(
        levels=(OptimizationLevel.ALL,),
        external_data=(False,),
        prepacking=(True,),
        activations=((True, False),),
    )
    monkeypatch.setattr(compression, "Grid", lambda **_: few)
    plain = found[0].candidates[1]
    limits = Limits(ram=plain.ram_bytes * 9 // 10, max_drop=0.03)
    compressed = compress(trained(), digits(), out=tmp_path, limits=limits, effort=replace(QUICK, least=0.9))
    artefact, certificate = compressed.artefact, compressed.certificate
    assert artefact is not None
    assert certificate is not None
    assert artefact.flags != plain.flags
    assert artefact.ram_bytes <= limits.ram < plain.ram_bytes
    assert certificate.candidate.sha256 == artefact.sha256
    assert (tmp_path / "model.onnx").stat().st_size == artefact.file_bytes


def test_another_search_in_the_folder_takes_the_old_artefact_away(tmp_path: Path) -> None:
    effort = replace(QUICK, least=0.9)
    kept = compress(trained(), digits(), out=tmp_path, limits=Limits(max_drop=0.03), effort=effort)
    assert kept.artefact is not None
    assert (tmp_path / "README.md").exists()
    none = compress(trained(), digits(), out=tmp_path, limits=Limits(file=100, max_drop=0.03), effort=effort)
    assert none.artefact is None
    assert not (tmp_path / "model.onnx").exists()


def test_limits_that_nothing_keeps_are_an_answer(tmp_path: Path) -> None:
    limits = Limits(file=2000, max_drop=0.03)
    compressed = compress(trained(), digits(), out=tmp_path, limits=limits, effort=replace(QUICK, least=0.5))
    assert compressed.chosen == -1
    assert compressed.artefact is None
    assert {row.refused for row in compressed.candidates[1:]} == {"the file is too large"}
    assert not (tmp_path / "model.onnx").exists()


def test_each_candidate_says_which_limit_it_breaks(tmp_path: Path) -> None:
    limits = Limits(file=16_000, max_drop=0.06)
    effort = replace(QUICK, distillation=Distillation(epochs=4))
    compressed = compress(trained(), digits(), out=tmp_path, limits=limits, effort=effort)
    assert compressed.artefact is not None
    assert compressed.artefact.file_bytes <= 16_000 < compressed.candidates[1].file_bytes
    assert compressed.candidates[1].refused == "the file is too large"


def test_limits_stop_the_search_where_they_are_kept(tmp_path: Path) -> None:
    """Without pruning 8 bits are enough, and keep more quality than anything smaller."""
    limits = Limits(file=40_000, max_drop=0.03)
    compressed = compress(trained(), digits(), out=tmp_path, limits=limits, effort=QUICK)
    assert [row.settings.kept_ratio for row in compressed.candidates[1:] if row.settings] == [1.0]
    assert compressed.chosen == 1


def test_large_linear_layers_are_tried_in_4_bits_and_low_rank(found: tuple[Compressed, Path]) -> None:
    """`hidden` holds nearly all parameters; `last` is too small to pay."""
    whole = [row for row in found[0].candidates if row.settings and not row.settings.cuts]
    eight, *four = whole
    assert four
    for row in four:
        assert row.settings is not None
        assert [(o.name, o.scheme) for o in row.settings.recipe.overrides] == [
            ("hidden.weight", Scheme.WEIGHT4)
        ]
        # half of its bytes, but for scales: 4 bytes for each block of 32, or for each of 32 channels
        assert eight.weight_bytes - 9216 <= row.weight_bytes <= eight.weight_bytes - 9216 + 2500
        assert row.file_bytes < eight.file_bytes
    kinds = {row.settings.cuts[-1].kind for row in found[0].candidates if row.settings and row.settings.cuts}
    assert kinds == {CutKind.PARAMETERS, CutKind.LOW_RANK}
    assert not any("not tried" in note for note in found[0].notes)


def test_a_net_without_large_linear_layers_says_what_was_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_LARGE", 20_000)
    compressed = compress(
        trained(), digits(), out=tmp_path, limits=Limits(max_drop=0.03), effort=replace(QUICK, least=0.9)
    )
    assert "low rank and 4 bits: not tried, large linear layers hold 0% of the parameters" in compressed.notes
    assert all(not row.settings.recipe.overrides for row in compressed.candidates if row.settings)


def test_a_step_that_does_not_fit_the_network_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(self: Making, model: nn.Module, settings: Settings, path: Path) -> Coverage:
        if settings.recipe.overrides:
            raise EnxutoError("onnxruntime could not quantize this graph")
        return made_by(self, model, settings, path)

    made_by = Making.make
    monkeypatch.setattr(Making, "make", make)
    compressed = compress(
        trained(), digits(), out=tmp_path, limits=Limits(max_drop=0.03), effort=replace(QUICK, least=0.9)
    )
    assert compressed.artefact is not None
    assert len(compressed.candidates) == 2  # the original, and int8
    reasons = [
        note for note in compressed.notes if note.endswith(": onnxruntime could not quantize this graph")
    ]
    assert reasons
    assert all("1 layer in 4-bit weights" in reason for reason in reasons)


def test_kernels_that_saturate_get_7_bit_weights(tmp_path: Path) -> None:
    """Codes stay within 64 under every repair; the scale is twice as coarse, so most of what is right stays right."""
    from enxuto.compressing.quantizing.graph import initializers, read_onnx, values_of

    making = Making(calibrate=digits().calibrate.first(128), train=digits().calibrate)
    most = {}
    for narrow in (False, True):
        for repairs in ((), (Repair.EQUALISE, Repair.CORRECT), (Repair.RECONSTRUCT,)):
            settings = Settings(cuts=(), repairs=repairs, recipe=Recipe(reduce_range=narrow))
            making.make(trained(), settings, tmp_path / "net.onnx")
            tensors = map(values_of, initializers(read_onnx(tmp_path / "net.onnx")).values())
            codes = [tensor for tensor in tensors if tensor.dtype == "int8" and tensor.ndim > 1]
            assert len(codes) == 4
            most[narrow, repairs] = max(abs(each.astype(int)).max() for each in codes)
    assert {value for (narrow, _), value in most.items() if narrow} <= {63, 64}
    assert {value for (narrow, _), value in most.items() if not narrow} <= {127, 128}


def test_this_machines_kernels_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enxuto.compressing import compression

    for saturates in (False, True):
        monkeypatch.setattr(compression, "int8_saturates", lambda answer=saturates: answer)
        found = compress(
            trained(), digits(), out=tmp_path, limits=Limits(file=40_000, max_drop=0.03), effort=QUICK
        )
        eight = [row.settings.recipe for row in found.candidates if row.settings is not None]
        assert eight[0].reduce_range is saturates
        assert any("x86" in note for note in found.notes) is saturates


@pytest.fixture
def timed_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes as long as its file is large: latency that a busy machine does not change."""

    def latency(self: Search, path: Path, flags: object) -> Quartiles:
        ratio = path.stat().st_size / self._file(None, "onnx").stat().st_size
        return Quartiles(lower=ratio, median=ratio, upper=ratio, runs=1)

    monkeypatch.setattr(Search, "latency", latency)


@pytest.mark.usefixtures("timed_by_size")
def test_a_limit_on_time_cuts_macs_and_may_round_nothing(tmp_path: Path) -> None:
    effort = replace(QUICK, step=0.6, least=0.1, schemes=(Scheme.FLOAT32,))
    limits = Limits(latency_ratio=0.95, max_drop=0.5)
    compressed = compress(trained(), digits(), out=tmp_path, limits=limits, effort=effort)
    artefact = compressed.artefact
    assert artefact is not None and artefact.settings is not None and artefact.latency is not None
    assert {cut.kind for cut in artefact.settings.cuts} == {CutKind.MACS}
    assert artefact.settings.recipe == Recipe(default=Scheme.FLOAT32)
    assert artefact.covered_ratio == 0
    assert artefact.latency.median <= 0.95
    made = [row.settings for row in compressed.candidates if row.settings]
    assert all(settings.cuts and settings.recipe.default is Scheme.FLOAT32 for settings in made)


@pytest.mark.usefixtures("timed_by_size")
def test_what_the_limits_lack_is_cut(tmp_path: Path) -> None:
    """8 bits are fast enough here: the file is what is too large still, so parameters go."""
    limits = Limits(latency_ratio=0.9, file=16_000, max_drop=0.5)
    compressed = compress(
        trained(), digits(), out=tmp_path, limits=limits, effort=replace(QUICK, schemes=(Scheme.STATIC8,))
    )
    cuts = [cut.kind for row in compressed.candidates if row.settings for cut in row.settings.cuts]
    assert cuts and set(cuts) == {CutKind.PARAMETERS}


def test_without_labels_agreement_is_kept_and_certified(tmp_path: Path) -> None:
    given = answered_by(
        trained(),
        Splits(**{name: Samples(part.inputs) for name, part in zip(PARTS, digits_parts(), strict=True)}),
    )
    assert isinstance(given, Splits)
    compressed = compress(
        trained(),
        given,
        out=tmp_path,
        limits=Limits(file=30_000, max_drop=0.03),
        effort=replace(QUICK, least=0.9),
    )
    artefact, certificate = compressed.artefact, compressed.certificate
    assert artefact is not None and certificate is not None
    assert certificate.original.metric == 1.0
    assert artefact.drop == pytest.approx(1 - (artefact.agreement or 0))


def digits_parts() -> tuple[Samples, Samples, Samples]:
    return digits().calibrate, digits().choose, digits().certify


def test_repairs_are_tried_where_rounding_hurts(tmp_path: Path) -> None:
    """A channel a thousand times wider than its neighbours: plain 8 bits with one range fail, a repair helps."""
    model = Small()
    model.load_state_dict(trained().state_dict())
    with torch.no_grad():
        model.hidden.weight[0] *= 3000
        model.hidden.bias[0] *= 3000
        model.last.weight[:, 0] /= 3000
    compressed = compress(
        model, digits(), out=tmp_path, limits=Limits(max_drop=0.03), effort=replace(QUICK, least=0.9)
    )
    first, *others = compressed.candidates[1:]
    assert first.refused == "quality does not hold on the choosing samples"
    assert any(row.settings and Repair.EQUALISE in row.settings.repairs for row in others)
    assert compressed.artefact is not None
    assert compressed.artefact.drop < first.drop


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_compressed_says_why(tmp_path: Path) -> None:
    unlabelled = Samples(digits().choose.inputs)
    with pytest.raises(UsageError, match="labelled"):
        compress(trained(), unlabelled, out=tmp_path)
    with pytest.raises(UsageError, match="too few"):
        compress(trained(), digits().choose.first(2), out=tmp_path)
    with pytest.raises(UsageError, match="TorchScript"):
        compress(torch.jit.trace(trained(), digits().choose.inputs[0][:1]), digits(), out=tmp_path)
    with pytest.raises(UsageError, match="a module or a Workload"):
        compress(3, digits(), out=tmp_path)  # type: ignore[arg-type]

    def broken() -> nn.Module:
        raise RuntimeError("no weights here")

    work = ex.Workload(model=broken, batch=lambda n=None: torch.ones(1), loss=lambda model, x: model(x))
    with pytest.raises(UserCodeError, match="no weights here"):
        compress(work, digits(), out=tmp_path)


def test_a_user_s_metric_that_raises_is_the_user_s_error(tmp_path: Path) -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such class")

    with pytest.raises(UserCodeError, match="no such class"):
        compress(trained(), digits(), out=tmp_path, metric=broken, effort=QUICK)


def test_a_network_that_gives_numbers_is_judged_by_its_own_metric(tmp_path: Path) -> None:
    """Regression: paired differences of squared errors, lower is better; there are no classes to agree on."""
    torch.manual_seed(0)
    inputs = torch.randn(3000, 8)
    targets = inputs @ torch.randn(8, 1)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(model(inputs[:1000]), targets[:1000]).backward()
        optimizer.step()

    def squared_error(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return (outputs - wanted).square().flatten()

    compressed = compress(
        model,
        (inputs, targets),
        out=tmp_path,
        limits=Limits(max_drop=0.05),
        metric=squared_error,
        higher_is_better=False,
        effort=replace(QUICK, least=0.9),
    )
    artefact = compressed.artefact
    assert artefact is not None
    assert compressed.certificate is not None
    assert compressed.certificate.decision is Decision.ACCEPTED
    assert artefact.drop == pytest.approx(
        artefact.metric - compressed.original.metric
    )  # a larger error is a drop
    assert artefact.drop > 0
    assert (artefact.agreement, artefact.kl) == (None, None)
    assert read(tmp_path / "compressed.json") == compressed
    assert "squared_error" in ex.to_text(compressed)
    assert ex.to_html(compressed)
