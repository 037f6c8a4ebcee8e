"""Levels: what each kind of cut leaves, by counting; and that a level which was kept comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from enxuto.compressing import levels
from enxuto.compressing.distilling import Distillation
from enxuto.compressing.levels import Levels
from enxuto.compressing.pruning import Size, size_of
from enxuto.errors import UsageError
from enxuto.records import Cut, CutKind
from enxuto.samples import Samples

pytest.importorskip("torch_pruning", reason="structured pruning's engine: pip install 'enxuto[compress]'")


class Fat(nn.Module):
    """Most parameters in a dense layer, most multiply-accumulates in convolutions; [batch, 1, 12, 12] to 4 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),
        )
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(288, 200), nn.ReLU(), nn.Linear(200, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dense(self.features(x))
        return out


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Levels:
    """Levels that nobody teaches."""
    monkeypatch.setattr(levels, "distil", lambda *_, **__: ())
    return build(tmp_path)


def build(folder: Path) -> Levels:
    torch.manual_seed(0)
    train = Samples((torch.randn(64, 1, 12, 12),), torch.randint(4, (64,)))
    return Levels(Fat(), train, Distillation(epochs=1), folder, "key")


def cut(kind: CutKind, share: float) -> Cut:
    return Cut(kind=kind, kept_ratio=share)


def size(model: nn.Module, kind: Size) -> int:
    return size_of(model, torch.zeros(1, 1, 12, 12), kind)


@pytest.mark.parametrize("share", [0.8, 0.4])
@pytest.mark.parametrize(
    ("kind", "counted"),
    [
        (CutKind.PARAMETERS, Size.PARAMETERS),
        (CutKind.MACS, Size.MACS),
        (CutKind.LOW_RANK, Size.PARAMETERS),
    ],
)
def test_a_cut_leaves_at_most_its_share(kind: CutKind, counted: Size, share: float, made: Levels) -> None:
    cuts = (cut(kind, share),)
    model = made.at(cuts)
    assert size(model, counted) <= share * size(made.original, counted)
    assert made.left(cuts, kind) == size(model, counted) / size(made.original, counted)
    assert made.left((), kind) == 1.0
    assert model(torch.zeros(2, 1, 12, 12)).shape == (2, 4)


def test_time_is_cut_where_it_is_spent_and_in_eights(made: Levels) -> None:
    model = made.at((cut(CutKind.MACS, 0.5),))
    widths = [layer.out_channels for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths) and widths < [24, 32]
    parameters = made.at((cut(CutKind.PARAMETERS, 0.5),))
    assert size(parameters, Size.MACS) > size(model, Size.MACS)
    assert size(parameters, Size.PARAMETERS) < size(model, Size.PARAMETERS)


def test_eights_give_way_where_they_do_not_go_far_enough(made: Levels) -> None:
    least = made.at((cut(CutKind.MACS, 0.02),))
    assert [layer.out_channels % 8 for layer in least.features if isinstance(layer, nn.Conv2d)] != [0, 0]


def test_cuts_follow_each_other_and_come_back_from_the_folder(made: Levels, tmp_path: Path) -> None:
    cuts = (cut(CutKind.MACS, 0.6), cut(CutKind.PARAMETERS, 0.3), cut(CutKind.LOW_RANK, 0.25))
    model = made.at(cuts)
    again = build(tmp_path).at(cuts)
    x = torch.randn(3, 1, 12, 12)
    assert torch.equal(model(x), again(x))
    assert isinstance(again.get_submodule("dense.1"), nn.Sequential)
    # of the original, not of what the first cut left
    assert 0.27 < made.left(cuts[:2], CutKind.PARAMETERS) <= 0.3
    others = made.at(cuts[:1]), made.at((cuts[0], cut(CutKind.PARAMETERS, 0.31)))
    assert len({size(each, Size.PARAMETERS) for each in (model, *others)}) == 3


@pytest.mark.parametrize("kind", CutKind)
def test_what_cannot_be_cut_so_far_says_so(kind: CutKind, made: Levels) -> None:
    with pytest.raises(UsageError, match="cannot go as far as"):
        made.at((cut(kind, 1e-4),))
