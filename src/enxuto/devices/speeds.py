"""How fast this machine's CPU is, for the time model: measured once in a fraction of a second, and kept.

The best of several runs counts, so that a busy moment does not pass for a slow machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..records import Basis, Figure, write_atomically
from .scratch import cache_folder, fingerprint

_SIDE = 768  # of square matrices: 7 MB for three, larger than a core's own cache
_COPIED = 2**26  # bytes: larger than the last cache of common machines
_SECONDS = 0.5  # of trying, for each of the two


def cpu_speeds(*, measure: bool = True, path: Path | None = None) -> tuple[Figure, Figure]:
    """Floating-point operations and bytes a second of this CPU, with torch's present number of threads.

    Args:
        measure: measure them where they are not known yet; else such figures are 0, assumed.
        path: where they are kept; None is the user's cache folder.

    Returns:
        flop/s of a float32 matrix product, and bytes read and written a second by a copy.
    """
    threads = torch.get_num_threads()
    path = cache_folder() / f"speeds-{fingerprint(threads)}.json" if path is None else path
    known = _read(path)
    if known is None and measure:
        known = _measured()
        _keep(path, known)
    if known is None:
        return _figure(0, "flop/s", "not measured"), _figure(0, "B/s", "not measured")
    said = f"on {threads} thread{'s' if threads > 1 else ''}, the best of {_SECONDS} s"
    return (
        _figure(known[0], "flop/s", f"a product of {_SIDE} × {_SIDE} float32 matrices {said}"),
        _figure(known[1], "B/s", f"a copy of {_COPIED // 2**20} MiB {said}, read and written"),
    )


def _measured() -> tuple[float, float]:
    matrix, vector = torch.ones(_SIDE, _SIDE), torch.ones(_COPIED // 4)
    product, copy = torch.empty_like(matrix), torch.empty_like(vector)
    with torch.no_grad():
        multiplying = _least(lambda: torch.mm(matrix, matrix, out=product))
        copying = _least(lambda: copy.copy_(vector))
    return 2 * _SIDE**3 / multiplying, 2 * _COPIED / copying


def _least(run: Callable[[], object]) -> float:
    run()  # the first run also loads code and pages
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < _SECONDS:
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _read(path: Path) -> tuple[float, float] | None:
    try:
        content = json.loads(path.read_bytes())
        flops, moved = float(content["flops_per_second"]), float(content["bytes_per_second"])
    except (OSError, ValueError, LookupError, TypeError):  # not measured yet, or not one of ours
        return None
    return (flops, moved) if flops > 0 and moved > 0 else None


def _keep(path: Path, known: tuple[float, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs a new measurement next time, nothing else
    if os.access(path.parent, os.W_OK):
        content = {"flops_per_second": known[0], "bytes_per_second": known[1]}
        write_atomically(path, json.dumps(content).encode())


def _figure(value: float, unit: str, source: str) -> Figure:
    return Figure(value=value, unit=unit, basis=Basis.MEASURED if value else Basis.ASSUMED, source=source)
