"""Comparing: the figures against traces made apart, against hand counts, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import enxuto as ex
from enxuto.comparing import asking, examining
from enxuto.comparing.examining import Answer, Asked, Inquiry, int8_bytes, with_settings
from enxuto.comparing.published import TOP1, published
from enxuto.compressing.folding import fold_batch_norms
from enxuto.errors import UsageError
from enxuto.planning.times import Speeds
from enxuto.records import Category, Comparison, NetFigures, Scenario
from enxuto.targets import ZOO

SMALL = "zoo:squeezenet1_1?width=0.25"
OWN = """
import os, torch, enxuto
from torch import nn

def work(net=None):
    return enxuto.Workload(
        model=net or (lambda: nn.Linear(6, 3)),
        batch=lambda n=None: (torch.zeros(n or 2, 6), torch.zeros(n or 2, dtype=torch.long)),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )

def dies():
    return work(lambda: os._exit(7))

def fails():
    return work(lambda: 1 / 0)
"""


def asked(**changes: int | str | bool | None) -> Asked:
    """Conditions that need no measured scratch."""
    plain = Asked(batch=4, size=32, classes=10, optimizer="sgd", calibrate=False, speeds=Speeds())
    return replace(plain, **changes)  # type: ignore[arg-type]


def tiny() -> ex.Workload:
    """Training of a net with a depthwise convolution, batch norms, dropout and a shortcut."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
            self.deep, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 36, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.bn1(self.stem(x)))
            return self.head(torch.relu(x + self.bn2(self.deep(x))))  # type: ignore[no-any-return]

    return ex.Workload(
        model=Tiny,
        batch=lambda n=None: (torch.zeros(n or 4, 3, 8, 8), torch.zeros(n or 4, dtype=torch.long)),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=lambda parameters: torch.optim.AdamW(parameters),
        batch_size=4,
        name="tiny",
    )


@pytest.fixture(scope="module")
def figures() -> NetFigures:
    """Of the tiny net, at batch 6 within 200 KiB."""
    wanted = asked(batch=6, optimizer=None, budget=200 * 2**10)
    return examining.examine(*examining.own_workloads(tiny(), wanted), wanted)


def test_sizes_are_those_of_the_net_itself(figures: NetFigures) -> None:
    net = tiny().model()
    assert figures.parameters == sum(p.numel() for p in net.parameters())
    assert figures.file_bytes == sum(t.numel() * t.element_size() for t in net.state_dict().values())


def test_peaks_are_those_of_traces_made_apart(figures: NetFigures) -> None:
    train = tiny().at_batch(6)
    timeline = ex.trace(train, calibrate=False)
    assert figures.training_peak == max(timeline.facts.step_peaks)
    infer = replace(tiny().inference(), model=lambda: tiny().model().eval()).at_batch(1)
    assert figures.inference_peak == ex.trace(infer, calibrate=False).peak
    folded = replace(infer, model=lambda: fold_batch_norms(infer.model()).model)
    assert figures.folded_peak == ex.trace(folded, world="cpu", calibrate=False).peak
    assert figures.folded_peak < figures.inference_peak
    three = ex.trace(train.at_batch(3), calibrate=False)
    kept = [int(t.curves()[Category.SAVED_ACTIVATION].max()) for t in (three, timeline)]
    assert figures.saved_per_item == (kept[1] - kept[0]) // 3


def test_the_largest_batch_is_largest_batchs_own(figures: NetFigures) -> None:
    found = ex.largest_batch(tiny(), 200 * 2**10, calibrate=False)
    assert figures.largest_batch == found.batch_size > 1


def test_the_optimizer_asked_for_is_that_of_an_own_workload_too() -> None:
    plain, sgd = (examining.own_workloads(tiny(), asked(optimizer=name))[0] for name in (None, "sgd"))
    kinds = [type(w.optimizer(w.model().parameters())) for w in (plain, sgd) if w.optimizer]
    assert kinds == [torch.optim.AdamW, torch.optim.SGD]


def test_multiply_adds_are_counted_for_one_sample() -> None:
    one, four = (
        examining.examine(
            *examining.workloads("zoo:digits_cnn", asked(size=28, inference_batch=n, optimizer="none")),
            asked(inference_batch=n),
        )
        for n in (1, 4)
    )
    assert one.macs == four.macs > 0
    assert one.training_peak is None and one.saved_per_item is None
    assert one.inference_peak < four.inference_peak


