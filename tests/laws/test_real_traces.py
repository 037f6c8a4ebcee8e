"""Real nets' Timelines keep every law of the record, in both worlds."""

from __future__ import annotations

import pytest

from enxuto import trace
from enxuto.targets import resolve
from enxuto.testing import check_timeline

TARGETS = ["zoo:digits_cnn?batch=4", "zoo:llama_tiny?batch=2&length=16", "zoo:lstm?batch=4&length=8"]


@pytest.mark.parametrize("world", ["dry", "cpu"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_traced_step_keeps_every_law(target: str, world: str) -> None:
    check_timeline(trace(resolve(target), world=world))
