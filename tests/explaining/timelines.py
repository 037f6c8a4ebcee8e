"""Timelines written by hand: a few blocks, saves, calls and ops by name, columns made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enxuto.records import (
    CATEGORY_CODE,
    PHASE_CODE,
    Accumulation,
    Blocks,
    Calls,
    Category,
    Facts,
    Holder,
    Ops,
    Phase,
    PhaseSpan,
    Ragged,
    Saves,
    Site,
    Timeline,
    World,
)


@dataclass
class Script:
    """Collects rows, then gives the Timeline. An id is a row's place in the order of adding."""

    ticks: int
    spans: Sequence[tuple[Phase, int, int]] = ()
    facts: Facts = field(default_factory=lambda: Facts(workload="script", torch="2.13.0"))
    names: list[str] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    saves: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    accumulations: list[Accumulation] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)

    def block(
        self,
        nbytes: int,
        category: Category,
        born: int,
        natural: int,
        *,
        name: str = "",
        op: int = -1,
        call: int = -1,
        line: int = 0,
        phase: Phase = Phase.FORWARD,
    ) -> int:
        self.blocks.append(
            {
                "nbytes": nbytes,
                "category": CATEGORY_CODE[category],
                "phase": PHASE_CODE[phase],
                "born": born,
                "natural": natural,
                "name": self._name(name) if name else -1,
                "op": op,
                "call": call,
                "site": self._site(line),
            }
        )
        return len(self.blocks) - 1

    def op(
        self,
        name: str,
        tick: int,
        *,
        reads: Sequence[int] = (),
        call: int = -1,
        line: int = 0,
        node: str = "",
        phase: Phase = Phase.FORWARD,
        flops: int = 0,
        view: bool = False,
    ) -> int:
        self.ops.append(
            {
                "name": self._name(f"{name}.default"),
                "tick": tick,
                "phase": PHASE_CODE[phase],
                "call": call,
                "site": self._site(line),
                "node": self._name(node) if node else -1,
                "signature": -1 if view else 0,
                "flops": flops,
                "scratch": 0,
                "reads": reads,
                "writes": (),
            }
        )
        return len(self.ops) - 1

    def save(
        self, block: int, pack: int, release: int, *, node: str = "", uses: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.saves.append(
            {
                "block": block,
                "pack": pack,
                "unpacks": [use[0] for use in uses],
                "local_ends": [use[1] for use in uses],
                "release": release,
                "call": -1,
                "node": self._name(node) if node else -1,
            }
        )

    def call(self, module: str, enter: int, leave: int, arguments: Sequence[int] = ()) -> int:
        self.calls.append(
            {
                "module": self._name(module),
                "parent": -1,
                "phase": PHASE_CODE[Phase.FORWARD],
                "enter": enter,
                "exit": leave,
                "arguments": arguments,
                "hooked": 1,
                "extras": 0,
                "returns": -1,
            }
        )
        return len(self.calls) - 1

    def accumulate(self, tick: int, gradient: int, parameter: int = 0) -> None:
        self.accumulations.append(Accumulation(tick=tick, parameter=parameter, gradient=gradient))

    def hold(self, block: int, tick: int, text: str) -> None:
        self.holders.append(Holder(block=block, tick=tick, text=text))

    def timeline(self) -> Timeline:
        spans = self.spans or ((Phase.FORWARD, 0, self.ticks),)
        return Timeline(
            world=World.DRY,
            ticks=self.ticks,
            blocks=_columns(Blocks, self.blocks),
            saves=_columns(Saves, self.saves),
            calls=_columns(Calls, self.calls),
            ops=_columns(Ops, self.ops),
            phases=tuple(PhaseSpan(phase=phase, start=start, stop=stop) for phase, start, stop in spans),
            accumulations=tuple(self.accumulations),
            names=tuple(self.names),
            sites=tuple(self.sites),
            signatures=("[]",),
            facts=self.facts,
            holders=tuple(self.holders),
        )

    def _name(self, text: str) -> int:
        if text not in self.names:
            self.names.append(text)
        return self.names.index(text)

    def _site(self, line: int) -> int:
        """A line of m.py; 0 is no line."""
        if not line:
            return -1
        site = Site(file="m.py", line=line, function="forward")
        if site not in self.sites:
            self.sites.append(site)
        return self.sites.index(site)


_LISTS = {"reads", "writes", "unpacks", "local_ends", "arguments"}


def _columns(kind: Any, rows: list[dict[str, Any]]) -> Any:
    return kind(
        **{
            name: Ragged.of([row[name] for row in rows])
            if name in _LISTS
            else np.array([row[name] for row in rows], np.int64)
            for name in kind.__slots__
        }
    )
