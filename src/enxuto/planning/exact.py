"""Exact search: the cheapest options under a budget as a mixed-integer program, solved by HiGHS.

The bytes alive at an instant are linear in the options and in whether each block is kept, so one row says
that an instant stays under the budget. Only instants that a trial plan breaks get their row (lazy rows):
a plan that breaks none is the optimum. Every trial is replayed; the program never has the last word.

Huangfu and Hall, "Parallelizing the dual revised simplex method" (2018): HiGHS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .greedy import Choices

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_ROUNDS = 60
_ROWS_A_ROUND = 12


@dataclass(frozen=True, slots=True)
class Exact:
    """The answer of a program: `chosen` (None: none found), a lower bound on its seconds, whether proved."""

    chosen: list[int] | None
    bound: float
    proved: bool
    infeasible: bool = False


@dataclass(frozen=True, slots=True)
class _Clauses:
    """When a block is alive at an instant: unless one of each of `unless` is chosen, or if one of `where` is."""

    unless: frozenset[frozenset[int]]
    where: frozenset[int]


@dataclass(slots=True, eq=False)
class Program:
    """The mixed-integer program of some choices; rows stay from one budget to the next."""

    choices: Choices
    seconds_limit: float = 20.0
    _keeps: dict[_Clauses, int] = field(default_factory=dict)
    _rows: dict[int, tuple[Array, Array, float]] = field(default_factory=dict)
    _of_block: list[list[tuple[int, frozenset[int] | int | None]]] = field(init=False)
    _const: Array = field(init=False)
    _columns: int = field(init=False)

    def __post_init__(self) -> None:
        replay = self.choices.replay
        killers: dict[int, set[int]] = {}
        holders: dict[int, int] = {}
        for index, option in enumerate(replay.options):
            for row in option.killed.tolist():
                killers.setdefault(row, set()).add(index)
            for row in option.holds.tolist():
                holders[row] = index
        bounds = [*replay.starts.tolist(), len(replay.row_end)]
        self._of_block = []
        for first, stop in pairwise(bounds):
            rows: list[tuple[int, frozenset[int] | int | None]] = []
            for row in range(first, stop):
                reason: frozenset[int] | int | None = holders.get(row)
                if reason is None and row in killers:
                    reason = frozenset(killers[row])
                rows.append((int(replay.row_end[row]), reason))
            self._of_block.append(rows)
        self._columns = len(replay.options)

    def solve(self, budget: int, start: Sequence[int], *, gap: float = 1e-4) -> Exact:
        """The cheapest options whose replayed peak is within the budget.

        Args:
            budget: bytes.
            start: options that fit, for the solver to improve on; empty if none are known.
            gap: the relative gap at which the solver may stop.
        """
        self._add_rows(self._worst(start, 0, 3))
        self._add_rows(self._worst([], budget, _ROWS_A_ROUND))
        best, bound = (list(start) if start else None), 0.0
        for _ in range(_MOST_ROUNDS):
            chosen, bound, done = self._solved(budget, best, gap)
            if chosen is None:
                return Exact(best, bound, False, infeasible=done and best is None)
            if self.choices.peak(chosen) <= budget:
                return Exact(chosen, bound, done)
            if not self._add_rows(self._worst(chosen, budget, _ROWS_A_ROUND)):
                break
        return Exact(best, bound, False)

    def _worst(self, chosen: Sequence[int], budget: int, count: int) -> list[tuple[int, int]]:
        """The highest instants of a plan above the budget, as (point, option that runs again there or -1)."""
        tops = self.choices.replay.tops(list(chosen))
        points = [(p, -1) for p in range(len(self.choices.replay.points))]
        for index in chosen:
            option = self.choices.replay.options[index]
            points += [(int(p), index) for p in option.rerun_points]
        order = np.argsort(-tops, kind="stable")[: 4 * count]
        return [points[i] for i in order.tolist() if tops[i] > budget][:count]

    def _add_rows(self, wanted: Iterable[tuple[int, int]]) -> bool:
        added = False
        for point, option in wanted:
            key = point * (len(self.choices.replay.options) + 1) + option + 1
            if key not in self._rows:
                self._rows[key] = self._row(point, option)
                added = True
        return added

    def _row(self, point: int, rerun_of: int) -> tuple[Array, Array, float]:
        """Coefficients of one instant: columns, bytes, and the bytes that are always there."""
        replay = self.choices.replay
        constant = float(replay.untouched[point])
        terms: dict[int, float] = {}
        for born, nbytes, rows in zip(replay.born, replay.sizes, self._of_block, strict=True):
            if born > point:
                continue
            alive = [reason for end, reason in rows if end > point]
            if any(reason is None for reason in alive):
                constant += nbytes
            elif alive:
                clauses = _Clauses(
                    frozenset(r for r in alive if isinstance(r, frozenset)),
                    frozenset(r for r in alive if isinstance(r, int)),
                )
                column = self._keeps.setdefault(clauses, self._columns + len(self._keeps))
                terms[column] = terms.get(column, 0.0) + nbytes
        for index, option in enumerate(replay.options):
            change = float(option.changes[option.points <= point].sum())
            if index == rerun_of:
                change += float(option.heights[option.rerun_points == point].max())
            if change:
                terms[index] = terms.get(index, 0.0) + change
        return np.array(list(terms), np.int32), np.array(list(terms.values())), constant

    def _solved(
        self, budget: int, start: list[int] | None, gap: float
    ) -> tuple[list[int] | None, float, bool]:
        import highspy

        scale = 2.0**-20  # MiB, so that the rows are of one order
        with _quiet():
            model = highspy.Highs()  # type: ignore[no-untyped-call]
        model.silent()
        model.setOptionValue("mip_rel_gap", gap)
        model.setOptionValue("time_limit", self.seconds_limit)
        model.setOptionValue("threads", 1)
        infinity = highspy.kHighsInf
        unit = max(float(self.choices.seconds.sum()), 1e-12)
        nothing = np.zeros(0, np.int32), np.zeros(0)
        for seconds in self.choices.seconds:
            model.addCol(float(seconds) / unit * 1e3, 0.0, 1.0, 0, *nothing)
        for column in range(self._columns):
            model.changeColIntegrality(column, highspy.HighsVarType.kInteger)
        for _ in self._keeps:
            model.addCol(0.0, 0.0, 1.0, 0, *nothing)
        for clauses, column in self._keeps.items():
            for killers in clauses.unless:  # kept >= 1 - sum of what drops it
                columns = np.array([column, *killers], np.int32)
                model.addRow(1.0, infinity, len(columns), columns, np.ones(len(columns)))
            for holder in clauses.where:
                model.addRow(0.0, infinity, 2, np.array([column, holder], np.int32), np.array([1.0, -1.0]))
        for clique in self.choices.cliques:
            columns = np.array(sorted(clique), np.int32)
            model.addRow(-infinity, 1.0, len(columns), columns, np.ones(len(columns)))
        for columns, values, constant in self._rows.values():
            model.addRow(-infinity, (budget - constant) * scale, len(columns), columns, values * scale)
        if start:
            solution = highspy.HighsSolution()
            values = np.zeros(self._columns + len(self._keeps))
            values[start] = 1.0
            for clauses, column in self._keeps.items():
                kept = any(not (killers & set(start)) for killers in clauses.unless)
                values[column] = float(kept or bool(clauses.where & set(start)))
            solution.col_value = list(values)
            model.setSolution(solution)
        model.run()
        status = model.getModelStatus()
        info = model.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None, 0.0, True
        bound = max(float(info.mip_dual_bound), 0.0) / 1e3 * unit
        if info.primal_solution_status != 2:  # no feasible point
            return None, bound, False
        values = np.array(model.getSolution().col_value[: self._columns])
        return np.flatnonzero(values > 0.5).tolist(), bound, status == highspy.HighsModelStatus.kOptimal


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output free of what HiGHS prints below Python before it can be told not to: it may be JSON."""
    sys.stdout.flush()
    libc, kept, nowhere = ctypes.CDLL(None), os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)  # it waits in C's buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
