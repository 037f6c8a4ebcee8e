"""The laws of a Timeline, on random ones; each test of a broken one shows that the check can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto import Timeline
from enxuto.testing import check_timeline, random_timeline


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_random_timelines_keep_every_law_and_travel_as_json(seed: int) -> None:
    timeline = random_timeline(seed)
    check_timeline(timeline)
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize("seed", range(5))
def test_a_natural_death_before_its_birth_is_caught(seed: int) -> None:
    timeline = random_timeline(seed)
    natural = timeline.blocks.natural.copy()
    natural[0] = timeline.blocks.born[0] - 1
    with pytest.raises(AssertionError):
        check_timeline(replace(timeline, blocks=replace(timeline.blocks, natural=natural)))


@pytest.mark.parametrize("seed", range(5))
def test_a_release_before_its_pack_is_caught(seed: int) -> None:
    timeline = random_timeline(seed)
    release = timeline.saves.release.copy()
    release[0] = timeline.saves.pack[0] - 1
    with pytest.raises(AssertionError):
        check_timeline(replace(timeline, saves=replace(timeline.saves, release=release)))