def test_int8_counts_weights_scales_and_biases() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),  # 8·3·3·3 weights, 8 scales and 8 biases of 4 B
        nn.Conv2d(8, 8, 3, groups=8, bias=False),  # 8·3·3 weights, 8 scales
        nn.ConvTranspose2d(8, 5, 2),  # 8·5·2·2 weights, 5 scales, 5 biases
        nn.Linear(7, 2),  # 14 weights, 2 scales, 2 biases
        nn.LayerNorm(6),  # 12 floats, as they are
        nn.Embedding(10, 4),  # 40 floats, as they are
    )
    assert int8_bytes(net) == (216 + 64) + (72 + 32) + (160 + 40) + (14 + 16) + 48 + 160
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert int8_bytes(tied) == 16 + 16


def test_settings_of_a_target_come_first() -> None:
    wanted = asked()
    assert with_settings("zoo:resnet18?size=64", wanted) == "zoo:resnet18?size=64&classes=10&optimizer=sgd"
    assert with_settings("net.py:work", wanted) == "net.py:work"
    bare = asked(size=None, classes=None, optimizer=None)
    assert with_settings("zoo:gpt", bare) == "zoo:gpt"


def test_rows_are_sorted_failures_last_and_latency_is_a_ratio(tmp_path: Path) -> None:
    found = ex.compare(
        ["nothing.py:work", SMALL, "zoo:digits_cnn"],
        scenario="inference-ram",
        batch=4,
        size=28,
        classes=10,
        optimizer="sgd",
        calibrate=False,
        jobs=1,
    )
    fine = [net for net in found.nets if net.figures]
    needed = [found.needs(net) for net in fine]
    assert needed == sorted(needed, key=lambda bytes_: bytes_ or 0)
    assert found.nets[-1].target == "nothing.py:work"
    assert "nothing.py" in found.nets[-1].failed
    assert found.reference == SMALL
    seconds = {net.target: net.figures.inference_seconds for net in fine if net.figures}
    for net in fine:
        assert net.latency_ratio == pytest.approx(seconds[net.target] / seconds[SMALL])
    assert Comparison.from_json(found.to_json()) == found


