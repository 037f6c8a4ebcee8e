"""Memory snapshots in the structure that PyTorch writes, made by a small allocator that knows the truth."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

ROUND, SEGMENT = 512, 8192


def frame(file: str, line: int, name: str = "step") -> dict[str, Any]:
    return {"filename": file, "line": line, "name": name}


STACKS: list[list[dict[str, Any]]] = [
    [
        frame("??", 0, "c10::alloc"),
        frame("/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", 125, "forward"),
        frame("/home/ana/train.py", line),
        frame("/home/ana/main.py", 1, "<module>"),
    ]
    for line in (10, 20, 30)
]


@dataclass
class Allocator:
    """Best-effort first fit in segments of one size, rounding to 512 bytes; writes down what PyTorch would."""

    segments: list[dict[str, Any]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    alive: dict[int, tuple[int, int]] = field(default_factory=dict)  # address: requested, stack
    awaiting: set[int] = field(default_factory=set)
    truth: list[tuple[int, int]] = field(default_factory=list)  # requested, reserved after each event
    holders: list[dict[int, int]] = field(default_factory=list)  # line: requested, after each event

    def alloc(self, nbytes: int, stack: int) -> None:
        size = -(-nbytes // ROUND) * ROUND
        place = self._find(size)
        if place is None:
            address = (len(self.segments) + 1) * 2**20
            block = {
                "size": SEGMENT,
                "requested_size": 0,
                "address": address,
                "state": "inactive",
                "frames": [],
            }
            self.segments.append(
                {
                    "device": 0,
                    "address": address,
                    "total_size": SEGMENT,
                    "stream": 0,
                    "segment_type": "small",
                    "segment_pool_id": (0, 0),
                    "is_expandable": False,
                    "blocks": [block],
                }
            )
            self._event("segment_alloc", address, SEGMENT, stack)
            place = self._find(size)
        assert place is not None
        blocks, index = place
        free = blocks[index]
        taken = {
            **free,
            "size": size,
            "requested_size": nbytes,
            "state": "active_allocated",
            "frames": STACKS[stack],
        }
        rest = {**free, "size": free["size"] - size, "address": free["address"] + size}
        blocks[index : index + 1] = [taken, rest] if rest["size"] else [taken]
        self.alive[taken["address"]] = (nbytes, stack)
        self._event("alloc", taken["address"], nbytes, stack)

    def free(self, address: int, *, awaiting: bool) -> None:
        nbytes, _ = self.alive.pop(address)
        block = self._block(address)
        block["state"] = "active_awaiting_free" if awaiting else "inactive"
        self._event("free_requested", address, nbytes, 0)
        if awaiting:
            self.awaiting.add(address)
        else:
            self._event("free_completed", address, nbytes, 0)

    def complete(self, address: int) -> None:
        self.awaiting.remove(address)
        block = self._block(address)
        block["state"] = "inactive"
        self._event("free_completed", address, block["requested_size"], 0)

    def dump(self, *, history: int | None = None) -> dict[str, Any]:
        """What `_snapshot()` gives; with `history`, of the latest events only."""
        trace = self.trace if history is None else self.trace[len(self.trace) - history :]
        return {
            "segments": self.segments,
            "device_traces": [trace],
            "allocator_settings": {"expandable_segments": False, "PYTORCH_ALLOC_CONF": "a:b"},
            "external_annotations": [],
        }

    def _find(self, size: int) -> tuple[list[dict[str, Any]], int] | None:
        for segment in self.segments:
            for index, block in enumerate(segment["blocks"]):
                if block["state"] == "inactive" and block["size"] >= size:
                    return segment["blocks"], index
        return None

    def _block(self, address: int) -> dict[str, Any]:
        return next(b for s in self.segments for b in s["blocks"] if b["address"] == address)

    def _event(self, action: str, address: int, size: int, stack: int) -> None:
        entry = {"action": action, "addr": address, "size": size, "stream": 0, "frames": STACKS[stack]}
        self.trace.append({**entry, "time_us": 1_700_000_000_000_000 + 7 * len(self.trace)})
        held: dict[int, int] = {}
        for nbytes, where in self.alive.values():
            line = STACKS[where][2]["line"]
            held[line] = held.get(line, 0) + nbytes
        self.holders.append(held)
        self.truth.append((sum(held.values()), SEGMENT * len(self.segments)))


def played(seed: int, actions: int = 60) -> Allocator:
    """An allocator after random actions."""
    chance, allocator = random.Random(seed), Allocator()
    for _ in range(actions):
        if allocator.awaiting and chance.random() < 0.3:
            allocator.complete(chance.choice(sorted(allocator.awaiting)))
        elif allocator.alive and chance.random() < 0.45:
            allocator.free(chance.choice(sorted(allocator.alive)), awaiting=chance.random() < 0.3)
        else:
            allocator.alloc(chance.randint(1, SEGMENT), chance.randrange(3))
    return allocator
