"""The front of a scenario: laws over random nets, against the definition written out plainly."""

from __future__ import annotations

import random

import pytest

from enxuto.comparing.dominance import dominates, with_dominated
from enxuto.records import ComparedNet, NetFigures, Published, Scenario
from enxuto.records.comparison import needs


def random_nets(seed: int) -> list[ComparedNet]:
    """A dozen nets with few distinct values, so that ties happen; half of them with an accuracy."""
    draw = random.Random(seed)
    return [random_net(f"zoo:net{place}", draw) for place in range(12)]


def random_net(target: str, draw: random.Random) -> ComparedNet:
    """One net; sometimes it failed, or does not train."""
    if draw.random() < 0.1:
        return ComparedNet(target=target, failed="it is not there")
    figures = NetFigures(
        parameters=1,
        file_bytes=draw.randint(1, 4),
        int8_bytes=1,
        macs=1,
        inference_peak=draw.randint(1, 4),
        folded_peak=None,
        inference_seconds=1.0,
        training_peak=draw.choice([None, 1, 2, 3, 4]),
    )
    top1 = Published(top1=draw.randint(60, 63), weights="", source="") if draw.random() < 0.5 else None
    return ComparedNet(
        target=target, figures=figures, latency_ratio=float(draw.randint(1, 4)), published=top1
    )


def plainly(net: ComparedNet, other: ComparedNet, scenario: Scenario) -> bool:
    """The definition, spelt out."""
    if net.published and other.published:
        both = [(needs(scenario, net), needs(scenario, other))]
        better_accuracy = net.published.top1 - other.published.top1
    else:
        both = [(needs(each, net), needs(each, other)) for each in Scenario]
        better_accuracy = 0
    known = [(a, b) for a, b in both if a is not None and b is not None]
    no_worse = all(a <= b for a, b in known) and better_accuracy >= 0
    better = any(a < b for a, b in known) or better_accuracy > 0
    return bool(known) and no_worse and better


@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("seed", range(25))
def test_marks_are_the_definition(seed: int, scenario: Scenario) -> None:
    nets = random_nets(seed)
    marked = with_dominated(nets, scenario)
    assert [net.target for net in marked] == [net.target for net in nets]
    able = [net for net in nets if needs(scenario, net) is not None]
    for net, row in zip(nets, marked, strict=True):
        better = [other for other in able if plainly(other, net, scenario)]
        assert bool(row.dominated_by) == bool(better)
        if better:
            least = min(needs(scenario, other) or 0 for other in better)
            assert row.dominated_by in {o.target for o in better if needs(scenario, o) == least}


@pytest.mark.parametrize("seed", range(10))
def test_no_net_dominates_itself_or_one_that_dominates_it(seed: int) -> None:
    nets = random_nets(seed)
    for scenario in Scenario:
        for net in nets:
            assert not dominates(net, net, scenario)
            assert not any(dominates(net, o, scenario) and dominates(o, net, scenario) for o in nets)


def test_equal_nets_are_both_on_the_front() -> None:
    twins = [random_net(name, random.Random(3)) for name in ("zoo:one", "zoo:two")]
    assert [net.dominated_by for net in with_dominated(twins, Scenario.FILE)] == ["", ""]
