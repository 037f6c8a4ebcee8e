"""Structured pruning: removing equals masking, budgets hold, and another process can rebuild what came out."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
from torch import nn

from enxuto.compressing.pruning import (
    Importance,
    Kind,
    Limit,
    Pruning,
    Scope,
    Size,
    apply_shapes,
    prunable,
    prune,
    size_of,
)
from enxuto.compressing.pruning.groups import find_groups
from enxuto.compressing.pruning.importance import magnitude
from enxuto.compressing.pruning.removal import cuts_of, remove, renumbered
from enxuto.compressing.pruning.selection import ordered, size_after, unit_costs
from enxuto.compressing.pruning.soundness import mask
from enxuto.compressing.rebuilding import rebuild
from enxuto.errors import UsageError
from enxuto.records import Rebuild, Reshape

_spec = util.spec_from_file_location("small_nets", Path(__file__).with_name("small_nets.py"))
small_nets = util.module_from_spec(_spec)
sys.modules["small_nets"] = small_nets
_spec.loader.exec_module(small_nets)
CASES, built = small_nets.CASES, small_nets.built

pytest.importorskip("torch_pruning", reason="structured pruning's engine: pip install 'enxuto[compress]'")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def found():
    """What can go from each net, found once."""
    cache = {}

    def find(name):
        if name not in cache:
            cache[name] = prunable(built(name), CASES[name].example(1))
        return cache[name]

    return find


def random_units(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: tuple(
            torch.randperm(group.units, generator=generator)[: int(group.units * 0.6)].sort()[0].tolist()
        )
        for group in groups
    }


@pytest.mark.parametrize(("name", "seed"), [*((name, 1) for name in CASES), ("residual", 2), ("vit", 2)])
def test_removing_units_equals_setting_them_to_zero(name, seed, found):
    groups = found(name).groups
    removed = random_units(groups, seed)
    masked, smaller = built(name).double().eval(), built(name).double().eval()
    mask(masked, groups, removed)
    remove(smaller, groups, removed)
    x = CASES[name].example(3)
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        expected, got = masked(x), smaller(x)
        assert not torch.allclose(built(name).double().eval()(x), expected, rtol=1e-3), "vacuous"
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    assert sum(p.numel() for p in smaller.parameters()) < 0.8 * sum(p.numel() for p in masked.parameters())


@pytest.mark.parametrize("name", CASES)
def test_removing_twice_equals_removing_at_once(name, found):
    """Indices that were renumbered after the first removal are those of a new search."""
    groups = found(name).groups
    first, second = random_units(groups, 3), random_units(groups, 4)
    both = {key: tuple(sorted({*first[key], *second[key]})) for key in first}
    both = {key: units if len(units) < dict_units(groups)[key] else first[key] for key, units in both.items()}
    later = {
        key: tuple(unit - sum(gone < unit for gone in first[key]) for unit in units if unit not in first[key])
        for key, units in both.items()
    }
    once, twice = built(name), built(name)
    remove(once, groups, both)
    remove(twice, groups, first)
    remove(twice, renumbered(groups, first), later)
    assert {k: v.tolist() for k, v in once.state_dict().items()} == {
        k: v.tolist() for k, v in twice.state_dict().items()
    }
    assert repr(once) == repr(twice)


def dict_units(groups):
    return {group.name: group.units for group in groups}


def test_the_groups_are_the_ones_that_the_architectures_have(found):
    kinds = {name: [group.kind for group in found(name).groups] for name in CASES}
    assert kinds["vit"].count(Kind.HEADS) == 2 and kinds["vit"].count(Kind.HIDDEN) == 2
    assert kinds["gpt"].count(Kind.HEADS) == 2 and kinds["gpt"].count(Kind.HIDDEN) == 2
    assert kinds["three projections"].count(Kind.HEADS) == 1
    # stem with layer1, then per later stage its trunk; one inner group for each of 8 blocks
    assert len(kinds["resnet"]) == 4 + 8
    assert [group.units for group in found("digits").groups] == [8, 8, 8]  # the norm's 8 groups go whole
    refused = {refusal.lever: refusal.reason for refusal in found("digits").refused}
    assert "outputs" in refused["classifier"]


@pytest.mark.parametrize("name", ["residual", "squeezenet", "vit"])
@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("importance", Importance)
def test_every_way_to_rank_gives_a_net_that_answers_alike(name, scope, importance, found):
    model, x = built(name), CASES[name].example(8)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    settings = Pruning(ratio=0.4, importance=importance, scope=scope)
    data = (x, torch.randint(10, (8,), generator=torch.Generator().manual_seed(0)))
    pruned = prune(model, x[:1], settings, data=data, found=found(name))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert pruned.model.eval()(x).shape == (8, 10)
    units = sum(group.units for group in found(name).groups)
    left = find_groups(pruned.model, x[:1])[0]
    assert units - sum(group.units for group in left) == round(0.4 * units)


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_limit_is_met_by_as_little_as_possible(name, size, found):
    model, x = built(name), CASES[name].example(1)
    counts = {
        Size.PARAMETERS: lambda m: sum(p.numel() for p in m.parameters()),
        Size.BYTES: lambda m: sum(t.numel() * t.element_size() for t in (*m.parameters(), *m.buffers())),
        Size.MACS: lambda m: macs(m, x),
    }
    limit = counts[size](model) // 2
    pruned = prune(model, x, Pruning(limit=Limit(size=size, at_most=limit)), found=found(name))
    assert pruned.met
    assert 0.95 * limit < counts[size](pruned.model) <= limit
    impossible = prune(model, x, Pruning(limit=Limit(size=size, at_most=1)), found=found(name))
    assert not impossible.met and counts[size](impossible.model) > 1


@pytest.mark.parametrize("round_to", [1, 4])
def test_the_shortest_beginning_that_is_enough_is_found(round_to, found):
    """Against a walk through every beginning of the order."""
    model, groups = built("residual"), found("residual").groups
    worth = {group.name: magnitude(model, group) for group in groups}
    order = ordered(
        groups, worth, importance=Importance.MAGNITUDE, scope=Scope.GLOBAL, most=0.9, round_to=round_to
    )
    total = sum(p.numel() for p in model.parameters())
    sizes = [
        size_after(model, {}, Size.PARAMETERS, cuts_of(groups, order.first(n)))
        for n in range(len(order.units) + 1)
    ]
    assert sizes[0] == total and sizes == sorted(sizes, reverse=True)
    for limit in range(0, total + 50, 50):
        chosen = order.fewest(
            lambda removed, limit=limit: (
                size_after(model, {}, Size.PARAMETERS, cuts_of(groups, removed)) <= limit
            )
        )
        first = next((n for n, size in enumerate(sizes) if size <= limit), len(order.units))
        assert chosen == order.first(first)


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_unit_costs_what_goes_with_it(name, size, found):
    """Whichever unit goes, by the sizes of the net before and after."""
    model, x, here = built(name), CASES[name].example(1), found(name)
    costs = unit_costs(model, here.groups, here.positions, size)
    whole = size_of(model, x, size)
    for group in here.groups[::3]:
        smaller = copy.deepcopy(model)
        remove(smaller, here.groups, {group.name: (group.units - 1,)})
        assert costs[group.name] == whole - size_of(smaller, x, size)


class TwoSizes(nn.Module):
    """Three groups whose units are worth the same: one of them takes 64·1 + 64·4 MACs, 64·8 + 8, and 4 + 3."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1))
        self.narrow = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.5)

    def forward(self, x):
        return self.narrow(self.wide(x))


