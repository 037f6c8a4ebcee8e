"""Which nets no other beats: the Pareto front of a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..records import ComparedNet, Scenario
from ..records.comparison import needs


def with_dominated(nets: Sequence[ComparedNet], scenario: Scenario) -> tuple[ComparedNet, ...]:
    """The rows with `dominated_by` filled in, by the best of those that dominate each.

    Two nets are compared in what the scenario asks for and in accuracy where both were published with one; else in
    the four figures that nets are chosen by: file, inference peak, training peak and latency, those that both have.
    A net dominates another that it is at least as good as in all of these and better than in one.
    """
    best_first = sorted(
        (net for net in nets if needs(scenario, net) is not None),
        key=lambda net: needs(scenario, net) or 0.0,
    )
    return tuple(
        replace(net, dominated_by=next((o.target for o in best_first if dominates(o, net, scenario)), ""))
        for net in nets
    )


def dominates(net: ComparedNet, other: ComparedNet, scenario: Scenario) -> bool:
    """Whether a net is at least as good as another in everything compared, and better in something."""
    pairs = _compared(net, other, scenario)
    return bool(pairs) and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _compared(net: ComparedNet, other: ComparedNet, scenario: Scenario) -> list[tuple[float, float]]:
    """What is compared, as pairs of which the smaller is better."""
    if net.published and other.published:
        wanted = [(needs(scenario, net), needs(scenario, other))]
        accuracies = [(-net.published.top1, -other.published.top1)]
    else:
        wanted = [(needs(each, net), needs(each, other)) for each in Scenario]
        accuracies = []
    known = [(a, b) for a, b in wanted if a is not None and b is not None]
    return [*known, *accuracies] if known else []
