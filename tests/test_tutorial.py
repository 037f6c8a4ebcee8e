"""The tutorial is true: each page runs from top to bottom, prints what it shows, and draws its pictures."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorial"
PAGES = sorted(FOLDER.glob("*.md"))
PINNED = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("run_pages", ROOT / "docs" / "run_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = loaded()


@pytest.mark.slow
@pytest.mark.skipif(
    PINNED is None or torch.__version__.split("+")[0] != PINNED[1],
    reason="pages show the figures of the torch in constraints.txt",
)
def test_the_pages_print_what_they_show() -> None:
    for package in ("mlxtend", "onnxruntime", "torch_pruning"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the pages need {package}")
    found = subprocess.run(
        [sys.executable, "docs/run_pages.py", "--check", *map(str, PAGES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]


def code_of(page: Path) -> str:
    """A page's code without its words: what text it has, and how keys are spelt, may be translated."""
    blocks = "".join(block["code"] for block in pages.BLOCK.finditer(page.read_text()))
    tree = ast.parse(blocks)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def test_both_languages_run_the_same_code() -> None:
    english, portuguese = (FOLDER / name for name in ("first-steps.md", "primeiros-passos.md"))
    assert [english, portuguese] == PAGES
    assert code_of(english) == code_of(portuguese)
    headings = [re.findall(r"^## (\d?)", page.read_text(), re.MULTILINE) for page in PAGES]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_section_has_a_picture_and_a_number(page: Path) -> None:
    sections = re.split(r"^## \d\. ", page.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) == 6
    for section in sections:
        (picture,) = re.findall(r"^!\[[^\]]+\]\((pictures/\S+\.svg)\)$", section, re.MULTILINE)
        assert (FOLDER / picture).read_text().startswith("<svg ")
        assert any(
            re.search(r"\d", text) for text in re.findall(r"^```text\n(.*?)^```", section, re.M | re.S)
        )


PAGE = """Before.

```python
x = 3 * 7
print(f"x is {x}")
```

```text
x is 20
```

```python
open("a.svg", "w").write(f"<svg {x}>")
print("≈", 1.04)
```

```python
quiet = x
```
After.
"""


def test_a_page_runs_in_one_process_and_is_written_with_its_outputs(tmp_path: Path) -> None:
    written, pictures = pages.run(PAGE)
    assert pictures == {"a.svg": "<svg 21>"}
    assert written == PAGE.replace("x is 20", "x is 21").replace(
        "1.04)\n```\n", "1.04)\n```\n\n```text\n≈ 1.04\n```\n"
    )
    assert pages.run(written)[0] == written
    page = tmp_path / "page.md"
    page.write_text(written)
    assert pages.differences(page, written, pictures) == ["a.svg"]  # not there yet
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.svg").write_text("<svg 21>")
    assert pages.differences(page, written, pictures) == []
    page.write_text(written.replace("1.04\n```", "1.1\n```"))
    assert pages.differences(page, written, pictures) == []
    page.write_text(written.replace("x is 21", "x is 22"))
    assert pages.differences(page, written, pictures) == ["- x is 22\n+ x is 21"]


@pytest.mark.parametrize(
    ("said", "true", "same"),
    [
        ("peak 15.4 MiB", "peak 15.4 MiB", True),
        ("peak 15.4 MiB", "peak 15.5 MiB", False),
        ("right ≈ 95.9%", "right ≈ 93.0%", True),
        ("right ≈ 95.9%", "right ≈ 9.9%", False),
        ("right ≈ 9.9%", "right ≈ 15.0%", True),
        ("≈ 0.16", "≈ 0.19", False),
        ("right ≈ 1,200", "right ≈ 1,250", True),
        ("right ≈ 95.9%", "wrong ≈ 95.9%", False),
        ("right ≈ 95.9%", "right ≈ 95.9% 3", False),
    ],
)
def test_only_what_is_called_about_may_differ_a_little(said: str, true: str, same: bool) -> None:
    assert pages.agree(said, true) is same
