"""Pruning while training: a shrunk run equals a masked one, state is remapped, and a resume is no change."""

from __future__ import annotations

import copy
import io
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from enxuto.compressing.pruning import Cubic, Importance, Ranking, Shrinking, apply_shapes, prunable
from enxuto.compressing.pruning.removal import cuts_of, narrowed, remove, remove_from_state
from enxuto.compressing.pruning.soundness import mask
from enxuto.errors import UsageError

_spec = util.spec_from_file_location("small_nets", Path(__file__).with_name("small_nets.py"))
small_nets = util.module_from_spec(_spec)
sys.modules["small_nets"] = small_nets
_spec.loader.exec_module(small_nets)
CASES, built = small_nets.CASES, small_nets.built

pytest.importorskip("torch_pruning", reason="structured pruning's engine: pip install 'enxuto[compress]'")
torch.set_num_threads(1)

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "amsgrad": lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5, centered=True),
}
NAMES = ["digits", "residual", "vit", "gpt"]


def batch(name, seed, double=False):
    generator = torch.Generator().manual_seed(seed)
    if name == "gpt":
        return torch.randint(64, (4, 8), generator=generator), torch.randint(64, (4, 8), generator=generator)
    shape = CASES[name].example(1).shape[1:]
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64 if double else torch.float32)
    return x, torch.randint(10, (4,), generator=generator)


def learn(model, optimizer, x, y):
    optimizer.zero_grad()
    out = model(x)
    loss = F.cross_entropy(out.flatten(0, -2), y.flatten())
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_steps_after_a_removal_are_those_of_a_masked_run(name, optimizer):
    """Rows removed from weights and state against rows set to zero in both, over three more steps."""
    full = built(name).double()
    groups = prunable(built(name), CASES[name].example(1)).groups
    removed = {group.name: tuple(range(0, group.units, 2)) for group in groups}
    cuts = cuts_of(groups, removed)
    masked = full
    masked_optimizer = OPTIMIZERS[optimizer](masked.parameters())
    for seed in range(2):
        learn(masked, masked_optimizer, *batch(name, seed, double=True))
    small = copy.deepcopy(masked)
    optimizer_of_small = copy.deepcopy(
        masked_optimizer,
        {id(a): b for a, b in zip(masked.parameters(), small.parameters(), strict=True)},
    )
    parameters = [id(parameter) for parameter in small.parameters()]
    remove_from_state(small, optimizer_of_small, cuts)
    remove(small, groups, removed)
    mask_run(masked, masked_optimizer, groups, removed, cuts)
    assert [id(parameter) for parameter in small.parameters()] == parameters
    for seed in range(2, 5):
        x, y = batch(name, seed, double=True)
        one, other = learn(masked, masked_optimizer, x, y), learn(small, optimizer_of_small, x, y)
        mask_run(masked, masked_optimizer, groups, removed, cuts)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0)
    for path, parameter in small.named_parameters():
        old = masked.get_parameter(path)
        torch.testing.assert_close(parameter, narrowed(old, cuts.get(path, {})), rtol=1e-7, atol=1e-9)
        for key, value in optimizer_of_small.state[parameter].items():
            expected = masked_optimizer.state[old][key]
            if value.dim():
                expected = narrowed(expected, cuts.get(path, {}))
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    assert optimizer_of_small.param_groups[0]["params"] == list(small.parameters())


def mask_run(model, optimizer, groups, removed, cuts):
    """Weights and state of these units at zero: frozen, as a mask-only pruner does."""
    mask(model, groups, removed)
    for path, dims in cuts.items():
        if path in dict(model.named_parameters()):
            for value in optimizer.state[model.get_parameter(path)].values():
                for dim, gone in dims.items():
                    if value.dim():
                        value.index_fill_(dim, torch.tensor(sorted(gone)), 0)


def run(name, make_optimizer, *, steps=9, stop=None, checkpoint=None, importance=Importance.MAGNITUDE):
    """Train on a schedule; stop and give a checkpoint, or go on from one."""
    model = built(name)
    optimizer = make_optimizer(model.parameters())
    shrinking = Shrinking(
        model,
        optimizer,
        Cubic(ratio=0.5, start=2, end=8, every=3),
        CASES[name].example(1),
        ranking=Ranking(importance=importance),
    )
    if checkpoint is not None:
        saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
        shrinking.load_state_dict(saved["shrinking"])
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for step in range(shrinking.steps, steps):
        if step == stop:
            stream = io.BytesIO()
            parts = {"model": model, "optimizer": optimizer, "shrinking": shrinking}
            torch.save({key: part.state_dict() for key, part in parts.items()}, stream)
            return stream.getvalue()
        torch.manual_seed(step)  # of dropout; a user restores the generator from the checkpoint
        loss = learn(model, optimizer, *batch(name, step))
        shrinking.step()
        assert (
            loss.grad_fn is not None
        )  # and so the old graph is alive during the next backward, as in users' loops
    return model, optimizer, shrinking