def test_of_units_worth_the_same_the_one_that_costs_more_goes_first():
    model, x = TwoSizes(), torch.zeros(1, 1, 8, 8)
    limit = Limit(size=Size.MACS, at_most=size_of(model, x, Size.MACS) - 1)
    pruned = prune(model, x, Pruning(limit=limit, by_cost=True))
    wide, narrow = pruned.model.wide, pruned.model.narrow
    assert (wide[0].out_channels, wide[2].out_channels, narrow[1].out_features) == (8, 3, 8)
    with pytest.raises(UsageError, match="give a limit"):
        Pruning(ratio=0.5, by_cost=True)


def test_what_costs_nothing_goes_last(found):
    groups = found("residual").groups
    worth = {group.name: torch.arange(1, group.units + 1, dtype=torch.float64) for group in groups}
    costs = {group.name: 0.0 if place == 0 else 2.0 for place, group in enumerate(groups)}
    order = ordered(
        groups, worth, importance=Importance.FIRST_ORDER, scope=Scope.GLOBAL, most=0.9, costs=costs
    )
    places = [place for place, _ in order.units]
    assert places.count(0) > 0 and set(places[-places.count(0) :]) == {0}


def macs(model, x):
    """Multiply-accumulates of one pass, each written out from the layer's own numbers."""
    total = []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Linear):
            total.append(output.numel() * layer.in_features)
        elif isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total.append(output.numel() * layer.in_channels // layer.groups * kernel)

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    training = model.training
    model.eval()(x)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return sum(total)


def test_uniform_takes_the_same_share_of_each_group_and_rounds(found):
    name = "resnet"
    model, groups = built(name), found(name).groups
    worth = {group.name: magnitude(model, group) for group in groups}
    order = ordered(
        groups, worth, importance=Importance.MAGNITUDE, scope=Scope.UNIFORM, most=0.9, round_to=16
    )
    removed = order.first(round(0.5 * sum(group.units for group in groups)))
    for group in groups:
        assert group.units - len(removed[group.name]) == group.units // 2  # all are multiples of 32
        cheapest = worth[group.name].argsort()[: group.units // 2].tolist()
        assert sorted(cheapest) == list(removed[group.name])


def test_first_order_is_the_derivative_of_the_loss_by_a_gate():
    """The score is |∂L/∂g| at g = 1, g a factor on the unit's activation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(16, 5, dtype=torch.float64), torch.randint(3, (16,))
    found = prunable(model, x[:1])
    from enxuto.compressing.losses import supervised_loss
    from enxuto.compressing.pruning.importance import scores
    from enxuto.samples import Samples

    got = scores(model, found.groups, Importance.FIRST_ORDER, data=Samples((x,), y), loss=supervised_loss)[
        "0"
    ]
    gate = torch.ones(7, dtype=torch.float64, requires_grad=True)
    supervised_loss(model[2](gate * torch.tanh(model[0](x))), y).backward()
    torch.testing.assert_close(got, gate.grad.abs())


def test_activation_scores_are_what_the_readers_make_of_each_unit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x = torch.randn(16, 5, dtype=torch.float64)
    from enxuto.compressing.pruning.importance import scores
    from enxuto.samples import Samples

    got = scores(model, prunable(model, x[:1]).groups, Importance.ACTIVATION, data=Samples((x,)))["0"]
    hidden = torch.tanh(model[0](x)).detach()
    each = torch.stack([(hidden[:, i, None] * model[2].weight[:, i]).square().sum() for i in range(7)])
    torch.testing.assert_close(got, each.detach())


REBUILD = """
import sys, torch
from importlib import util
from safetensors.torch import load_file
from enxuto.compressing.rebuilding import rebuild
from enxuto.records import Rebuild
spec = util.spec_from_file_location("small_nets", sys.argv[1])
nets = util.module_from_spec(spec); sys.modules["small_nets"] = nets; spec.loader.exec_module(nets)
torch.set_num_threads(1)
for name in sys.argv[3:]:
    folder = f"{sys.argv[2]}/{name}"
    model = rebuild(nets.CASES[name].build(), Rebuild.from_json(open(f"{folder}.json", "rb").read()))
    model.load_state_dict(load_file(f"{folder}.safetensors"))
    x = load_file(f"{folder}.io")
    assert torch.equal(model.eval()(x["in"]), x["out"]), name
print("equal")
"""


def test_a_fresh_process_rebuilds_the_same_net_to_the_bit(tmp_path, found):
    save_file = pytest.importorskip("safetensors.torch").save_file
    names = ["mobilenet", "vit", "squeezenet", "three projections"]
    for name in names:
        x = CASES[name].example(2)
        pruned = prune(built(name), x[:1], Pruning(ratio=0.5), found=found(name))
        record = Rebuild().then(pruned.spec)
        (tmp_path / f"{name}.json").write_bytes(record.to_json())
        save_file(pruned.model.state_dict(), tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            save_file({"in": x, "out": pruned.model.eval()(x)}, tmp_path / f"{name}.io")
        again = rebuild(built(name), Rebuild.from_json(record.to_json()))
        assert repr(again) == repr(pruned.model)  # counts such as in_channels and groups are right too
    nets = str(Path(__file__).with_name("small_nets.py"))
    done = subprocess.run(
        [sys.executable, "-c", REBUILD, nets, str(tmp_path), *names],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def test_a_pruned_net_trains_and_keeps_its_counts(found):
    model, x = built("mobilenet"), CASES["mobilenet"].example(4)
    pruned = prune(model, x[:1], Pruning(ratio=0.5, keep=("features.0",)), found=None)
    assert pruned.model.features[0][0].out_channels == model.features[0][0].out_channels
    assert "kept, as you asked" in {refusal.reason for refusal in pruned.refused}
    pruned.model(x).sum().backward()
    for layer in pruned.model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight) == len(layer.running_mean)


class Shuffled(nn.Module):
    """A channel shuffle (ShuffleNet) between two convolutions, and a plain pair after them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 6, 1)
        self.third = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.third(self.second(x).relu())


def test_what_the_engine_follows_wrongly_is_refused_by_name():
    found = prunable(Shuffled(), torch.rand(1, 3, 4, 4))
    assert [group.name for group in found.groups] == ["second"]
    assert "first" in {refusal.lever for refusal in found.refused}


class HandNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(x / x.square().mean(-1, keepdim=True).sqrt())


class WidthWritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 2
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), -1, 3, self.heads, 8 // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.rand(2, 4), "normalises"),
        (HandNorm(), torch.rand(2, 4), "not the same as setting them to zero"),
        (nn.Sequential(nn.Conv1d(4, 8, 1, groups=2), nn.Conv1d(8, 3, 1)), torch.rand(1, 4, 5), "groups"),
        (WidthWritten(), torch.rand(1, 5, 8), "does not run"),
        (nn.Linear(4, 3), torch.rand(1, 4), "outputs"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 3)),
            torch.rand(1, 4),
            "computed from others",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_the_reason(model, example, reason):
    with pytest.raises(UsageError, match=reason):
        prune(model, example, Pruning(ratio=0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pruning(ratio=1.0), "below 1"),
        (lambda: Pruning(), "above 0"),
        (lambda: Pruning(ratio=0.5, limit=Limit(size=Size.BYTES, at_most=1)), "not both"),
        (lambda: Pruning(ratio=0.5, most=1.0), "most"),
        (
            lambda: prune(torch.jit.script(nn.Linear(2, 2)), torch.rand(1, 2), Pruning(ratio=0.5)),
            "TorchScript",
        ),
        (lambda: prune(nn.ReLU(), torch.rand(1, 2, requires_grad=True), Pruning(ratio=0.5)), "no layer"),
        (lambda: prune(nn.DataParallel(nn.Linear(2, 2)), torch.rand(1, 2), Pruning(ratio=0.5)), "inside"),
        (lambda: prune(built("vit"), torch.rand(1, 1), Pruning(ratio=0.5)), "cannot follow"),
        (lambda: prunable(built("digits"), torch.rand(1, 1, 28, 28), keep=("nothing",)), "nothing"),
        (lambda: prune_by_activation(), "needs samples"),
        (
            lambda: apply_shapes(nn.Linear(2, 2), Reshape(tensors=(), counts=(count(),))),
            "another architecture",
        ),
    ],
)
def test_wrong_calls_say_what_to_do(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def prune_by_activation():
    settings = Pruning(ratio=0.5, importance=Importance.ACTIVATION)
    return prune(built("digits"), torch.rand(1, 1, 28, 28), settings)


def count():
    from enxuto.records import Counted

    return Counted(module="body.3", name="in_channels", value=3)