def test_a_child_that_dies_and_code_that_fails_cost_one_row_each(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    found = ex.compare([f"{path}:dies", f"{path}:fails", f"{path}:work"], batch=2, calibrate=False, jobs=1)
    by_name = {net.target.rpartition(":")[2]: net for net in found.nets}
    assert by_name["dies"].failed == "the process that traced it ended with 7"
    assert "ZeroDivisionError" in by_name["fails"].failed
    assert by_name["work"].figures is not None
    assert by_name["work"].figures.parameters == 6 * 3 + 3


def test_workloads_are_compared_beside_targets() -> None:
    def batch(n: int | None = None) -> torch.Tensor:
        return torch.zeros(n or 2, 6)

    work = ex.Workload(
        model=lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
        batch=batch,
        loss=lambda model, x: model(x).sum(),
        name="mine",
    )
    found = ex.compare([work], scenario=Scenario.FILE, calibrate=False)
    (net,) = found.nets
    assert net.figures is not None, net.failed
    assert (net.target, net.figures.training_peak) == ("mine", None)
    # 24 weights and 4 biases, 2·4 of the norm, 2·4 of its statistics, in 4 B; its counter in 8 B
    assert net.figures.file_bytes == 4 * (24 + 4 + 8 + 8) + 8
    # folded: 24 weights in 1 B, 4 scales and 4 biases in 4 B
    assert net.figures.int8_bytes == 24 + 16 + 16


def test_what_cannot_be_folded_says_so() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if x.shape[0] > 1 and bool(x.dim()) else self.fc(x * 1)

    work = ex.Workload(
        model=Branches, batch=lambda n=None: torch.zeros(n or 2, 6), loss=lambda model, x: model(x)
    )
    (net,) = ex.compare([work], calibrate=False).nets
    assert net.figures is not None and net.figures.folded_peak is None
    assert any("torch.fx cannot trace" in note for note in net.figures.notes)


def test_in_onnxruntime_file_memory_and_latency_are_measured() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (net,) = ex.compare([tiny()], scenario="latency", calibrate=False, onnxruntime=True).nets
    assert net.measured is not None, net.figures and net.figures.notes
    assert net.figures is not None
    # norms folded, so the weights that are left and the graph around them
    assert 0 < net.measured.file_bytes < 2 * net.figures.file_bytes
    assert net.measured.latency_ratio.lower <= net.measured.latency_ratio.median
    assert net.measured.latency_ratio.runs > 1  # beside itself: the first net is the reference


# Answers kept between runs


def inquiry(target: str = "zoo:digits_cnn", **changes: int | str | bool | None) -> Inquiry:
    """A question whose answer may be kept."""
    return Inquiry(target=target, asked=asked(**{"calibrate": True, **changes}))


def test_answers_are_kept_for_the_same_question_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path))
    figures = NetFigures(
        parameters=3,
        file_bytes=1,
        int8_bytes=1,
        macs=1,
        inference_peak=1,
        folded_peak=None,
        inference_seconds=1.0,
    )
    calls: list[Inquiry] = []

    def fake(asked_of: Inquiry) -> Answer:
        calls.append(asked_of)
        return Answer(figures=figures)

    monkeypatch.setattr(asking, "answer", fake)

    def ask(*questions: Inquiry) -> list[Answer]:
        return [asking.answers([q], jobs=1, say=lambda line: None)[0] for q in questions]

    assert ask(inquiry(), inquiry()) == [Answer(figures=figures)] * 2
    assert len(calls) == 1
    ask(inquiry(batch=5), inquiry("zoo:gpt"), inquiry(calibrate=False), inquiry(calibrate=False))
    assert len(calls) == 5  # what was not calibrated is never kept
    monkeypatch.setattr(asking, "_own_code", lambda: "another enxuto")
    ask(inquiry())
    assert len(calls) == 6
    (tmp_path / "enxuto" / "compare").chmod(0o700)
    for path in (tmp_path / "enxuto" / "compare").iterdir():
        path.write_text("{")
    ask(inquiry())
    assert len(calls) == 7  # what is damaged is asked again


def test_failures_and_own_code_are_never_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path))
    for question, found in (
        (inquiry(), Answer(failed="busy")),
        (inquiry("net.py:work"), Answer(figures=None, failed="")),
    ):
        monkeypatch.setattr(asking, "answer", lambda _, found=found: found)
        asking.answers([question], jobs=1, say=lambda line: None)
    assert not (tmp_path / "enxuto" / "compare").exists()
    assert asking._place(inquiry("net.py:work")) is None


# What is published


def test_every_published_figure_is_of_a_net_of_the_zoo_with_a_source() -> None:
    assert {name for name, _ in TOP1} <= set(ZOO)
    for row in TOP1.values():
        assert 50 < row.top1 < 90
        assert row.source.startswith("https://")


def test_published_accuracy_belongs_to_a_width() -> None:
    known = published("zoo:resnet18?classes=10")
    assert known is not None and known.top1 == 69.758
    assert published("zoo:resnet18?width=0.5") is None
    half = published("zoo:shufflenet_v2?size=96&width=0.5")
    assert half is not None and half.top1 == 60.552
    assert published("net.py:resnet18") is None
    assert published("timm:resnet18") is None


# Refusals


@pytest.mark.parametrize(
    ("nets", "options", "said"),
    [
        ([], {}, "takes a list of TARGETs"),
        ("zoo:resnet18", {}, "takes a list of TARGETs"),
        ([3], {}, "takes a list of TARGETs"),
        (["zoo:lstm"], {"scenario": "speed"}, "file, inference-ram, training, latency, not 'speed'"),
        (["zoo:lstm"], {"optimizer": "lion"}, "adamw, adam, sgd, not 'lion'"),
        (["zoo:lstm"], {"batch": 0}, "batch is a positive whole number, not 0"),
        (["zoo:lstm"], {"budget": 2.5}, "budget is a positive whole number"),
        (["zoo:x*"], {}, "no net of zoo matches 'x"),
    ],
)
def test_wrong_questions_are_refused(nets: list[str], options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        ex.compare(nets, calibrate=False, **options)  # type: ignore[arg-type]
