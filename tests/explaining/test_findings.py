"""Findings: each present where the trace shows it, and absent in a twin that differs in the cause alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enxuto.explaining import receipt
from enxuto.records import Category, Explanation, Facts, Finding, Phase, Timeline
from enxuto.tracing import trace
from enxuto.workload import Workload
from tests.explaining.timelines import Script
from tests.explaining.works import next_token

FORWARD, BACKWARD, OPTIMIZER, BEFORE = Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER, Phase.BEFORE
PEAK = 10


def found(explanation: Explanation | Timeline, name: str) -> Finding | None:
    if isinstance(explanation, Timeline):
        explanation = receipt(explanation)
    rows = [finding for finding in explanation.findings if finding.id == name]
    assert len(rows) <= 1
    return rows[0] if rows else None


def script(phase: Phase = BACKWARD, **facts: Any) -> Script:
    """Twenty ticks, 1,000 bytes of parameter throughout and 1,000 more at tick 10 alone."""
    made = Script(
        ticks=20,
        spans=((FORWARD, 0, 5), (phase, 5, 15), (OPTIMIZER, 15, 20)),
        facts=Facts(workload="script", torch="2.13.0", **facts),
    )
    made.call("", 1, 5)
    made.block(1000, Category.PARAMETER, 0, 20, name="a.weight", phase=BEFORE)
    made.block(1000, Category.SCRATCH, PEAK, PEAK + 1)
    return made


def test_m01_says_the_share_of_activations_and_the_floor() -> None:
    made = script()
    made.block(2000, Category.SAVED_ACTIVATION, 1, 20)
    assert found(made.timeline(), "M01") == Finding(
        id="M01",
        text=(
            "activations, saved and temporary, are 50.0 % of the peak; parameters, buffers and optimizer "
            "state are 1000 B, which no smaller batch goes below"
        ),
        nbytes=2000,
    )
    assert found(script().timeline(), "M01") is None
    made.facts = replace(made.facts, training=False)
    assert found(made.timeline(), "M01") is None


def test_m02_only_when_later_steps_need_more() -> None:
    made = script(step_peaks=(1500, 2000, 2000))
    made.block(500, Category.OPTIMIZER_STATE, 0, 20, name="a.weight.exp_avg", phase=BEFORE)
    assert found(made.timeline(), "M02") == Finding(
        id="M02",
        text=("step 1 peaks at 1.5 KiB, step 3 at 2.0 KiB; optimizer state, 500 B, is there from step 2 on"),
        nbytes=500,
    )
    for peaks in ((), (2000,), (2000, 2000, 2000), (2500, 2000, 2000)):
        assert found(script(step_peaks=peaks).timeline(), "M02") is None


@pytest.mark.parametrize("phase", [BEFORE, FORWARD])
def test_results_kept_from_the_step_before(phase: Phase) -> None:
    made = script()
    made.block(600, Category.TEMPORARY_FORWARD, 0, 20, line=33, phase=phase)
    expected = Finding(
        id="kept-results",
        text=(
            "600 B in 1 block left from the step before and alive at the peak; the largest, 600 B, "
            "comes from m.py:33"
        ),
        nbytes=600,
    )
    assert found(made.timeline(), "kept-results") == (expected if phase is BEFORE else None)


@pytest.mark.parametrize(
    ("op", "copies", "spike"), [("_log_softmax", 3, True), ("_log_softmax", 1, False), ("mul", 3, False)]
)
def test_m15_copies_of_the_logits_in_the_loss(op: str, copies: int, spike: bool) -> None:
    made = script(FORWARD)
    logits = [made.block(700, Category.TEMPORARY_FORWARD, 8, 12) for _ in range(copies)]
    made.block(300, Category.TEMPORARY_FORWARD, 8, 12)
    made.op(f"aten.{op}", PEAK, reads=logits[:1], line=84)
    expected = Finding(
        id="M15",
        text=(
            "the peak is in the loss, at aten._log_softmax (m.py:84): 3 tensors of 700 B, the size of its "
            "input, live at once; a chunked or fused loss keeps a part of each"
        ),
        nbytes=2100,
    )
    assert found(made.timeline(), "M15") == (expected if spike else None)


def test_m15_in_a_real_language_model() -> None:
    def work(vocab: int) -> Workload:
        return Workload(
            model=lambda: nn.Sequential(nn.Embedding(vocab, 4), nn.Linear(4, vocab)),
            batch=lambda n=None: torch.zeros(n or 4, 64, dtype=torch.int64),
            loss=next_token,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        )

    finding = found(trace(work(500), calibrate=False), "M15")
    logits = 4 * 64 * 500 * 4
    assert finding is not None
    assert finding.nbytes % logits == 0
    assert finding.nbytes >= 2 * logits


@pytest.mark.parametrize("phase", [OPTIMIZER, BACKWARD])
def test_temporaries_of_the_optimizer(phase: Phase) -> None:
    made = script(phase)
    made.block(400, Category.TEMPORARY_OPTIMIZER, 9, 12)
    made.op("aten._foreach_sqrt", PEAK, phase=phase)
    expected = Finding(
        id="optimizer-temporaries",
        text=(
            "the peak is in the optimizer step, 400 B of it temporaries; the highest memory outside it is "
            "1000 B; foreach ops make them for many parameters at once, foreach=False for one"
        ),
        nbytes=400,
    )
    assert found(made.timeline(), "optimizer-temporaries") == (expected if phase is OPTIMIZER else None)


def gradient(
    *,
    end: int,
    reader: str = "",
    at: int = 12,
    peak_phase: Phase = BACKWARD,
    phase: Phase = BEFORE,
    first_call: int = 1,
) -> Finding | None:
    made = script(peak_phase)
    made.calls[0]["enter"] = first_call
    block = made.block(500, Category.GRADIENT, 0, end, name="a.weight", phase=phase)
    if reader:
        made.op(reader, at, reads=[block])
    return found(made.timeline(), "gradients-held")


def test_gradients_held_through_the_forward() -> None:
    held = Finding(
        id="gradients-held",
        text=(
            "gradients of the step before are still there at the peak and their values are not used: "
            "zero_grad(set_to_none=True) before the forward would free 500 B there"
        ),
        nbytes=500,
    )
    assert gradient(end=13) == held
    assert gradient(end=20, reader="aten._foreach_zero_") == held
    assert gradient(end=20, reader="aten.zero_", at=2) == held


def test_gradients_that_are_needed_or_of_this_step_are_not_held() -> None:
    assert gradient(end=20, reader="aten.add_") is None  # accumulation over steps
    assert gradient(end=20) is None
    assert gradient(end=13, phase=BACKWARD) is None
    assert gradient(end=13, peak_phase=OPTIMIZER) is None
    assert gradient(end=13, first_call=11) is None  # the forward has not begun: zero_grad may come first


class Loop:
    """A step that drops its gradients at a place of its own."""

    def __init__(self, *, late: bool, to_none: bool = True) -> None:
        self.late, self.to_none = late, to_none

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
        if not self.late:
            optimizer.zero_grad(set_to_none=self.to_none)
        loss = model(batch).square().sum()
        if self.late:
            optimizer.zero_grad(set_to_none=self.to_none)
        loss.backward()
        optimizer.step()


def mlp(step: Any = None) -> Workload:
    """A net whose activations outweigh its parameters, so that its peak is at the forward's end."""

    def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    return Workload(
        model=lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.ReLU()),
        batch=lambda n=None: torch.zeros(n or 512, 64),
        loss=lambda model, x: model(x).square().sum(),
        optimizer=sgd,
        step=step,
    )


