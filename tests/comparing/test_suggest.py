"""Suggestions: under the user's own conditions, read from the trace; what is no classifier is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import enxuto as ex
from enxuto.comparing import suggesting
from enxuto.errors import UndecidableError, UsageError
from enxuto.records import Scenario


def classifier(*, channels: int = 3, sides: tuple[int, int] = (40, 40), classes: int = 7) -> ex.Workload:
    """A fat net of the user's own."""

    def batch(n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        size = n or 6
        return torch.zeros(size, channels, *sides), torch.zeros(size, dtype=torch.long)

    return ex.Workload(
        model=lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], 600), nn.Linear(600, classes)
        ),
        batch=batch,
        loss=lambda model, b: nn.functional.cross_entropy(model(b[0]), b[1]),
        optimizer=lambda parameters: torch.optim.Adam(parameters),
        name="mine",
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates, of which one fits nowhere."""
    names = ["zoo:squeezenet1_1?width=0.25", "zoo:vgg16"]
    monkeypatch.setattr(suggesting, "candidates", lambda: names)


def test_suggestions_are_made_under_the_users_own_conditions(few: None) -> None:
    budget = 60 * 2**20
    found = ex.suggest(classifier(), budget, "file", calibrate=False, jobs=1)
    assert (found.batch, found.size, found.classes, found.own) == (6, 40, 7, "mine")
    assert found.scenario is Scenario.FILE and found.budget == budget
    by_name = {net.target: net for net in found.nets}
    assert len(by_name) == 3
    own = by_name["mine"].figures
    assert own is not None and own.parameters == 4800 * 600 + 600 + 600 * 7 + 7
    vgg = ex.resolve("zoo:vgg16?classes=7").model
    with torch.device("meta"):
        assert by_name["zoo:vgg16"].figures.file_bytes == 4 * sum(p.numel() for p in vgg().parameters())
    assert {name: found.fits(net) for name, net in by_name.items()} == {
        "mine": True,
        "zoo:squeezenet1_1?width=0.25": True,
        "zoo:vgg16": False,
    }
    needed = [found.needs(net) or 0 for net in found.nets]
    assert needed == sorted(needed)


def test_every_candidate_is_a_net_of_the_zoo() -> None:
    for target in suggesting.candidates():
        with torch.device("meta"):
            assert isinstance(ex.resolve(target).model(), nn.Module)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (classifier(channels=1), r"its inputs are \[6, 1, 40, 40\]"),
        (classifier(sides=(40, 32)), r"its inputs are \[6, 3, 40, 32\]"),
        (ex.resolve("zoo:unet?size=16&batch=2"), r"its outputs are \[2, 2, 16, 16\]"),
        (ex.resolve("zoo:llama_tiny?length=8"), r"its inputs are"),
    ],
)
def test_other_nets_are_refused_with_the_reason(work: ex.Workload, said: str) -> None:
    with pytest.raises(UndecidableError, match=said):
        ex.suggest(work, 2**20, calibrate=False)


@pytest.mark.parametrize(
    ("work", "budget", "scenario", "said"),
    [
        (classifier(), 0, "file", "a budget is a positive whole number"),
        (classifier(), 2**20, "latency", "a budget of bytes is for file, inference-ram, training"),
        (classifier().inference(), 2**20, "training", "mine does not train"),
        ("zoo:resnet18", 2**20, "file", "needs a Workload, not a str"),
    ],
)
def test_wrong_questions_are_refused(work: ex.Workload, budget: int, scenario: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ex.suggest(work, budget, scenario, calibrate=False)
