"""The pages of the situations that a watched run may show, as `enxuto explain M03` prints them."""

from __future__ import annotations

import re
from importlib import resources

from ..errors import UsageError

_ID = re.compile(r"[Mm]\d\d")


def is_situation(target: str) -> bool:
    """Whether a target names a situation rather than something to run."""
    return _ID.fullmatch(target) is not None


def situation(id: str) -> str:
    """The page of a situation, as Markdown.

    Raises:
        UsageError: there is no such situation.
    """
    page = resources.files("enxuto") / "monitoring" / "situations" / f"{id.lower()}.md"
    if not page.is_file():
        raise UsageError(f"there is no situation {id}; there are M01 to M20")
    return page.read_text(encoding="utf-8")