def test_gradients_held_in_real_loops() -> None:
    gradients = 2 * (64 * 64 + 64) * 4
    zeroed = found(trace(mlp(Loop(late=False, to_none=False)), calibrate=False), "gradients-held")
    assert zeroed is not None
    assert 0 < zeroed.nbytes <= gradients
    assert found(trace(mlp(Loop(late=False)), calibrate=False), "gradients-held") is None
    assert found(trace(mlp(), calibrate=False), "gradients-held") is None


def dead(
    *,
    natural: int,
    read_at: int = -1,
    saved: bool = False,
    category: Category = Category.TEMPORARY_FORWARD,
) -> Finding | None:
    made = script()
    block = made.block(500, category, 2, natural, line=22)
    made.op("aten.mul", 3)
    if read_at >= 0:
        made.op("aten.add", read_at, reads=[block])
    if saved:
        made.save(block, 4, 14, node="MulBackward0", uses=[(13, 14)])
    return found(made.timeline(), "dead-weight")


def test_dead_weight_is_what_nothing_needs_again() -> None:
    assert dead(natural=13) == Finding(
        id="dead-weight",
        text=(
            "500 B in 1 block, alive at the peak, that no later op reads and no backward needs; "
            "the largest, 500 B, comes from m.py:22"
        ),
        nbytes=500,
    )
    assert dead(natural=13, read_at=4) is not None
    assert dead(natural=13, read_at=PEAK) is None
    assert dead(natural=13, read_at=12) is None
    assert dead(natural=13, saved=True) is None
    assert dead(natural=13, category=Category.TEMPORARY_OPTIMIZER) is None  # torch's own business
    assert dead(natural=20) is None  # it stays: perhaps the step's output


class Keeper(nn.Module):
    """Keeps a large intermediate result in a variable while a larger one is made, or lets it go."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        large = x.repeat(8, 1)
        small = large.sum(0, keepdim=True)
        if not self.keep:
            del large
        return small.repeat(64, 1) * 2


def test_dead_weight_in_a_real_forward() -> None:
    def work(keep: bool) -> Workload:
        return Workload(
            model=lambda: Keeper(keep=keep),
            batch=lambda n=None: torch.zeros(n or 4, 256),
            loss=lambda model, x: model(x),
        )

    finding = found(trace(work(True), calibrate=False), "dead-weight")
    assert finding is not None
    assert finding.nbytes == (8 * 4 + 1) * 256 * 4  # `large`, and `small`, which was read
    assert "test_findings.py" in finding.text
    assert found(trace(work(False), calibrate=False), "dead-weight") is None


@pytest.mark.parametrize("autocast", [True, False])
def test_m13_casts_of_parameters(autocast: bool) -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(x).square().sum()

    finding = found(trace(replace(mlp().at_batch(64), loss=loss), calibrate=False), "M13")
    assert (finding is not None) is autocast
    if finding is not None:
        assert finding.nbytes <= 2 * (64 * 64 + 64) * 2  # two layers in two bytes per number
        assert finding.text.endswith("casts of parameters to another dtype, beside the parameters themselves")


def test_findings_come_with_most_bytes_first() -> None:
    rows = receipt(trace(mlp(Loop(late=False, to_none=False)), calibrate=False)).findings
    assert [row.nbytes for row in rows] == sorted((row.nbytes for row in rows), reverse=True)
