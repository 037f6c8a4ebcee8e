"""Run the Python of a page, top to bottom in one process, and put what it prints and draws into the page.

    python docs/run_pages.py docs/tutorial/*.md            write
    python docs/run_pages.py --check docs/tutorial/*.md    only say what would change; exit code 1 if anything does

A ```python block that prints is followed by a ```text block, which holds exactly what it printed; pictures that the
page's code writes (`*.svg`) go to `pictures/` beside the page. `tests/test_tutorial.py` runs every page and compares.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?)(%?)")

#: How far a number on a line with ≈ may be off: training rounds differently on another processor. A share, and points
#: for what is in percent.
CLOSE, POINTS = 0.1, 10


def run(page: str) -> tuple[str, dict[str, str]]:
    """The page with its true outputs, and the pictures that it draws, by name."""
    module = sys.modules["page"] = types.ModuleType(
        "page"
    )  # so that its variables are found as a script's are

    def executed(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            line = page.count("\n", 0, block.start("code"))
            exec(compile("\n" * line + block["code"], "page", "exec"), vars(module))
        output = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return f"```python\n{block['code']}```\n{output}"

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        written = BLOCK.sub(executed, page)
        return written, {path.name: path.read_text() for path in sorted(Path(folder).glob("*.svg"))}


def agree(said: str, true: str) -> bool:
    """Whether two lines are the same, but for numbers that a line with ≈ may have a little off."""
    if said == true:
        return True
    if "≈" not in said or NUMBER.sub("#", said).split() != NUMBER.sub("#", true).split():
        return False
    return all(map(_close, NUMBER.findall(said), NUMBER.findall(true)))


def _close(said: tuple[str, str], true: tuple[str, str]) -> bool:
    one, other = (float(number.replace(",", "")) for number, _ in (said, true))
    percent = said[1] == true[1] == "%"
    return abs(one - other) <= POINTS if percent else math.isclose(one, other, rel_tol=CLOSE)


def differences(path: Path, written: str, pictures: dict[str, str]) -> list[str]:
    """Lines of a page that its code does not print any more, and pictures that it does not draw."""
    known, true = path.read_text().splitlines(), written.splitlines()
    found = (
        [f"{path.name} has {len(known)} lines, its code makes {len(true)}"] if len(known) != len(true) else []
    )
    found += [f"- {one}\n+ {other}" for one, other in zip(known, true, strict=False) if not agree(one, other)]
    kept = {name: path.parent / "pictures" / name for name in pictures}
    return found + [
        name for name, place in kept.items() if not place.exists() or place.read_text() != pictures[name]
    ]


def main(arguments: list[str]) -> int:
    sys.path.insert(0, str(ROOT))
    check, changed = "--check" in arguments, False
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ENXUTO_CACHE"] = cache  # what this machine has measured before has no say
        for path in (Path(name).resolve() for name in arguments if name != "--check"):
            written, pictures = run(path.read_text())
            for difference in differences(path, written, pictures):
                print(difference)
                changed = True
            if not check:
                path.write_text(written)
                for picture, content in pictures.items():
                    (path.parent / "pictures" / picture).write_text(content)
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
