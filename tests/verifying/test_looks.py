"""Every look is counted once, across processes, and no error is spent twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from enxuto.errors import RecordError, UndecidableError, UsageError
from enxuto.records import Looks, read
from enxuto.verifying import Ledger


def test_looks_are_numbered_and_the_same_look_is_not_counted_twice() -> None:
    ledger = Ledger()
    assert ledger.look("data", "a", 0.95).seen == ("a",)
    assert ledger.look("data", "b", 0.95).seen == ("a", "b")
    assert ledger.look("data", "a", 0.95).seen == ("a", "b")
    assert ledger.look("others", "b", 0.95).seen == ("b",)


def test_a_ledger_in_files_outlives_the_process(tmp_path: Path) -> None:
    Ledger(tmp_path).look("data", "a", 0.95)
    assert Ledger(tmp_path).look("data", "b", 0.95).seen == ("a", "b")
    assert read(tmp_path / "looks-data.json", expect=Looks).seen == ("a", "b")
    assert Ledger(tmp_path).look("others", "a", 0.95).seen == ("a",)


def test_no_look_beyond_those_planned(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        Ledger(tmp_path, planned=2).look("data", name, 0.95)
    with pytest.raises(UndecidableError, match="looked at 2 times, as planned, and no error is left"):
        Ledger(tmp_path, planned=2).look("data", "c", 0.95)


def test_the_plan_is_kept(tmp_path: Path) -> None:
    Ledger(tmp_path, planned=2).look("data", "a", 0.95)
    with pytest.raises(UsageError, match=r"a confidence of 0.95 and with 2 looks planned"):
        Ledger(tmp_path, planned=3).look("data", "b", 0.95)
    with pytest.raises(UsageError, match="keep to that"):
        Ledger(tmp_path, planned=2).look("data", "b", 0.9)
    with pytest.raises(UsageError, match="not -1"):
        Ledger(planned=-1)
    with pytest.raises(UsageError, match="there is no such folder"):
        Ledger(tmp_path / "none")


def test_a_spoilt_ledger_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    (tmp_path / "looks-data.json").write_text("{")
    with pytest.raises(RecordError, match=r"looks-data\.json"):
        Ledger(tmp_path).look("data", "a", 0.95)
    (tmp_path / "looks-data.json").unlink()
    Ledger(tmp_path).look("data", "a", 0.95)
    (tmp_path / "looks-data.json").rename(tmp_path / "looks-else.json")
    with pytest.raises(UsageError, match="counts the looks at other samples"):
        Ledger(tmp_path).look("else", "a", 0.95)
