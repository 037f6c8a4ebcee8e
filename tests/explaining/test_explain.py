"""`explain`: what it takes, what it adds for inference, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from enxuto.errors import UsageError, UserCodeError
from enxuto.explaining import explain, receipt
from enxuto.records import Alternative, World
from enxuto.tracing import trace
from enxuto.workload import Workload
from tests.explaining.works import WORKS, generation


def inference(*, grad: bool) -> Workload:
    return Workload(
        model=lambda: nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU()),
        batch=lambda n=None: torch.zeros(n or 32, 8),
        loss=lambda model, x: model(x),
        batch_size=32,
        grad=grad,
    )


def test_a_timeline_gives_its_receipt() -> None:
    timeline = trace(WORKS["digits_cnn"], calibrate=False)
    assert explain(timeline) == receipt(timeline)


def test_training_is_traced_once() -> None:
    lines: list[str] = []
    explanation = explain(WORKS["digits_cnn"], calibrate=False, progress=lines.append)
    assert explanation == receipt(trace(WORKS["digits_cnn"], calibrate=False))
    assert [line for line in lines if line.startswith("tracing")] == [
        "tracing digits_cnn (dry: nothing is computed)"
    ]
    assert explanation.alternatives == explanation.growth == ()


def test_inference_has_the_other_gradient_mode_beside_it() -> None:
    plain, recording = (explain(inference(grad=grad), calibrate=False) for grad in (False, True))
    assert plain.alternatives == (Alternative(label="with gradient recording on", peak=recording.peak),)
    assert recording.alternatives == (Alternative(label="under torch.no_grad()", peak=plain.peak),)
    assert recording.peak > plain.peak
    assert [finding.id for finding in plain.findings if finding.id == "M04"] == []
    finding = recording.findings[0]
    assert (finding.id, finding.nbytes) == ("M04", recording.peak - plain.peak)
    assert finding.text.startswith(
        "gradient recording is on and no backward follows: under torch.no_grad() the peak is "
    )


def test_a_model_that_turns_recording_off_itself_gets_no_m04() -> None:
    explanation = explain(replace(generation(), grad=True), calibrate=False)
    assert explanation.alternatives == (Alternative(label="under torch.no_grad()", peak=explanation.peak),)
    assert "M04" not in [finding.id for finding in explanation.findings]
    assert [row.module for row in explanation.growth][:2] == ["h.0.attn", "h.1.attn"]


def test_a_mode_that_cannot_be_traced_is_noted() -> None:
    def overwrite(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        next(model.parameters()).add_(1)  # an error while gradients are recorded
        return model(x)

    explanation = explain(replace(inference(grad=False), loss=overwrite), calibrate=False)
    assert explanation.alternatives == ()
    (note,) = [
        n for n in explanation.facts.notes if n.startswith("with gradient recording on: could not be traced")
    ]
    assert "a leaf Variable that requires grad" in note


def test_a_step_of_its_own_runs_in_the_works_mode_and_in_the_other() -> None:
    plain = inference(grad=False)
    twice = replace(plain, loss=lambda model, batch: model(torch.cat([batch, batch])))
    stepped = replace(plain, step=lambda model, optimizer, batch: model(torch.cat([batch, batch])))
    found, expected = explain(stepped, calibrate=False), explain(twice, calibrate=False)
    assert (found.peak, found.alternatives) == (expected.peak, expected.alternatives)
    assert found.alternatives[0].peak > found.peak


def test_a_live_model_is_explained_and_left_alone() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    batch = (torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
    explanation = explain(model, batch, loss=functional.cross_entropy, optimizer=optimizer, calibrate=False)
    assert explanation.facts.training
    assert explanation.facts.workload == "Linear"
    assert explanation.facts.batch_size == 8
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_world_is_the_callers_choice() -> None:
    explanation = explain(inference(grad=False), world="cpu", calibrate=False)
    assert explanation.world is World.CPU


def test_wrong_calls_say_what_to_do() -> None:
    work = inference(grad=False)
    with pytest.raises(UsageError, match=r"a Workload has everything in it: leave out batch=, loss="):
        explain(work, torch.zeros(1), loss=functional.mse_loss)
    with pytest.raises(UsageError, match=r"a Timeline has everything in it: leave out optimizer="):
        explain(trace(work, calibrate=False), optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    with pytest.raises(UsageError, match="needs a batch"):
        explain(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="not a str"):
        explain("resnet18")  # type: ignore[arg-type]


def test_an_error_of_the_users_code_is_theirs() -> None:
    with pytest.raises(UserCodeError):
        explain(nn.Linear(2, 2), torch.zeros(3, 5), calibrate=False)
