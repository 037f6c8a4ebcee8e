"""The benchmark of pruning while training measures what it says: peaks fall where tensors shrink, and nowhere else."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torch_pruning", reason="structured pruning's engine: pip install 'enxuto[compress]'")

from benchmarks.pruning_during import Arm, Run, train


def test_only_the_shrunk_arm_falls_and_masks_hold_zeros_in_place() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = (torch.rand(64 * 12, 1, 28, 28), torch.randint(10, (64 * 12,)))
    rows = {arm: train(arm, 0, digits, (digits[0][:50], digits[1][:50]), Run(epochs=1)) for arm in Arm}
    first = {arm: row.curve[0] for arm, row in rows.items()}
    last = {arm: row.curve[-1] for arm, row in rows.items()}
    assert first[Arm.DENSE] == first[Arm.SHRUNK] == first[Arm.MASKED]
    assert last[Arm.SHRUNK].peak < 0.7 * last[Arm.DENSE].peak
    assert last[Arm.SHRUNK].weights < 0.7 * last[Arm.DENSE].weights
    assert last[Arm.SHRUNK].state == 2 * last[Arm.SHRUNK].weights  # AdamW's two averages
    assert last[Arm.MASKED].peak == pytest.approx(last[Arm.DENSE].peak, rel=0.01)
    assert (last[Arm.MASKED].state, last[Arm.MASKED].weights) == (
        last[Arm.DENSE].state,
        last[Arm.DENSE].weights,
    )
