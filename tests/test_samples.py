"""Samples: what counts as data, and that the three sets share no sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enxuto.errors import UsageError
from enxuto.samples import Samples


def numbered(n: int) -> Samples:
    return Samples((torch.arange(n).float().unsqueeze(1),), torch.arange(n))


def test_a_split_uses_every_sample_once() -> None:
    splits = numbered(103).split(seed=3)
    parts = [splits.calibrate.targets, splits.choose.targets, splits.certify.targets]
    assert [len(part) for part in parts] == [10, 31, 62]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(103))


def test_rows_stay_together() -> None:
    splits = numbered(50).split()
    for part in (splits.calibrate, splits.choose, splits.certify):
        assert torch.equal(part.inputs[0].squeeze(1).long(), part.targets)


def test_a_split_is_drawn_by_its_seed() -> None:
    first, again, other = numbered(50).split(seed=1), numbered(50).split(seed=1), numbered(50).split(seed=2)
    assert first.certify.fingerprint == again.certify.fingerprint != other.certify.fingerprint


def test_a_fingerprint_sees_every_value_and_shape() -> None:
    samples = numbered(8)
    changed = Samples((samples.inputs[0].clone().index_fill_(0, torch.tensor([7]), 1.0),), samples.targets)
    reshaped = Samples((samples.inputs[0].unsqueeze(1),), samples.targets)
    assert len({s.fingerprint for s in (samples, changed, reshaped, Samples(samples.inputs))}) == 4
    assert samples.fingerprint == numbered(8).fingerprint


def test_batches_in_order_with_an_uneven_last() -> None:
    batches = list(numbered(10).batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.targets for batch in batches]), torch.arange(10))


@pytest.mark.parametrize(
    "given",
    [
        (torch.zeros(4, 3), torch.arange(4)),
        (np.zeros((4, 3), np.float32), np.arange(4)),
        [(torch.zeros(3), n) for n in range(4)],
        torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.arange(4)),
    ],
    ids=["tensors", "arrays", "pairs", "dataset"],
)
def test_what_users_have_at_hand(given: object) -> None:
    samples = Samples.of(given)
    assert samples.inputs[0].shape == (4, 3)
    assert torch.equal(samples.targets, torch.arange(4))


def test_several_inputs_and_no_targets() -> None:
    assert len(Samples.of(((torch.zeros(5, 2), torch.ones(5, 3)), torch.arange(5))).inputs) == 2
    assert Samples.of(torch.zeros(5, 2)).targets is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "int"),
        ((torch.zeros(4, 3), torch.arange(5)), r"\[4, 5\]"),
        (torch.zeros(()), r"\[0\]"),
        (["a", "b", "c"], "pairs"),
    ],
)
def test_what_is_no_data_is_said(given: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Samples.of(given)


def test_too_few_to_split() -> None:
    with pytest.raises(UsageError, match="2 samples are too few"):
        numbered(2).split()
