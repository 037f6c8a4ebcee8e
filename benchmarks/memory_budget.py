"""torch's `activation_memory_budget`, every solver and budget on one capture of the joint graph.

While torch compiles a net it calls its partitioner once. There the process forks for each setting: each fork
partitions the same captured graph in its own way, finishes compiling and measures itself. Where the partitioner comes
to the same two graphs as under an earlier setting, that setting's answer is its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.forks import Answer, Fork, attempt

# Not `dynamic_memory_budget_dp`, which sets budgets of its own and which torch calls experimental.
SOLVERS = ("dp", "greedy", "ilp", "dp_knapsack_sliding_hirschberg")
BUDGETS = tuple(tenths / 10 for tenths in range(10, -1, -1))

Setting = tuple[str, float]
"""A solver, and a budget from 0 (keep no activation) to 1 (what torch.compile does unasked)."""

_BACKEND = "aot_eager_decomp_partition"
_PARTITIONER = "torch._dynamo.backends.debugging.min_cut_rematerialization_partition"


def sweep(
    model: nn.Module,
    settings: Iterable[Setting],
    *,
    measure: Callable[[Any], Answer],
    report: Callable[[Setting, Answer], None],
) -> None:
    """Compile a net once and measure it under each setting in a fork.

    Args:
        model: the net; the caller's own stays as it is.
        settings: what to measure.
        measure: in the fork, what to find out about the compiled net; calls it for the first time.
        report: in this process, takes each answer as it comes; its "graphs" names the pair that was run.
    """
    from torch._inductor import config

    forking = _ForkingPartitioner(settings, report)
    # With its own random numbers a compiled net would draw other dropout masks than the eager one.
    with patch(_PARTITIONER, forking), config.patch(fallback_random=True, compile_threads=1):
        compiled = torch.compile(model, backend=_BACKEND)
        try:
            answer = attempt(lambda: measure(compiled))
        except _Swept:
            return
    if forking.fork is None:
        raise RuntimeError(f"torch never partitioned the net: {answer}")
    forking.finish(answer)


class _Swept(BaseException):
    """Every setting has its answer. The compiler would wrap an Exception."""


class _ForkingPartitioner:
    """Stands in for torch's partitioner: returns once in each fork, and in the original never."""

    def __init__(self, settings: Iterable[Setting], report: Callable[[Setting, Answer], None]) -> None:
        self.fork: Fork | None = None
        self._settings = settings
        self._report = report
        self._graphs = ""
        self._known: dict[str, Answer] = {}

    def __call__(self, joint: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fork is not None:
            raise RuntimeError("torch compiled the net more than once: it is no longer one graph")
        for setting in self._settings:
            fork = Fork()
            if fork.inside:
                self.fork = fork
                forward, backward = _partition(setting, joint, *args, **kwargs)
                self._graphs = _digest(forward, backward)
                if self._graphs in self._known:
                    fork.finish(self._known[self._graphs])
                return forward, backward
            answer = fork.answer()
            if "graphs" in answer:
                self._known[answer["graphs"]] = answer
            self._report(setting, answer)
        raise _Swept

    def finish(self, answer: Answer) -> NoReturn:
        """In a fork: hand over what was measured and end."""
        assert self.fork is not None
        self.fork.finish(answer if "failed" in answer else {**answer, "graphs": self._graphs})


def _digest(forward: Any, backward: Any) -> str:
    return hashlib.sha256(f"{forward.code}\n{backward.code}".encode()).hexdigest()[:16]


def _partition(setting: Setting, joint: Any, *args: Any, **kwargs: Any) -> Any:
    from torch._functorch import config, partitioners

    solver, budget = setting
    with config.patch(activation_memory_budget=budget, activation_memory_budget_solver=solver):
        return partitioners.min_cut_rematerialization_partition(joint, *args, **kwargs)
