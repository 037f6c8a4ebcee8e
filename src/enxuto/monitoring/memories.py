"""The memory of the device that a run computes on: what its allocator says, where it says anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..records import UNKNOWN, Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What an allocator tells after a step, in bytes; UNKNOWN where it does not."""

    peak: int = UNKNOWN
    current: int = UNKNOWN
    reserved: int = UNKNOWN
    retries: int = UNKNOWN


class Memory(Protocol):
    """The memory of one kind of device."""

    device: str

    def take(self) -> Level:
        """The level since the last call; the peak starts again."""

    def alive(self) -> int:
        """Bytes of tensors alive now, UNKNOWN where nothing tells."""

    def at_failure(self, failure: Failure) -> Failure:
        """The failure with what the allocator and the driver say of the device."""


class HostMemory:
    """The CPU: torch's allocator keeps no counters there, so recorded steps and the kernel have to tell."""

    device = "cpu"

    def take(self) -> Level:
        return Level()

    def alive(self) -> int:
        return UNKNOWN

    def at_failure(self, failure: Failure) -> Failure:
        return failure


class CudaMemory:
    """A CUDA device: the caching allocator keeps the peak of live tensors exactly. Never run in our tests."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.device = str(device)
        torch.cuda.reset_peak_memory_stats(device)

    def take(self) -> Level:
        stats = torch.cuda.memory_stats(self._device)
        level = Level(
            peak=int(stats.get("allocated_bytes.all.peak", UNKNOWN)),
            current=int(stats.get("allocated_bytes.all.current", UNKNOWN)),
            reserved=int(stats.get("reserved_bytes.all.current", UNKNOWN)),
            retries=int(stats.get("num_alloc_retries", UNKNOWN)),
        )
        torch.cuda.reset_peak_memory_stats(self._device)
        return level

    def alive(self) -> int:
        return int(torch.cuda.memory_allocated(self._device))

    def at_failure(self, failure: Failure) -> Failure:
        from dataclasses import replace

        free, device = torch.cuda.mem_get_info(self._device)
        largest, pieces = _free_pieces(self._device)
        return replace(
            failure,
            alive=int(torch.cuda.memory_allocated(self._device)),
            reserved=int(torch.cuda.memory_reserved(self._device)),
            free=int(free),
            largest=largest,
            pieces=pieces,
            device=int(device),
            driver=int(device - free),
        )


class MpsMemory:
    """Apple's GPUs: current figures only, no peak. Never run in our tests."""

    device = "mps"

    def take(self) -> Level:
        return Level(
            current=int(torch.mps.current_allocated_memory()),
            reserved=int(torch.mps.driver_allocated_memory()),
        )

    def alive(self) -> int:
        return int(torch.mps.current_allocated_memory())

    def at_failure(self, failure: Failure) -> Failure:
        from dataclasses import replace

        return replace(failure, alive=self.alive(), reserved=int(torch.mps.driver_allocated_memory()))


def memory_of(device: torch.device) -> Memory:
    """The memory behind a device."""
    if device.type == "cuda":
        return CudaMemory(device)
    if device.type == "mps":
        return MpsMemory()
    return HostMemory()


def _free_pieces(device: torch.device) -> tuple[int, int]:
    """The largest free block in the allocator's cache, and how many there are."""
    free = [
        int(block["size"])
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == (device.index or 0)
        for block in segment["blocks"]
        if block["state"] == "inactive"
    ]
    return max(free, default=0), len(free)
