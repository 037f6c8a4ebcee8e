"""Measure what op calls allocate besides their outputs, by running each once on real tensors.

The work is done in a child process: a kernel that crashes on made-up values costs one answer instead of the
user's session, and its memory never counts as ours. Run as `python -m enxuto.devices.calibration`, it reads
a JSON list of signatures a line and answers a line each.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from .._torch_private import storage_key

_CHUNK = 32  # calls in one profiling session: starting a session costs more than most calls


@dataclass(frozen=True, slots=True)
class OpMemory:
    """What one call of an op takes: scratch bytes gone by its end, and the bytes of each fresh output."""

    scratch: int
    outputs: tuple[int, ...]


def measure_all(
    signatures: Sequence[str], *, threads: int, progress: Callable[[int], None]
) -> dict[str, OpMemory | None]:
    """Measure many op calls in child processes; None stands for a call that raised or crashed.

    Args:
        signatures: as a Timeline holds them.
        threads: how many threads the kernels may use; scratch depends on it.
        progress: called with the number of calls done.
    """
    found: dict[str, OpMemory | None] = {}
    waiting = [signatures[i : i + _CHUNK] for i in range(0, len(signatures), _CHUNK)]
    while waiting:
        done = 0
        for chunk, answers in zip(waiting, _child(waiting, threads), strict=False):
            found.update(zip(chunk, answers, strict=True))
            done += 1
            progress(len(found))
        waiting = waiting[done:]
        if waiting:  # the child died in the first of these: find the call that kills it
            fatal, *waiting = waiting
            if len(fatal) == 1:
                found[fatal[0]] = None
            else:
                waiting = [[signature] for signature in fatal] + waiting
    return found


def _child(chunks: Sequence[Sequence[str]], threads: int) -> Iterator[list[OpMemory | None]]:
    """Answers of one child process, as many chunks as it lived to give."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        for chunk in chunks:
            try:
                child.stdin.write(json.dumps(chunk) + "\n")
                child.stdin.flush()
            except BrokenPipeError:
                return
            line = child.stdout.readline()
            if not line:
                return
            yield [None if row is None else OpMemory(row[0], tuple(row[1])) for row in json.loads(line)]


def measure(signatures: Sequence[str]) -> list[OpMemory | None]:
    """Run op calls as a Timeline's signatures describe them, and replay the allocator's events.

    Tensor values are made up (0.5 for floats, 0 for integers): a kernel's memory follows from shapes, layouts
    and types. Each call runs twice, since the first may fill caches. None stands for a call that raised.
    """
    results: list[OpMemory | None] = []
    outputs: list[tuple[int, ...] | None] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for signature in signatures:
            outputs.append(_run_marked(signature))
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == _MARK]
    memory = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    times = [time for time, _ in memory]
    for fresh in outputs:
        if fresh is None:
            results.append(None)
            continue
        start, stop = spans.pop(0)
        changes = [size for _, size in memory[bisect_left(times, start) : bisect_right(times, stop)]]
        levels = list(itertools.accumulate(changes))
        peak, end = max(levels, default=0), levels[-1] if levels else 0
        results.append(OpMemory(scratch=max(peak - max(end, 0), 0), outputs=fresh))
    return results


_MARK = "enxuto: one op"
_APART = 1e-4  # seconds between the mark and other events, whose clocks differ a little on a busy machine


def _run_marked(signature: str) -> tuple[int, ...] | None:
    """Run one call inside a profiler mark; the bytes of its fresh outputs, None if it raised."""
    try:
        name, args, kwargs = json.loads(signature)
        arguments = [_value(arg) for arg in args]
        keywords = {key: _value(value) for key, value in kwargs.items()}
        arguments = _PREPARED.get(name, lambda given: given)(arguments)  # type: ignore[no-untyped-call]
        op = _op(name)
        first = op(*arguments, **keywords)  # kept: what is freed close to the mark may be counted within it
    except Exception:
        return None
    time.sleep(_APART)
    with record_function(_MARK):
        out = op(*arguments, **keywords)
    time.sleep(_APART)
    del first
    given = {storage_key(t.untyped_storage()) for t in _tensors([arguments, list(keywords.values())])}
    return _fresh(out, given)


def _with_rnn_workspace(arguments: list[Any]) -> list[Any]:
    """A backward of oneDNN's RNN layer reads the workspace that its forward wrote; dry ones have 0 bytes."""
    (x, w0, w1, w2, w3, hx, cx, *_, reverse, mode, hidden, layers, biases, train, both, sizes, first, _) = (
        arguments
    )
    forward = torch.ops.aten.mkldnn_rnn_layer.default
    *_, workspace = forward(
        x, w0, w1, w2, w3, hx, cx, reverse, sizes, mode, hidden, layers, biases, both, first, train
    )
    return [*arguments[:-1], workspace]


_PREPARED: dict[str, Callable[[list[Any]], list[Any]]] = {
    "aten.mkldnn_rnn_layer_backward.default": _with_rnn_workspace,
}


def _op(name: str) -> Any:
    namespace, op, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), op), overload)


def _value(spec: Any) -> Any:
    """An argument from its description in a signature (`tracing/recorder.py` writes them)."""
    if isinstance(spec, list):
        if len(spec) == 4 and spec[0] == "tensor":
            return _tensor(getattr(torch, spec[1]), spec[2], spec[3])
        return [_value(item) for item in spec]
    if isinstance(spec, str):
        if spec.startswith("device:"):
            return torch.device(spec.removeprefix("device:"))
        if spec.startswith("torch."):
            return getattr(torch, spec.removeprefix("torch."))
    return spec


def _tensor(dtype: torch.dtype, shape: list[int], stride: list[int]) -> torch.Tensor:
    if 0 in shape:
        return torch.empty_strided(shape, stride, dtype=dtype)
    items = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    fill = 0.5 if dtype.is_floating_point or dtype.is_complex else 0
    return torch.full((items,), fill, dtype=dtype).as_strided(shape, stride)


def _fresh(out: Any, given: set[int]) -> tuple[int, ...]:
    sizes: dict[int, int] = {}
    for tensor in _tensors(out):
        storage = tensor.untyped_storage()
        if storage_key(storage) not in given:
            sizes.setdefault(storage_key(storage), storage.nbytes())
    return tuple(sizes.values())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _answer_lines() -> None:
    """The child's loop. Answers leave by a copy of stdout, so that nothing a library prints can mix in."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        rows = [None if m is None else [m.scratch, m.outputs] for m in measure(json.loads(line))]
        answers.write(json.dumps(rows) + "\n")
        answers.flush()


if __name__ == "__main__":
    _answer_lines()
