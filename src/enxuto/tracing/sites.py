"""The user's own source line behind an op: the innermost frame that is neither torch's, ours nor Python's."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import torch

from ..records import Site


def _inside(*places: Path) -> tuple[str, ...]:
    """How the names of files in some folders begin: as they are imported, and behind symbolic links."""
    return tuple({f"{each}{os.sep}" for place in places for each in (place, place.resolve())})


_PACKAGE = Path(__file__).absolute().parent.parent
_OBSERVERS = (
    *_inside(_PACKAGE / "tracing", _PACKAGE / "monitoring"),
    str(_PACKAGE / "_torch_private.py"),
    str(_PACKAGE.resolve() / "_torch_private.py"),
)
_NETS = _inside(_PACKAGE / "architectures")  # the zoo's nets read like a user's model
_LIBRARIES = _inside(Path(torch.__file__).parent, _PACKAGE)
_STANDARD = sysconfig.get_paths()["stdlib"]
_INSTALLED = ("site-packages", "dist-packages")


class SiteTable:
    """Interns source lines; `here` finds the current one by walking the stack."""

    def __init__(self) -> None:
        self.rows: list[Site] = []
        self._index: dict[tuple[CodeType, int], int] = {}
        self._is_user: dict[CodeType, bool] = {}
        self._boundaries: set[CodeType] = set()

    def stop_at(self, code: CodeType) -> None:
        """Never look beyond frames of this code: what called the trace is not part of the step."""
        self._boundaries.add(code)

    def here(self, depth: int = 1) -> int:
        """Index of the user's line that runs now, -1 if there is none."""
        frame: FrameType | None = sys._getframe(depth)
        while frame is not None:
            code = frame.f_code
            if self.is_user(code):
                return self._intern(code, frame.f_lineno)
            if code in self._boundaries:
                return -1
            frame = frame.f_back
        return -1

    def at(self, code: CodeType, line: int) -> Site:
        """A line of some code."""
        return self.rows[self._intern(code, line)]

    def frames(self, frame: FrameType | None = None) -> Iterator[FrameType]:
        """The frames of the step that runs, innermost first, without those of the tracing itself."""
        frame = frame or sys._getframe(1)
        while frame is not None and frame.f_code not in self._boundaries:
            if not frame.f_code.co_filename.startswith(_OBSERVERS):
                yield frame
            frame = frame.f_back

    def is_user(self, code: CodeType) -> bool:
        """Whether this is the user's code, rather than torch's, ours or Python's."""
        user = self._is_user.get(code)
        if user is None:
            user = self._is_user[code] = is_users_file(code.co_filename)
        return user

    def _intern(self, code: CodeType, line: int) -> int:
        index = self._index.get((code, line))
        if index is None:
            index = self._index[code, line] = len(self.rows)
            self.rows.append(Site(file=shorten(code.co_filename), line=line, function=code.co_name))
        return index


def is_users_file(file: str) -> bool:
    """Whether code of this file is the user's, or a library's that is no part of what runs the nets."""
    if file.startswith("<"):  # generated code: dataclasses, einops, torch.fx
        return False
    if file.startswith(_LIBRARIES):
        return file.startswith(_NETS)
    return not file.startswith(_STANDARD) or any(part in file for part in _INSTALLED)


def shorten(file: str) -> str:
    """A file's name relative to the working folder, or to the folder that packages are installed in."""
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        return str(Path("enxuto") / path.relative_to(_PACKAGE))
    for part in _INSTALLED:
        if part in path.parts:
            return str(Path(*path.parts[path.parts.index(part) + 1 :]))
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
