"""The planner: monotone, never dearer than every subset tried, honest where nothing fits."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

from enxuto.planning import Base, Planner, Replay, Speeds, explore, op_seconds
from enxuto.planning.exact import Program
from enxuto.planning.search import choices_of
from enxuto.records import Budget, Numerics, OptimizerInBackward, Plan, Status
from enxuto.techniques import edited, joined, optimizer_in_backward
from enxuto.techniques.checkpointing import Candidate, find
from tests.techniques.nets import plain


@cache
def planner(name: str) -> Planner:
    step = plain(name)
    moved = Base(actions=(OptimizerInBackward(),), timeline=optimizer_in_backward.simulate(step))
    return Planner([Base(actions=(), timeline=step), moved], exact=False)


def blocks_of(name: str) -> list[Candidate]:
    """Whole blocks only, so that every subset can be tried."""
    pattern = {"gpt": "h.", "vit": "blocks.", "unet": ""}[name]
    return [
        c
        for c in find(plain(name)).candidates
        if len(c.action.modules) == 1
        and not c.action.keep
        and not c.inside
        and c.action.modules[0].startswith(pattern)
        and c.action.modules[0].count(".") == (1 if pattern else 0)
    ]


@pytest.mark.parametrize("name", ["gpt", "unet", "resnet18"])
def test_a_smaller_budget_never_gets_a_higher_peak_or_a_cheaper_plan(name: str) -> None:
    full = plain(name).peak
    plans = [planner(name).plan(Budget(bytes=full * share // 50)) for share in range(52, 0, -1)]
    fitting = [plan for plan in plans if plan.status is not Status.INFEASIBLE]
    assert 2 <= len(fitting) < len(plans)
    assert all(plan.after.peak <= plan.budget.bytes for plan in fitting)
    for larger, smaller in itertools.pairwise(fitting):
        assert smaller.after.peak <= larger.after.peak
        assert smaller.after.seconds >= larger.after.seconds - 1e-12
    assert fitting[-1].after.peak < full


@pytest.mark.parametrize("name", ["gpt", "vit", "unet"])
def test_the_search_is_as_good_as_every_subset(name: str) -> None:
    step, candidates = plain(name), blocks_of(name)
    assert len(candidates) >= 3
    seconds = op_seconds(step, Speeds())
    choices = choices_of(step, candidates, seconds)
    subsets = [
        list(chosen)
        for size in range(len(candidates) + 1)
        for chosen in itertools.combinations(range(len(candidates)), size)
    ]
    peaks = {tuple(chosen): choices.peak(chosen) for chosen in subsets}
    explored = explore(step, candidates, seconds, exact=False)
    program = Program(choices)
    for budget in sorted(set(peaks.values())):
        best = min(choices.cost(chosen) for chosen in subsets if peaks[tuple(chosen)] <= budget)
        found = explored.within(budget)
        assert found is not None
        assert found.seconds == pytest.approx(best)
        assert explored.bound(budget) == pytest.approx(best)
        answer = program.solve(budget, found.chosen)
        assert answer.chosen is not None
        assert choices.peak(answer.chosen) <= budget
        assert choices.cost(answer.chosen) == pytest.approx(best, rel=1e-3, abs=1e-12)
        assert answer.bound <= best + 1e-12
    assert explored.points[-1].peak == min(peaks.values())


@pytest.mark.parametrize("name", ["gpt", "mobilenet"])
def test_a_replay_is_the_edited_timeline(name: str) -> None:
    step, candidates = plain(name), find(plain(name)).candidates
    choices = choices_of(step, candidates, op_seconds(step, Speeds()))
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen: list[int] = []
        for index in rng.permutation(len(candidates))[:20].tolist():
            if not choices.excludes[index] & set(chosen):
                chosen.append(index)
        timeline = edited(step, joined(candidates[index].edit for index in chosen))
        assert Replay(step, [c.edit for c in candidates]).peak(chosen) == timeline.peak


def test_a_plan_says_what_it_does_and_comes_back_from_json() -> None:
    full = plain("gpt").peak
    plan = planner("gpt").plan(Budget(bytes=full * 9 // 10))
    assert plan.before.peak == full
    assert plan.levers[0].peak_before == full
    assert plan.levers[-1].peak_after == plan.after.peak
    for before, after in itertools.pairwise(plan.levers):
        assert before.peak_after == after.peak_before
    ratio = float(np.prod([lever.slowdown_ratio for lever in plan.levers]))
    assert ratio == pytest.approx(plan.slowdown_ratio)
    assert planner("gpt").timeline(plan).peak == plan.after.peak
    assert "FLOPs run again" in plan.why(plan.levers[-1].action)
    assert Plan.from_json(plan.to_json()) == plan


def test_what_cannot_be_met_names_the_floor() -> None:
    plan = planner("gpt").plan(Budget(bytes=1000))
    assert plan.status is Status.INFEASIBLE
    assert not plan.fits
    assert plan.after.peak == min(point.peak for point in plan.frontier)
    assert any(held.startswith("parameter: ") for held in plan.floor_holds)


def test_what_the_user_fixed_stays() -> None:
    full = plain("gpt").peak
    budget = Budget(bytes=full * 9 // 10, fixed=("checkpoint",))
    plan = planner("gpt").plan(budget)
    assert all(isinstance(action, OptimizerInBackward) for action in plan.actions)
    plan = planner("gpt").plan(Budget(bytes=full * 9 // 10, fixed=("optimizer-in-backward",)))
    assert OptimizerInBackward() not in plan.actions
    assert plan.why(OptimizerInBackward()) == "fixed by the user"


def test_a_limit_on_time_is_kept() -> None:
    full = plain("gpt").peak
    free = planner("gpt").plan(Budget(bytes=full * 6 // 10))
    assert free.slowdown_ratio > 1.01
    tight = planner("gpt").plan(Budget(bytes=full * 6 // 10, max_slowdown_ratio=1.001))
    assert tight.status is Status.INFEASIBLE or tight.slowdown_ratio <= 1.001


def test_numerics_that_are_not_allowed_are_not_used() -> None:
    plan = planner("gpt").plan(Budget(bytes=plain("gpt").peak // 2, allow=(Numerics.IDENTICAL,)))
    assert {lever.numerics for lever in plan.levers} <= {Numerics.IDENTICAL}


def test_the_plan_is_the_cheapest_of_the_frontier_within_the_budget() -> None:
    full = plain("gpt").peak
    for share in (100, 95, 90, 85):
        plan = planner("gpt").plan(Budget(bytes=full * share // 100))
        fitting = [point.slowdown_ratio for point in plan.frontier if point.peak <= plan.budget.bytes]
        assert plan.slowdown_ratio == pytest.approx(min(fitting))
    assert planner("gpt").plan(Budget(bytes=full)).actions == ()
