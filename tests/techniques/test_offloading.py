"""Activation offload: the law with the host's copies counted, the bits of gradients, and what is refused."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from enxuto.errors import UsageError
from enxuto.planning import Replay
from enxuto.records import Offload, Phase
from enxuto.techniques import Refused, edited, offloading
from enxuto.techniques.checkpointing import calls_by_path
from enxuto.testing import check_timeline
from enxuto.testing.techniques import check_technique
from tests.techniques.nets import NETS, plain


def fuzzed(name: str, seed: int) -> list[Offload]:
    """Modules at random, none inside another, and only those that may go."""
    rng = random.Random(f"{name} {seed}")
    paths = [path for path in calls_by_path(plain(name)) if path]
    chosen: list[str] = []
    for path in rng.sample(paths, min(len(paths), rng.randint(1, 8))):
        if any(path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in chosen):
            continue
        try:
            offloading.simulate(plain(name), [Offload(module=path)], host_counts=True)
        except Refused:
            continue
        chosen.append(path)
    return [Offload(module=path) for path in chosen]


@pytest.mark.parametrize("name", NETS)
def test_what_goes_to_the_host_is_simulated_to_the_byte(name: str) -> None:
    checked = 0
    for seed in range(2):
        actions = fuzzed(name, seed)
        if actions:
            check_timeline(check_technique(NETS[name], actions, plain=plain(name)))
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["gpt", "unet"])
def test_what_is_found_lowers_what_a_gpu_keeps_and_can_be_traced(name: str) -> None:
    step = plain(name)
    candidates, refused = offloading.find(step)
    assert candidates
    assert not {c.action.module for c in candidates} & {module for module, _ in refused}
    turn = next(span.start for span in step.phases if span.phase is Phase.BACKWARD)
    for candidate in candidates:
        freed = step.curve[turn] - edited(step, candidate.edit).curve[turn]
        assert step.peak / 2000 <= freed <= candidate.moved
    dearest = max(candidates, key=lambda c: c.moved)
    check_technique(NETS[name], [dearest.action], plain=step)


def test_the_device_s_peak_falls_by_what_waits_on_the_host() -> None:
    step, action = plain("vit"), [Offload(module="blocks")]
    on_gpu = edited(step, offloading.simulate(step, action, host_counts=False))
    on_cpu = edited(step, offloading.simulate(step, action, host_counts=True))
    assert on_gpu.peak < step.peak <= on_cpu.peak
    moved = offloading.moved_bytes(step, action[0])
    assert on_cpu.curve.max() - on_gpu.curve.max() <= moved


class Shared(nn.Module):
    """Saves one storage through several views, before and after it was written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.first = nn.Linear(6, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.first(x)).square().sum()


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        y = self.drop(a * b)
        z = y.exp()
        w = z * b
        z = w.relu_()
        return self.last(z.bfloat16().float()) * z


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(7)
    model.zero_grad()
    model(x).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_gradients_are_equal_to_the_bit_with_views_in_place_writes_and_dropout() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(5, 6)
    expected = gradients(model, x)
    before = dict(model.inner.__dict__)
    with offloading.apply(model, [Offload(module="inner")]):
        found = gradients(model, x)
        assert found
        again = gradients(model, x)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert model.inner.__dict__ == before
    assert "forward" not in model.inner.__dict__


def test_a_storage_written_between_two_saves_travels_twice() -> None:
    """`exp` saves its result, a product saves it again after it was changed."""
    torch.manual_seed(0)
    host = offloading._Host(set())
    values = torch.rand(4)
    first, shared = host.pack(values), host.pack(values[1:])
    values.mul_(2)
    second = host.pack(values)
    assert not isinstance(first, torch.Tensor)
    assert first.kept is shared.kept is not second.kept
    assert torch.equal(host.unpack(first) * 2, host.unpack(second))
    held = host.unpack(first)
    assert held.untyped_storage().data_ptr() == host.unpack(shared).untyped_storage().data_ptr()


def test_what_cannot_go_is_refused() -> None:
    with pytest.raises(Refused, match="batch itself"):
        offloading.simulate(plain("lstm"), [Offload(module="embedding")], host_counts=True)
    with pytest.raises(Refused, match="inside another"):
        both = [Offload(module="blocks"), Offload(module="blocks.0")]
        offloading.simulate(plain("vit"), both, host_counts=True)
    with pytest.raises(UsageError, match="nowhere"), offloading.apply(Shared(), [Offload(module="nowhere")]):
        pass


def test_the_fast_replay_sees_what_comes_back_for_a_moment() -> None:
    """A copy that is back between two births of the plain step is a peak of its own."""
    checked = 0
    for seed in (10_068, 10_140):  # found by benchmarks/laws.py
        actions = fuzzed("unet", seed)
        edit = offloading.simulate(plain("unet"), actions, host_counts=True)
        assert Replay(plain("unet"), [edit]).peak([0]) == edited(plain("unet"), edit).peak
        checked += 1
    assert checked == 2
