"""The process that is measured: imports one runtime, loads one artefact, runs it; never imports torch by itself.

`python -m enxuto.compressing.runtimes.running` reads one request as JSON from standard input and answers with one
line of JSON. `measuring` starts it.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ...records import Flags, PeakBasis, Quartiles
from . import runtime
from .contract import Run

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What to load: a runtime's name and target, a path, and flags."""

    runtime: str
    path: str
    flags: Flags
    target: str | None = None

    def open(self) -> Run:
        """The artefact, ready to run."""
        return runtime(self.runtime, target=self.target).load(self.path, self.flags)


class CostRequest(msgspec.Struct, frozen=True, kw_only=True, tag="cost"):
    """Measure memory and latency of one artefact over the arrays in an `.npz`."""

    loaded: Loaded
    inputs: str
    warmup: int
    runs: int


class PairsRequest(msgspec.Struct, frozen=True, kw_only=True, tag="pairs"):
    """Measure how long one artefact runs beside another, in turns."""

    candidate: Loaded
    reference: Loaded
    inputs: str
    warmup: int
    runs: int


class CostAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes above the state after imports, and seconds."""

    standing: int
    load_peak: int
    run_peak: int
    latency: Quartiles
    basis: PeakBasis
    torch_imported: bool


@dataclass(slots=True)
class HighWater:
    """Resident memory of this process, and the most of it since `restart`, in bytes."""

    basis: PeakBasis
    _sampled: int = 0
    _stop: threading.Event | None = None

    @classmethod
    def best(cls) -> HighWater:
        """The kernel's own mark where it can be reset (Linux 4.0 and up), else a sampler."""
        try:
            _CLEAR_REFS.write_text("5")  # man proc_pid_clear_refs: 5 resets the peak
            return cls(PeakBasis.KERNEL)
        except OSError:
            sampler = cls(PeakBasis.SAMPLED, _stop=threading.Event())
            threading.Thread(target=sampler._sample, daemon=True).start()
            return sampler

    @property
    def now(self) -> int:
        """Resident bytes at this moment."""
        if self.basis is PeakBasis.KERNEL:
            return _status_bytes("VmRSS")
        import psutil

        return int(psutil.Process().memory_info().rss)

    @property
    def peak(self) -> int:
        """The most since `restart`."""
        return _status_bytes("VmHWM") if self.basis is PeakBasis.KERNEL else max(self._sampled, self.now)

    def restart(self) -> None:
        """Forget the peak."""
        if self.basis is PeakBasis.KERNEL:
            _CLEAR_REFS.write_text("5")
        self._sampled = 0

    def _sample(self) -> None:
        assert self._stop is not None
        while not self._stop.wait(0.001):
            self._sampled = max(self._sampled, self.now)


def measure_cost(request: CostRequest) -> CostAnswer:
    """Load and run one artefact; everything that is not its own is imported and read before."""
    asked = request.loaded
    runtime(asked.runtime, target=asked.target).warm_up()
    arrays = _arrays(request.inputs)
    seconds = np.zeros(request.runs)
    gc.collect()
    water = HighWater.best()
    start = water.now
    run = asked.open()
    standing, load_peak = water.now, water.peak
    water.restart()
    for _ in range(request.warmup):
        run(*arrays)
    for index in range(request.runs):
        begin = time.perf_counter()
        run(*arrays)
        seconds[index] = time.perf_counter() - begin
    return CostAnswer(
        standing=standing - start,
        load_peak=load_peak - start,
        run_peak=water.peak - start,
        latency=quartiles(seconds),
        basis=water.basis,
        torch_imported="torch" in sys.modules,
    )


def measure_pairs(request: PairsRequest) -> Quartiles:
    """Ratios of candidate to reference, each of two runs one right after the other; who goes first alternates."""
    arrays = _arrays(request.inputs)
    candidate, reference = request.candidate.open(), request.reference.open()
    for _ in range(request.warmup):
        candidate(*arrays), reference(*arrays)
    ratios = np.zeros(request.runs)
    for index in range(request.runs):
        order = (candidate, reference) if index % 2 else (reference, candidate)
        first, second = (_seconds(run, arrays) for run in order)
        ratios[index] = first / second if index % 2 else second / first
    return quartiles(ratios)


def quartiles(values: np.ndarray) -> Quartiles:
    """The quartiles of some values, interpolated."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return Quartiles(lower=float(lower), median=float(median), upper=float(upper), runs=len(values))


def _seconds(run: Run, arrays: tuple[np.ndarray, ...]) -> float:
    begin = time.perf_counter()
    run(*arrays)
    return time.perf_counter() - begin


def _arrays(path: str) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as stored:
        return tuple(stored[name] for name in stored.files)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel does not tell {field}")


def main() -> None:
    """Answer the request on standard input; what a runtime prints goes to standard error."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=CostRequest | PairsRequest)
    with contextlib.redirect_stdout(sys.stderr):
        answer = measure_cost(request) if isinstance(request, CostRequest) else measure_pairs(request)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