@pytest.mark.parametrize(("importance", "stop"), [(Importance.MAGNITUDE, 8), (Importance.FIRST_ORDER, 3)])
@pytest.mark.parametrize("name", ["residual", "mobilenet", "vit"])
def test_a_resumed_run_ends_with_the_same_bits(name, importance, stop):
    whole = run(name, OPTIMIZERS["amsgrad"], importance=importance)
    checkpoint = run(name, OPTIMIZERS["amsgrad"], importance=importance, stop=stop)
    resumed = run(name, OPTIMIZERS["amsgrad"], importance=importance, checkpoint=checkpoint)
    assert abs(whole[2].ratio - 0.5) <= 0.5 / sum(group.units for group in whole[2].groups) + 1e-9
    assert resumed[2].state_dict() == whole[2].state_dict()
    for one, other in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(one, other)
        for key, value in whole[1].state[one].items():
            assert torch.equal(value, resumed[1].state[other][key])
    fresh = apply_shapes(built(name), whole[2].spec)
    fresh.load_state_dict(whole[0].state_dict())
    x = batch(name, 99)[0]
    assert torch.equal(fresh.eval()(x), whole[0].eval()(x))


def test_everything_that_training_keeps_becomes_smaller():
    torch.manual_seed(0)
    model = built("mobilenet")
    optimizer = OPTIMIZERS["adam"](model.parameters())
    shrinking = Shrinking(
        model, optimizer, Cubic(ratio=0.6, start=1, end=1, every=1), CASES["mobilenet"].example(1)
    )
    before = held(model, optimizer, learn(model, optimizer, *batch("mobilenet", 0)))
    assert shrinking.step()
    after = held(model, optimizer, None)
    assert after["weights"] < 0.5 * before["weights"]
    assert after["gradients"] == after["weights"]
    assert after["state"] == 2 * after["weights"]
    storages = sum(p.untyped_storage().nbytes() for p in model.parameters())
    assert storages == after["weights"]  # views of the old tensors would hold their memory


def held(model, optimizer, _):
    tensors = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    return {
        "weights": sum(p.numel() * 4 for p in model.parameters()),
        "gradients": sum(p.grad.untyped_storage().nbytes() for p in model.parameters()),
        "state": sum(v.untyped_storage().nbytes() for v in tensors),
    }


def test_parameter_groups_keep_their_settings_and_objects():
    model = built("digits")
    head, body = list(model.classifier.parameters()), list(model.features.parameters())
    optimizer = torch.optim.SGD([{"params": body, "lr": 0.1}, {"params": head, "lr": 0.01}], momentum=0.9)
    shrinking = Shrinking(
        model, optimizer, Cubic(ratio=0.5, start=1, end=1, every=1), CASES["digits"].example(1)
    )
    learn(model, optimizer, *batch("digits", 0))
    shrinking.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    for group, expected in zip(optimizer.param_groups, (body, head), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    learn(model, optimizer, *batch("digits", 1))


def test_the_schedule_is_cubic_and_ends_on_its_ratio():
    cubic = Cubic(ratio=0.8, start=10, end=40, every=10)
    due = [step for step in range(1, 60) if cubic.is_due(step)]
    assert due == [10, 20, 30, 40]
    # t = 1/4, 2/4, 3/4, 1 of the way: 0.8 × (1 - (1 - t)³)
    assert [cubic.gone_at(step) for step in due] == pytest.approx(
        [0.8 * (1 - left**3) for left in (0.75, 0.5, 0.25, 0.0)]
    )
    assert cubic.gone_at(9) == 0 and cubic.gone_at(19) == cubic.gone_at(10) and cubic.gone_at(99) == 0.8
    uneven = Cubic(ratio=0.5, start=1, end=6, every=4)
    assert [step for step in range(1, 9) if uneven.is_due(step)] == [1, 5, 6]
    assert uneven.gone_at(6) == 0.5


def test_what_is_gone_never_comes_back():
    shrinking = run("mobilenet", OPTIMIZERS["momentum"])[2]
    history = shrinking.state_dict()["history"]
    assert [entry["step"] for entry in history] == [2, 5, 8]
    assert all(units for entry in history for units in entry["removed"].values())


def test_state_of_another_shape_is_refused_before_anything_changes():
    model = built("digits")
    optimizer = torch.optim.Adafactor(model.parameters())
    schedule = Cubic(ratio=0.5, start=1, end=1, every=1)
    shrinking = Shrinking(model, optimizer, schedule, CASES["digits"].example(1))
    learn(model, optimizer, *batch("digits", 0))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="Adafactor"):
        shrinking.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert shrinking.steps == 0 and shrinking.ratio == 0
    with pytest.raises(UsageError, match="Adafactor"):
        Shrinking(model, optimizer, schedule, CASES["digits"].example(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cubic(ratio=1, start=1, end=2, every=1), "below 1"),
        (lambda: Cubic(ratio=0.5, start=3, end=2, every=1), "start <= end"),
        (lambda: Ranking(importance=Importance.ACTIVATION), "while training"),
        (lambda: without_gradients(), "before zero_grad"),
        (lambda: run_on(nn.LSTM(2, 2)), "LSTM|follow"),
        (lambda: loaded_late(), "freshly built"),
    ],
)
def test_wrong_calls_say_what_to_do(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def without_gradients():
    model = built("digits")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = Cubic(ratio=0.5, start=1, end=1, every=1)
    ranking = Ranking(importance=Importance.FIRST_ORDER)
    Shrinking(model, optimizer, schedule, CASES["digits"].example(1), ranking=ranking).step()


def run_on(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Shrinking(model, optimizer, Cubic(ratio=0.5, start=1, end=1, every=1), torch.rand(3, 1, 2))


def loaded_late():
    shrinking = run("digits", OPTIMIZERS["adam"])[2]
    shrinking.load_state_dict(shrinking.state_dict())
