"""Speeds of the CPU: measured once, kept, and assumed when nobody may measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from enxuto.devices import speeds
from enxuto.planning import Speeds
from enxuto.records import Basis


def test_speeds_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache" / "speeds.json"
    first = speeds.cpu_speeds(path=path)
    assert all(figure.basis is Basis.MEASURED for figure in first)
    assert first[0].value > 1e8  # flop/s: a tenth of the slowest machine that runs torch
    assert first[1].value > 1e8
    monkeypatch.setattr(speeds, "_measured", lambda: pytest.fail("measured twice"))
    assert speeds.cpu_speeds(path=path) == first


@pytest.mark.parametrize("content", ["", "[]", '{"flops_per_second": -1, "bytes_per_second": 2}', '{"a": 1}'])
def test_a_broken_file_is_measured_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "speeds.json"
    path.write_text(content)
    assert [figure.basis for figure in speeds.cpu_speeds(measure=False, path=path)] == [Basis.ASSUMED] * 2
    monkeypatch.setattr(speeds, "_measured", lambda: (2e9, 3e9))
    assert [figure.value for figure in speeds.cpu_speeds(path=path)] == [2e9, 3e9]


def test_a_second_is_made_of_flops_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """2·n³ FLOPs of a product in a second; a copy reads and writes every byte."""
    monkeypatch.setattr(speeds, "_least", lambda run: 2.0)
    flops, moved = speeds._measured()
    assert flops == 768**3
    assert moved == 2**26


def test_the_time_model_says_whose_speeds_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enxuto.devices import cpu, cpu_device

    monkeypatch.setattr(
        cpu, "cpu_speeds", lambda *, measure: speeds.cpu_speeds(path=tmp_path / "s.json", measure=measure)
    )
    assert "assumed" in Speeds.of(cpu_device()).basis
    assert Speeds.of(cpu_device(measure=True)).basis.startswith("measured: ")
