"""Zeros in place: which weights become zero, and that the table of what they save is measured."""

from __future__ import annotations

import gzip

import pytest
import torch
from torch import nn

from enxuto.architectures import digits_cnn
from enxuto.compressing.pruning import Magnitude, NOfM, measure_zeros, zeroed
from enxuto.errors import UsageError

torch.set_num_threads(1)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.93])
def test_the_smallest_weights_of_all_layers_go(ratio):
    torch.manual_seed(0)
    model = digits_cnn()
    sparse = zeroed(model, Magnitude(ratio=ratio))
    before = torch.cat([model.get_parameter(name).detach().flatten() for name in sparse.masks])
    kept = torch.cat([mask.flatten() for mask in sparse.masks.values()])
    assert int((~kept).sum()) == round(ratio * len(kept))
    assert before[~kept].abs().max() <= before[kept].abs().min()
    after = torch.cat([sparse.model.get_parameter(name).detach().flatten() for name in sparse.masks])
    assert torch.equal(after, before * kept)
    assert sparse.zeros_ratio == pytest.approx(ratio, abs=1e-4)
    assert "features.0.1.weight" not in sparse.masks  # norms and biases stay


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
def test_n_of_every_m_stay_and_are_the_largest(n, m):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(19, 6), nn.Conv2d(3, 5, 3))
    sparse = zeroed(model, NOfM(n=n, m=m))
    for name, mask in sparse.masks.items():
        rows = model.get_parameter(name).detach().abs().flatten(1)
        for row, kept in zip(rows, mask.flatten(1), strict=True):
            for start in range(0, len(row) - len(row) % m, m):
                block, stays = row[start : start + m], kept[start : start + m]
                assert int(stays.sum()) == n
                assert block[stays].min() >= block[~stays].max()
            assert kept[len(row) - len(row) % m :].all()


def test_the_table_is_measured_from_real_bytes():
    pytest.importorskip("safetensors")
    from safetensors.torch import save

    torch.manual_seed(0)
    model, x = digits_cnn(), torch.rand(1, 1, 28, 28)
    dense = measure_zeros("dense", model, x, calls=4)
    sparse = measure_zeros("90 %", zeroed(model, Magnitude(ratio=0.9)).model, x, calls=4)
    content = save(dict(model.state_dict()))
    assert (dense.file, dense.gzip) == (len(content), len(gzip.compress(content, 6, mtime=0)))
    assert dense.memory == sum(p.numel() * 4 for p in model.parameters())
    # the honest part: only the compressed file is smaller
    assert (sparse.memory, sparse.file) == (dense.memory, dense.file)
    assert sparse.gzip < 0.4 * dense.gzip
    assert sparse.zeros_ratio > 0.85 > 0.1 > dense.zeros_ratio
    assert dense.seconds > 0 and dense.threads == torch.get_num_threads()
    assert model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Magnitude(ratio=1), "below 1"),
        (lambda: NOfM(n=4, m=4), "n < m"),
        (lambda: zeroed(nn.ReLU(), Magnitude(ratio=0.5)), "no linear layer"),
        (lambda: zeroed(torch.jit.script(nn.Linear(2, 2)), NOfM()), "TorchScript"),
    ],
)
def test_wrong_calls_say_what_to_do(call, message):
    with pytest.raises(UsageError, match=message):
        call()
