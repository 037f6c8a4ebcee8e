"""Which record has which rendering, and the functions that ask for one by the record alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import UsageError
from ..records import codec, display

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMS = ("text", "json", "html")
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renderers:
    card: Callable[[Any], RenderableType] | None
    page: Callable[[Any], str] | None


_REGISTERED: dict[str, _Renderers] = {}


def register(
    kind: str,
    *,
    card: Callable[[Any], RenderableType] | None = None,
    page: Callable[[Any], str] | None = None,
    fragment: Callable[[Any], str] | None = None,
) -> None:
    """Say how records of a kind are drawn.

    Args:
        kind: the record's `kind`.
        card: gives a rich renderable for terminals.
        page: gives one self-contained HTML page.
        fragment: gives HTML for a notebook cell, without scripts.
    """
    _REGISTERED[kind] = _Renderers(card=card, page=page)
    if fragment:
        display.register_html(kind, fragment)


def render(record: Any, form: str) -> str:
    """A record in one form: "text", "json" or "html".

    Raises:
        UsageError: no such form, or this kind of record has no renderer for it.
    """
    if form == "text":
        return to_text(record)
    if form == "json":
        return _json(record)
    if form == "html":
        return to_html(record)
    raise UsageError(f"unknown form {form!r}; write one of {', '.join(FORMS)}")


def _json(record: Any) -> str:
    if not hasattr(record, "kind"):
        raise _no_form(record, "json")
    return codec.to_json(record).decode()


def to_text(record: Any, *, width: int = _WIDTH) -> str:
    """A record as plain text, `width` columns wide, without colour.

    Raises:
        UsageError: this kind of record has no text form.
    """
    return _drawn(record, width=width, encoding="utf-8")


def print_record(record: Any, *, file: TextIO | None = None, width: int | None = None) -> None:
    """Print a record's card to `file` (standard output), in colour where that is a terminal that has colour.

    Raises:
        UsageError: this kind of record has no text form.
    """
    from rich.console import Console

    stream = file or sys.stdout
    console = Console(file=stream, width=width, force_jupyter=False)
    if console.is_terminal and console.encoding.startswith("utf"):
        console.print(_card(record))
    else:
        stream.write(_drawn(record, width=console.width, encoding=console.encoding))


def to_html(record: Any) -> str:
    """A record as one HTML page that needs nothing else: no network, no other file.

    Raises:
        UsageError: this kind of record has no page.
    """
    page = _renderers(record, "html").page
    if page is None:
        raise _no_form(record, "html")
    return page(record)


def write_html(record: Any, path: str | os.PathLike[str]) -> None:
    """Write a record's page to a file, whole or not at all.

    Raises:
        UsageError: this kind of record has no page, or the file cannot be written (then a RecordError).
    """
    codec.write_atomically(path, to_html(record).encode())


class _Draft(io.StringIO):
    """Collects text for a stream whose encoding may lack block characters; rich asks for `encoding`."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def _drawn(record: Any, *, width: int, encoding: str) -> str:
    from rich.console import Console

    draft = _Draft(encoding)
    console = Console(file=draft, width=width, color_system=None, force_jupyter=False, legacy_windows=False)
    console.print(_card(record))
    lines = (line.rstrip() for line in draft.getvalue().splitlines())
    return "".join(f"{line}\n" for line in lines).encode(encoding, "replace").decode(encoding)


def _card(record: Any) -> RenderableType:
    card = _renderers(record, "text").card
    if card is None:
        raise _no_form(record, "text")
    return card(record)


def _renderers(record: Any, form: str) -> _Renderers:
    renderers = _REGISTERED.get(getattr(record, "kind", ""))
    if renderers is None:
        raise _no_form(record, form)
    return renderers


def _no_form(record: Any, form: str) -> UsageError:
    kind = getattr(record, "kind", None)
    name = f"a record of kind {kind!r}" if kind else f"{type(record).__name__}, which is no record,"
    needed = {"text": "card", "html": "page"}.get(form)
    able = [known for known, has in sorted(_REGISTERED.items()) if needed is None or getattr(has, needed)]
    return UsageError(f"{name} has no {form} form; these have: {', '.join(able)}")
