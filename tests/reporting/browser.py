"""A page as its elements, and as a real browser draws it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from enxuto.units import format_bytes, format_signed_bytes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome to open the page with")


@dataclass
class Element:
    """A start tag, where it is, and the text up to the next tag."""

    tag: str
    attributes: dict[str, str]
    section: str
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page as a flat list of elements, each with the section that it is in."""

    html: str
    elements: list[Element] = field(default_factory=list)
    section: str = ""
    inside: bool = False  # the last element, rather than behind its end

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.section = attributes.get("id", "") if tag in ("section", "header") else self.section
        self.elements.append(Element(tag, attributes, self.section))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.elements[-1].text += data

    def script(self, name: str) -> str:
        """The text of the script element with this id."""
        return next(e.text for e in self.elements if e.tag == "script" and e.attributes.get("id") == name)

    def numbers(self, section: str) -> list[int]:
        """The exact bytes behind the numbers of a section, in order."""
        marked = [e for e in self.elements if e.section == section and "data-bytes" in e.attributes]
        for element in marked:
            nbytes = int(element.attributes["data-bytes"])
            assert element.text in (format_bytes(nbytes), format_signed_bytes(nbytes))
        return [int(e.attributes["data-bytes"]) for e in marked]


OUTSIDE = '<img src="http://example.invalid/x.png">'


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=5000",
    "--window-size=1200,2400",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@dataclass(frozen=True)
class Opened:
    """What a browser made of a page: the DOM after its scripts ran, its complaints, the requests it sent."""

    dom: str
    complaints: list[str]
    requests: list[str]


#: Ends up in the page and lists every request that it tried, refused ones too. The browser's own requests,
#: of which chromium has some despite all switches, are not the page's and not in the list.
PROBE = """<script>setTimeout(() => {
  const names = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.documentElement.dataset.requests = names.join(" ");
}, 3000)</script>"""


def open_in_chromium(html: str, folder: Path, *, scheme: str = "light") -> Opened:
    """Open a page where no name resolves, and wait until its scripts have drawn."""
    assert CHROMIUM is not None
    path = folder / "page.html"
    path.write_text(before_end(html, PROBE), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    requests = re.search(r'<html[^>]* data-requests="([^"]*)"', done.stdout)
    assert requests, done.stderr
    lines = done.stderr.splitlines()
    complaints = [line for line in lines if "CONSOLE" in line or "ERR_" in line]
    return Opened(dom=done.stdout, complaints=complaints, requests=requests[1].split())


def fills(dom: str) -> set[str]:
    """The fill colours in the drawn pictures, as `#rrggbb`."""
    found = re.findall(r"fill: rgb\((\d+), (\d+), (\d+)\)", dom)
    return {"#" + "".join(f"{int(channel):02x}" for channel in colour) for colour in found}


def before_end(html: str, addition: str) -> str:
    """A page with something added at the end of its body; plotly's own text also holds `</body>`."""
    head, end, tail = html.rpartition("</body>")
    return f"{head}{addition}{end}{tail}"
