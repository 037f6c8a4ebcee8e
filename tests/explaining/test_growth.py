"""Growth: exact for a real cache, silent where nothing grows by a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from enxuto.explaining.growth import growth
from enxuto.records import Category, Facts, Growth, Timeline
from enxuto.tracing import trace
from tests.explaining.timelines import Script
from tests.explaining.works import generation

INFERENCE = Facts(workload="script", torch="2.13.0", training=False, grad_enabled=False)


@pytest.mark.parametrize(("batch", "width", "new_tokens"), [(2, 32, 8), (3, 16, 5)])
def test_a_cache_grows_by_a_key_and_a_value_per_token(batch: int, width: int, new_tokens: int) -> None:
    work = generation(batch=batch, width=width, new_tokens=new_tokens)
    rows = {row.module: row for row in growth(trace(work, steps=1, calibrate=False))}
    token = 2 * batch * width * 4  # a key and a value of `width` floats for each sequence
    length = 4 + new_tokens - 1  # the prompt and every token but the last, which no call has read
    for layer in ("h.0.attn", "h.1.attn"):
        assert rows[layer] == Growth(module=layer, nbytes=length * token, per_token=token)
    # outside modules: the chosen tokens, int64 (the logits are as large at every exit)
    assert {name: row.per_token for name, row in rows.items() if "attn" not in name} == {"": 8 * batch}


def test_three_calls_are_too_few() -> None:
    assert growth(trace(generation(new_tokens=3), steps=1, calibrate=False)) == ()


def calls(kept: Sequence[int], *, facts: Facts = INFERENCE) -> Timeline:
    """Calls of the model whose layer keeps so many bytes more (or less) at the end of each."""
    script = Script(ticks=10 * len(kept) + 10, facts=facts)
    script.block(1000, Category.PARAMETER, 0, script.ticks, name="layer.weight")
    for index, nbytes in enumerate(kept):
        start = 10 * index
        script.call("", start, start + 8)
        inner = script.call("layer", start + 1, start + 7)
        script.block(nbytes, Category.TEMPORARY_FORWARD, start + 2, start + 12, call=inner)
        script.block(999, Category.TEMPORARY_FORWARD, start + 2, start + 4, call=inner)
        script.block(7**index, Category.TEMPORARY_FORWARD, start + 2, start + 8, call=inner)  # gone at exit
    return script.timeline()


@pytest.mark.parametrize(
    ("kept", "rows"),
    [
        ((50, 10, 20, 30, 40), (Growth(module="layer", nbytes=40, per_token=10),)),
        ((10, 20, 30, 40), (Growth(module="layer", nbytes=40, per_token=10),)),
        ((10, 20, 30, 41), ()),
        ((40, 30, 20, 10), ()),
        ((10, 10, 10, 10), ()),
        ((10, 20, 30), ()),
        ((10, 20, 30, 40, 50, 55, 60, 65, 70), (Growth(module="layer", nbytes=70, per_token=5),)),
        ((10, 20, 30, 40, 50, 60, 65, 70), ()),
    ],
)
def test_only_a_law_of_equal_steps_is_growth(kept: Sequence[int], rows: tuple[Growth, ...]) -> None:
    assert growth(calls(kept)) == rows


def test_training_is_not_looked_at() -> None:
    assert growth(calls((10, 20, 30, 40), facts=replace(INFERENCE, training=True))) == ()


def test_without_a_model_call_nothing_grows() -> None:
    assert growth(Script(ticks=5, facts=INFERENCE).timeline()) == ()
