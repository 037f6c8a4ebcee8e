"""What an artefact takes in its runtime: memory and latency, each in a fresh process, threads pinned."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ...errors import EnxutoError
from ...records import Flags, LatencyRatio, Quartiles, RuntimeCost
from .contract import Runtime
from .running import CostAnswer, CostRequest, Loaded, PairsRequest

AnswerT = TypeVar("AnswerT")

_LAST_LINES = 4  # onnxruntime's errors are a list
_CHILD = "enxuto.compressing.runtimes.running"
_bases: dict[tuple[str, int], int] = {}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(
    path: str | Path,
    example: Any,
    *,
    runtime: Runtime,
    flags: Flags | None = None,
    warmup: int = 2,
    runs: int = 20,
) -> RuntimeCost:
    """Memory and latency of an artefact, in a process that imports its runtime and nothing else of ours.

    The inputs are read before memory is looked at and do not count. Memory that the C library keeps counts: it is
    taken. Allocator variables (MALLOC_*) of the caller are not handed on.

    Args:
        path: the artefact.
        example: an array or tensor, or a tuple of them, in the order of its inputs.
        runtime: where it runs.
        flags: the runtime's settings; None is its defaults, on one thread.
        warmup: runs that are not timed; memory counts from the first.
        runs: runs that are timed.

    Raises:
        UsageError: there is no artefact at the path, or the flags are another runtime's.
        EnxutoError: the process failed; the message has its last words.
    """
    settings = runtime.own_flags(flags)
    sha256 = runtime.sha256(path)
    with _stored(example) as inputs:
        request = CostRequest(
            loaded=_loaded(runtime, path, settings), inputs=inputs, warmup=warmup, runs=runs
        )
        answer = _ask(request, CostAnswer, threads=settings.threads)
    return RuntimeCost(
        artefact=sha256,
        runtime=runtime.name,
        flags=settings,
        base_bytes=base_bytes(runtime, threads=settings.threads),
        standing_bytes=answer.standing,
        load_peak_bytes=answer.load_peak,
        run_peak_bytes=answer.run_peak,
        latency=answer.latency,
        versions=runtime.versions(),
        basis=answer.basis,
    )


def compare_latency(
    candidate: tuple[Path, Flags | None],
    reference: tuple[Path, Flags | None],
    example: Any,
    *,
    runtime: Runtime,
    reference_runtime: Runtime | None = None,
    warmup: int = 3,
    pairs: int = 30,
) -> LatencyRatio:
    """Latency of a candidate as a multiple of a reference's, from interleaved pairs of runs in one process.

    Both are loaded, and run one right after the other, so that a busy machine slows both of a pair alike.

    Args:
        candidate: path and flags.
        reference: path and flags.
        example: as for `measure`; both take it.
        runtime: of the candidate.
        reference_runtime: of the reference, where it is another.
        warmup: pairs that are not counted.
        pairs: pairs that are.

    Raises:
        UsageError, EnxutoError: as for `measure`.
    """
    other = reference_runtime or runtime
    flags, other_flags = runtime.own_flags(candidate[1]), other.own_flags(reference[1])
    with _stored(example) as inputs:
        request = PairsRequest(
            candidate=_loaded(runtime, candidate[0], flags),
            reference=_loaded(other, reference[0], other_flags),
            inputs=inputs,
            warmup=warmup,
            runs=pairs,
        )
        ratio = _ask(request, Quartiles, threads=max(flags.threads, other_flags.threads))
    return LatencyRatio(
        candidate=runtime.sha256(candidate[0]),
        reference=other.sha256(reference[0]),
        candidate_flags=flags,
        reference_flags=other_flags,
        ratio=ratio,
        versions=tuple(sorted({*runtime.versions(), *other.versions()})),
    )


def base_bytes(runtime: Runtime, *, threads: int = 1) -> int:
    """Peak of a model of one Relu in a runtime with its defaults, in bytes above the state after imports.

    Measured once in the life of this process for each runtime and number of threads.
    """
    key = (runtime.name, threads)
    if key not in _bases:
        _bases[key] = _measured_base(runtime, threads)
    return _bases[key]


def _measured_base(runtime: Runtime, threads: int) -> int:
    flags = msgspec.structs.replace(runtime.default_flags, threads=threads)
    with (
        tempfile.TemporaryDirectory(prefix="enxuto-") as folder,
        _stored(np.zeros((1, 1), dtype=np.float32)) as inputs,
    ):
        path = Path(folder) / "base"
        runtime.write_base(path)
        loaded = _loaded(runtime.for_base(), path, flags)
        answer = _ask(
            CostRequest(loaded=loaded, inputs=inputs, warmup=1, runs=3), CostAnswer, threads=threads
        )
    return max(answer.load_peak, answer.run_peak)


def fingerprint(*parts: object) -> str:
    """SHA-256 over some records and texts, as a key for what was measured with them."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def arrays_of(example: Any) -> tuple[np.ndarray, ...]:
    """An example as arrays: tensors and arrays, one or a tuple."""
    given: Sequence[Any] = example if isinstance(example, tuple | list) else (example,)
    return tuple(np.ascontiguousarray(getattr(value, "detach", lambda v=value: v)()) for value in given)


def _loaded(runtime: Runtime, path: str | Path, flags: Flags) -> Loaded:
    target = getattr(runtime, "target", None)
    return Loaded(runtime=runtime.name, path=str(Path(path).resolve()), flags=flags, target=target)


@contextmanager
def _stored(example: Any) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="enxuto-") as folder:
        path = Path(folder) / "inputs.npz"
        np.savez(path, *arrays_of(example))
        yield str(path)


def _ask(request: CostRequest | PairsRequest, answer: type[AnswerT], *, threads: int) -> AnswerT:
    done = subprocess.run(
        [sys.executable, "-m", _CHILD],
        input=msgspec.json.encode(request),
        capture_output=True,
        env=_environment(threads),
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").split("Traceback (most recent call last)")[-1]
        words = " ".join(" ".join(said.splitlines()[-_LAST_LINES:]).split()) or "it said nothing"
        raise EnxutoError(f"the process that was to be measured ended with {done.returncode}: {words}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=answer)


def _environment(threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    return {**kept, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}
