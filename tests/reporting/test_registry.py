"""Asking for a record's form: each form, clear errors, and what the import costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from enxuto.errors import RecordError, UsageError
from enxuto.records import Difference, Explanation, from_json
from enxuto.reporting import FORMS, register, registry, render, to_html, to_text, write_html
from tests.reporting import samples


@dataclass(frozen=True)
class Note:
    """A record of a kind that reporting does not know."""

    kind: ClassVar[str] = "note"
    version: ClassVar[int] = 1
    text: str = "hello"


def test_every_form_of_an_explanation() -> None:
    record = samples.explanation()
    assert FORMS == ("text", "json", "html")
    assert render(record, "text") == to_text(record)
    assert from_json(render(record, "json"), expect=Explanation) == record
    assert render(record, "html") == to_html(record)


def test_a_difference_has_text_and_json() -> None:
    record = samples.difference()
    assert "main → wide" in render(record, "text")
    assert from_json(render(record, "json"), expect=Difference) == record
    with pytest.raises(
        UsageError, match="'difference' has no html form; these have: comparison, compressed, explanation"
    ):
        render(record, "html")


def test_errors_say_what_there_is() -> None:
    with pytest.raises(UsageError, match="unknown form 'pdf'; write one of text, json, html"):
        render(samples.explanation(), "pdf")
    with pytest.raises(
        UsageError,
        match="'note' has no text form; these have: autopsy, certificate, comparison, compressed, diagnosis",
    ):
        to_text(Note())
    for form in FORMS:
        with pytest.raises(UsageError, match="int, which is no record"):
            render(3, form)


def test_a_new_kind_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    register("note", card=lambda note: note.text, page=lambda note: f"<p>{note.text}</p>")
    assert render(Note(), "text") == "hello\n"
    assert render(Note(), "html") == "<p>hello</p>"
    assert render(Note(), "json") == '{"kind":"note","version":1,"body":{"text":"hello"}}'


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "peak.html"
    write_html(samples.empty(), target)
    assert target.read_text(encoding="utf-8") == to_html(samples.empty())
    assert [path.name for path in tmp_path.iterdir()] == ["peak.html"]
    with pytest.raises(RecordError, match="cannot write"):
        write_html(samples.empty(), tmp_path / "missing" / "peak.html")


def test_importing_reporting_needs_neither_rich_nor_plotly_nor_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('rich', 'plotly', 'torch'): sys.modules[name] = None\n"  # an import of these now raises
        "import enxuto.reporting\n"
        "from enxuto.records import display\n"
        "print(sorted(display._HTML))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    kinds = [
        "certificate",
        "comparison",
        "compressed",
        "difference",
        "explanation",
        "fitted",
        "largest_batch",
    ]
    kinds += ["memory-snapshot", "plan", "recheck", "timeline", "verdict"]
    assert done.stdout.strip() == str(kinds), done.stderr
