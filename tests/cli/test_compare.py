"""`enxuto compare` from the command line: what it writes, its exit codes, and what a typo gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from enxuto.cli import main
from enxuto.comparing import suggesting
from enxuto.records import Comparison, from_json

QUICK = ["--batch", "2", "--no-calibrate", "--jobs", "1"]


def test_table_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, saved = tmp_path / "page.html", tmp_path / "nets.json"
    files = ["--html", str(page), "--save", str(saved), "--json"]
    assert main(["compare", "zoo:digits_cnn", "--for", "file", *QUICK, *files]) == 0
    printed = from_json(capsys.readouterr().out, expect=Comparison)
    assert from_json(saved.read_bytes(), expect=Comparison) == printed
    assert "zoo:digits_cnn" in page.read_text()
    assert main(["report", str(saved)]) == 0
    assert "zoo:digits_cnn" in capsys.readouterr().out


def test_where_no_net_can_be_compared_the_reasons_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "zoo:digits_cnn", "--size", "9", *QUICK]) == 3
    assert "size must be 28" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["zoo:lstm", "--for", "speed"], "file, inference-ram, training, latency"),
        (["zoo:lstm", "--budget", "much"], "much"),
        (["zoo:lstm", "--suggest"], "--suggest takes one TARGET and --budget"),
        (["zoo:lstm", "zoo:gpt", "--suggest", "--budget", "1GB"], "--suggest takes one TARGET"),
        (["zoo:lstm", "--suggest", "--budget", "1GB", "--size", "9"], "takes --size from the TARGET"),
        (["zoo:lstm", "--html", "no/such/folder/page.html"], "there is no folder"),
        (["zoo:nothing*"], "no net of zoo matches"),
        (["zoo:lstm", "zoo:resent18"], "did you mean resnet18"),
    ],
)
def test_what_is_asked_wrongly_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["compare", *arguments, "--no-calibrate"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_suggestions_that_do_not_fit_are_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggesting, "candidates", lambda: ["zoo:squeezenet1_1?width=0.25"])
    target = ["compare", "zoo:squeezenet1_1?size=32&batch=2&classes=4", "--suggest", "--no-calibrate"]
    assert main([*target, "--for", "file", "--budget", "1KiB"]) == 1
    assert "None of the zoo's nets fits" in " ".join(capsys.readouterr().out.split())
