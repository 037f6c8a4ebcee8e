"""The Fashion-MNIST nets: what they cost, how they are trained, and that their weights are what the logs say."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.nets import NETS, fashion, log_path, trained, weights_path
from benchmarks.nets.models import KINDS, PICTURE
from benchmarks.nets.train import BARS, RECIPES, SHIFT, Recipe, Training, accuracy, augment, rate
from enxuto.errors import UsageError
from enxuto.samples import Samples

PARAMETERS = {"vgg_style": 1_453_226, "resnet_style": 272_474, "mobilenet_style": 66_014}
MACS = {"vgg_style": 15_998_592, "resnet_style": 8_658_816, "mobilenet_style": 2_471_856}
MOST_MACS = 25_000_000

every_net = pytest.mark.parametrize("name", list(NETS))
needs_weights = pytest.mark.skipif(
    not all(weights_path(name).exists() for name in NETS), reason="a net is not trained yet"
)
needs_pictures = pytest.mark.skipif(not fashion.available(), reason="apt-get install dataset-fashion-mnist")


def macs(net: nn.Module, example: Tensor) -> int:
    """Multiplications of a forward pass over one picture: those of convolutions and linear layers."""
    found = []

    def count(layer: Any, _inputs: Any, output: Tensor) -> None:
        each_output = math.prod(layer.weight.shape[1:])  # a kernel, or a row of a matrix
        found.append(output[0].numel() * each_output)

    hooks = [
        layer.register_forward_hook(count)
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    net.eval()(example)
    for hook in hooks:
        hook.remove()
    return sum(found)


def pictures(n: int, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *PICTURE, generator=generator)
    return Samples((inputs,), torch.randint(0, KINDS, (n,), generator=generator))


# What they are


@every_net
def test_each_net_costs_what_the_readme_says(name: str) -> None:
    net = NETS[name]()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    assert macs(net, torch.zeros(1, *PICTURE)) == MACS[name] <= MOST_MACS


def test_most_of_the_fat_nets_parameters_are_dense() -> None:
    net = NETS["vgg_style"]()
    dense = sum(layer.weight.numel() for layer in net if isinstance(layer, nn.Linear))
    assert dense > 0.9 * PARAMETERS["vgg_style"]


@every_net
def test_nets_map_any_batch_to_logits(name: str) -> None:
    net = NETS[name]().eval()
    batch = pictures(3).inputs[0]
    assert net(batch).shape == (3, KINDS)
    torch.testing.assert_close(net(batch)[1:2], net(batch[1:2]), rtol=0, atol=1e-5)


def test_every_net_has_a_recipe_and_a_bar() -> None:
    assert set(NETS) == set(RECIPES) == set(BARS)


# How they are trained


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, peak_rate=0.1, batch=4)
    samples = pictures(16)

    def fresh(seed: int) -> Training:
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 2, 3, 9), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(18, KINDS)
        return Training(nn.Sequential(*layers), recipe)

    def run(training: Training, epochs: int) -> None:
        for _ in range(epochs):
            training.log.append({"loss": training.run_epoch(samples)})

    whole, first, second = fresh(0), fresh(0), fresh(1)
    run(whole, 3)
    run(first, 1)
    assert not first.finished
    first.save(tmp_path / "kept.pt")
    torch.rand(7)  # what happens between the two has no say
    second.load(tmp_path / "kept.pt")
    run(second, 2)
    assert second.finished
    assert second.log == whole.log
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_a_training_refuses_what_another_recipe_kept(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    Training(net, Recipe(epochs=3, peak_rate=0.1)).save(tmp_path / "kept.pt")
    with pytest.raises(UsageError, match="without --resume"):
        Training(net, Recipe(epochs=4, peak_rate=0.1)).load(tmp_path / "kept.pt")


def test_an_epoch_sees_every_sample_once() -> None:
    seen = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.amax((1, 2, 3)))
            return super().forward(x.flatten(1)[:, :1])

    # A picture of one value everywhere stays known when it is mirrored, and its middle when it is shifted.
    values = torch.arange(1.0, 13.0)
    samples = Samples((values[:, None, None, None].expand(12, *PICTURE),), torch.zeros(12, dtype=torch.long))
    training = Training(Spy(1, 2), Recipe(epochs=1, peak_rate=1e-3, batch=4))
    training.run_epoch(samples)
    assert sorted(torch.cat(seen).tolist()) == values.tolist()
    assert torch.cat(seen).tolist() != values.tolist()


def test_the_rate_warms_up_to_its_peak_and_ends_at_nothing() -> None:
    rates = [rate(step / 1_000, 0.3) for step in range(1_001)]
    assert rates[0] == 0 and max(rates) == rates[200] == 0.3
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[:201] == sorted(rates[:201]) and rates[200:] == sorted(rates[200:], reverse=True)
    assert rates[600] == pytest.approx(0.15)  # half of the cosine


def test_an_augmented_picture_is_one_of_the_fifty_mirrored_and_shifted_ones() -> None:
    picture = pictures(1).inputs[0]
    background = -fashion.MEAN / fashion.SPREAD
    possible = set()
    for mirrored in (picture, picture.flip(3)):
        padded = nn.functional.pad(mirrored, (SHIFT,) * 4, value=background)
        for top in range(2 * SHIFT + 1):
            for left in range(2 * SHIFT + 1):
                possible.add(padded[0, 0, top : top + 28, left : left + 28].numpy().tobytes())
    many = augment(picture.expand(1_500, *PICTURE), torch.Generator().manual_seed(0))
    assert many.shape == (1_500, *PICTURE)
    # 50 kinds, 1,500 draws: that one never comes has a chance below 50 * 0.98 ** 1500 < 1e-11
    assert {one.numpy().tobytes() for one in many} == possible


def test_augmented_pictures_stay_in_their_rows() -> None:
    samples = torch.arange(6.0)[:, None, None, None].expand(6, *PICTURE)
    moved = augment(samples, torch.Generator().manual_seed(0))
    assert moved[:, 0, 14, 14].tolist() == [0, 1, 2, 3, 4, 5]


def test_accuracy_is_the_share_of_largest_logits() -> None:
    logits = torch.randn(1_234, KINDS)
    targets = torch.randint(0, KINDS, (1_234,))
    expected = (logits.numpy().argmax(1) == targets.numpy()).mean()
    assert accuracy(nn.Identity(), Samples((logits,), targets)) == expected


# The pictures


def test_an_idx_file_comes_back_as_it_was(tmp_path: Path) -> None:
    for shape in ((5,), (3, 4), (2, 7, 6)):
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(header + array.tobytes()))
        assert np.array_equal(fashion.read_idx(path).numpy(), array)


def test_what_is_no_idx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="apt-get install dataset-fashion-mnist"):
        fashion.read_idx(tmp_path / "missing.gz")
    floats = tmp_path / "floats.gz"
    floats.write_bytes(gzip.compress(struct.pack(">HBBIf", 0, 0x0D, 1, 1, 0.5)))
    with pytest.raises(UsageError, match="unsigned bytes"):
        fashion.read_idx(floats)


def test_what_is_held_out_is_never_learnt_from() -> None:
    everything = Samples((torch.arange(60_000),), torch.arange(60_000))
    learn, held_out = fashion.split(everything)
    assert (len(learn), len(held_out)) == (55_000, 5_000)
    rows = torch.cat([learn.inputs[0], held_out.inputs[0]])
    assert torch.equal(rows.sort().values, everything.inputs[0])


@needs_pictures
def test_the_pictures_are_normalised_and_balanced() -> None:
    samples = fashion.test()
    assert samples.inputs[0].shape == (10_000, *PICTURE)
    assert samples.targets is not None
    assert samples.targets.bincount().tolist() == [1_000] * KINDS
    lowest, highest = samples.inputs[0].aminmax()
    assert lowest.item() == pytest.approx(-fashion.MEAN / fashion.SPREAD)
    assert highest.item() == pytest.approx((1 - fashion.MEAN) / fashion.SPREAD)


# Their weights


def test_a_net_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no net 'lenet'"):
        trained("lenet")


@needs_weights
def test_the_weights_take_at_most_eight_megabytes() -> None:
    assert sum(weights_path(name).stat().st_size for name in NETS) <= 8_000_000


@needs_weights
@every_net
def test_the_log_reaches_the_bar_and_belongs_to_the_recipe(name: str) -> None:
    log = json.loads(log_path(name).read_text())
    assert log["test_accuracy"] >= log["bar"] == BARS[name]
    assert log["parameters"] == PARAMETERS[name]
    assert Recipe(**log["recipe"]) == RECIPES[name]
    assert [entry["epoch"] for entry in log["epochs"]] == list(range(1, RECIPES[name].epochs + 1))
    assert log["cpu_seconds"] == pytest.approx(sum(e["cpu_seconds"] for e in log["epochs"]))
    assert log["cpu_seconds"] <= 2 * 40 * 60  # 40 minutes on two cores


@needs_weights
@every_net
def test_the_readme_shows_what_the_log_says(name: str) -> None:
    log = json.loads(log_path(name).read_text())
    cells = name, f"{PARAMETERS[name]:,}", f"{MACS[name]:,}", str(len(log["epochs"]))
    row = "| " + " | ".join((*cells, f"{log['test_accuracy']:.2%}", f"{log['cpu_seconds']:.0f}")) + " |"
    assert row in log_path(name).with_name("README.md").read_text().splitlines()


@needs_weights
@needs_pictures
@every_net
def test_the_weights_are_as_good_as_the_log_says(name: str) -> None:
    said = json.loads(log_path(name).read_text())["test_accuracy"]
    found = accuracy(trained(name), fashion.test().first(1_000))
    # The first 1,000 of the 10,000 pictures: four standard errors of a share.
    assert abs(found - said) <= 4 * math.sqrt(said * (1 - said) / 1_000)
