"""Actions in words: every kind has a name, alike ones share a line, nobody's module is lost from the count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enxuto.records import (
    Action,
    Checkpoint,
    HostAllocator,
    MicroBatches,
    OneKernelStep,
    SmallerBatch,
)
from enxuto.reporting.actions import name_action, name_actions, name_modules
from tests.reporting import plan_samples
from tests.reporting.samples import ESCAPE


def blocks(*numbers: int, keep: int = 0, after: str = "") -> list[Action]:
    return [Checkpoint(modules=(f"h.{n}{after}",), keep=tuple(range(keep))) for n in numbers]


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (blocks(3), "h.3 runs again"),
        (blocks(3, keep=1), "h.3 runs again, keeping 1 product"),
        (blocks(*range(3, 12), keep=4), "h.3–h.11 run again, keeping 4 products each"),
        (blocks(11, 3, 4), "h.3–h.4, h.11 run again"),
        (blocks(0, 3, 6, 9), "every 3rd of h.0–h.9 run again"),
        (blocks(0, 1, 2, after=".mlp.fc"), "mlp.fc of h.0–h.2 run again"),
        (blocks(0, keep=2) + blocks(1, keep=4), "h.0–h.1 run again, keeping 2 to 4 products each"),
        (blocks(1, 3, 6, 10, 15, 21), "6 modules from h.1 to h.21 run again"),
        ([Checkpoint(modules=("",))], "the whole model runs again"),
        ([Checkpoint(modules=("a.0", "a.1"))], "a.0–a.1 run again as one region"),
        (
            [Checkpoint(modules=tuple(f"h.{3 * r + i}" for i in range(3))) for r in range(4)],
            "h.0–h.11 run again in 4 regions of 3",
        ),
        (
            [Checkpoint(modules=("h.0", "h.1")), Checkpoint(modules=("h.2", "h.3", "h.4"))],
            "h.0–h.4 run again in 2 regions of 2 to 3",
        ),
        ([MicroBatches(pieces=2)], "batch in 2 pieces, one update"),
        ([SmallerBatch(size=16, rate=0.5)], "batch size 16, learning rate ×0.5"),
        ([SmallerBatch(size=16)], "batch size 16"),
        ([HostAllocator()], "freed memory given back at once (thresholds)"),
    ],
)
def test_one_kind_is_one_phrase(actions: list[Action], said: str) -> None:
    assert name_actions(actions) == [said]


def test_kinds_stay_apart_in_the_order_of_their_first() -> None:
    mixed = [*blocks(0), OneKernelStep(), *blocks(1), *blocks(2, keep=3), *blocks(3)]
    assert name_actions(mixed) == [
        "h.0–h.1, h.3 run again",
        "fused optimizer step",
        "h.2 runs again, keeping 3 products",
    ]


def test_every_kind_of_action_has_a_name() -> None:
    actions = plan_samples.feasible().actions
    assert len({type(action) for action in actions}) == 8
    assert all(name_action(action) for action in actions)


def test_a_models_text_is_made_safe() -> None:
    assert "\x1b" not in name_modules([ESCAPE, f"{ESCAPE}.0.{ESCAPE}"])


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_hold_exactly_the_numbers_that_they_are_made_of(numbers: set[int]) -> None:
    text = name_modules([f"h.{n}" for n in numbers])
    if "modules from" in text:
        assert text.startswith(f"{len(numbers)} modules from ")
        return
    assert set(read(text)) == numbers


def read(text: str) -> list[int]:
    """The numbers that a list of ranges stands for."""
    every, _, ends = text.rpartition(" of ")
    step = int(every.split()[1][:-2]) if every else 1
    found: list[int] = []
    for piece in ends.split(", "):
        first, *last = (int(end.removeprefix("h.")) for end in piece.split("–"))
        found += range(first, (last or [first])[0] + 1, step)
    return found
