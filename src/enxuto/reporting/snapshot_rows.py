"""What a card and a page say of a memory snapshot, as names and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import AllocatorAction, Held, Snapshot
from ..units import format_bytes
from . import wording


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A device's recorded events: the highest instant, and the curves at chosen instants, the peak among them."""

    device: int
    events: int
    peak: int
    at: int
    instants: list[int]
    requested: list[int]
    reserved: list[int]
    held: tuple[Held, ...]


def summary(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The state of the allocator, as name and value."""
    free = format_bytes(snapshot.free)
    stranded = (
        f"{format_bytes(snapshot.stranded)} of it in segments that tensors use "
        f"({wording.percent(snapshot.stranded, snapshot.reserved)} of reserved)"
    )
    rows = [
        (
            "Reserved",
            f"{format_bytes(snapshot.reserved)} in {wording.counted(len(snapshot.segments), 'segment')}",
        ),
        (
            "Allocated",
            f"{format_bytes(snapshot.allocated)}, {format_bytes(snapshot.requested)} of it asked for",
        ),
        (
            "Awaiting",
            f"{format_bytes(snapshot.awaiting)} freed, another stream may use it"
            if snapshot.awaiting
            else "",
        ),
        ("Free", f"{free}; {stranded}" if snapshot.free else "nothing"),
        ("Largest free", format_bytes(snapshot.largest_free) if snapshot.free else ""),
        (
            "Devices",
            ", ".join(f"cuda:{device}" for device in snapshot.devices) if len(snapshot.devices) > 1 else "",
        ),
        ("Failures", _failures(snapshot)),
    ]
    return [row for row in rows if row[1]]


def _failures(snapshot: Snapshot) -> str:
    sizes = [event.nbytes for event in snapshot.events if event.action is AllocatorAction.OOM]
    if not sizes:
        return ""
    times = wording.counted(len(sizes), "refused request")
    return f"{times}, the last of {format_bytes(sizes[-1])}"


def holders(held: Sequence[Held], limit: int) -> list[Held]:
    """The largest holders; the last row sums up the others, so that they still add up."""
    if len(held) <= limit:
        return list(held)
    shown, rest = held[: limit - 1], held[limit - 1 :]
    return [*shown, Held(site=None, nbytes=sum(h.nbytes for h in rest), blocks=-len(rest))]


def name_holder(held: Held) -> str:
    """The line that holds; rows that were summed up say how many they are."""
    if held.blocks < 0:
        return f"{-held.blocks} others"
    if held.site is None:
        return "(no stack recorded)"
    return f"{wording.place(held.site)} {wording.plain(held.site.function)}"


def histories(snapshot: Snapshot, *, points: int) -> list[History]:
    """The devices that have events, each curve in at most `points` points."""
    return [
        _history(snapshot, device, points)
        for device in np.unique(snapshot.events.device).astype(int).tolist()
    ]


def _history(snapshot: Snapshot, device: int, points: int) -> History:
    curve, reserved = snapshot.lives(device).curve, snapshot.reserved_curve(device)
    buckets = np.array_split(np.arange(len(curve)), min(points, len(curve)))
    chosen = [int(part[curve[part].argmax()]) for part in buckets]
    return History(
        device=device,
        events=len(curve) - 1,
        peak=int(curve.max()),
        at=int(curve.argmax()),
        instants=chosen,
        requested=curve[chosen].tolist(),
        reserved=reserved[chosen].tolist(),
        held=snapshot.held_at_peak(device),
    )


def history_title(history: History) -> str:
    """What a history's curve shows."""
    return (
        f"cuda:{history.device}, {wording.counted(history.events, 'event')}: "
        f"{format_bytes(history.peak)} asked for at the highest, after event {history.at:,}"
    )
