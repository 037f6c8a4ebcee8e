"""Artefact and RuntimeCost: a network as a file for one runtime, and what running it there takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

import msgspec

from . import codec


class OptimizationLevel(Enum):
    """How far onnxruntime rewrites the graph when it loads it; each level includes those before."""

    DISABLE = "disable"
    BASIC = "basic"  # constants folded, what does nothing removed
    EXTENDED = "extended"  # convolutions, activations and the like fused for the CPU
    ALL = "all"  # layouts too: blocked convolutions (NCHWc), whose weights are copied


class OnnxRuntimeFlags(msgspec.Struct, frozen=True, kw_only=True, tag="onnxruntime"):
    """How onnxruntime is to hold and run a graph; the defaults are its own, on one thread.

    Attributes:
        level: how far the graph is optimized.
        ahead: the optimized graph is what the file holds, so that loading optimizes nothing and makes no
            second copy of the weights. At level ALL such a file belongs to CPUs of one vector width.
        prepacking: weights are copied into the layout that the matrix kernels like.
        arena: activations live in an arena that keeps what it once got.
        memory_pattern: one block for all activations, planned from the first run.
        external_data: weights in a file of their own, which is mapped instead of read.
        threads: of one operator; operators run one after the other.
    """

    level: OptimizationLevel = OptimizationLevel.ALL
    ahead: bool = False
    prepacking: bool = True
    arena: bool = True
    memory_pattern: bool = True
    external_data: bool = False
    threads: int = 1


class ThreadFlags(msgspec.Struct, frozen=True, kw_only=True, tag="threads"):
    """The one setting of runtimes that have no others here: how many threads compute."""

    threads: int = 1


Flags: TypeAlias = OnnxRuntimeFlags | ThreadFlags


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSignature:
    """One input or output: its name, numpy's name for its type, and its shape; a named size is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A network written for a runtime.

    Attributes:
        runtime: the name under which `compressing.runtimes.runtime` knows it.
        file: name of the file, or of the folder, without where it lies.
        file_bytes: of all its files.
        gzip_bytes: of all its files, each compressed by itself at level 9.
        sha256: of the file; of several files, of the lines that `sha256sum` would print for them.
        formats: names of formats with their versions, such as `("opset ai.onnx", "20")`.
        inputs: what it takes, in order.
        outputs: what it gives, in order.
    """

    kind: ClassVar[str] = "artefact"
    version: ClassVar[int] = 1

    runtime: str
    file: str
    file_bytes: int
    gzip_bytes: int
    sha256: str
    formats: tuple[tuple[str, str], ...]
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]


class PeakBasis(Enum):
    """How a process's highest resident memory was found out."""

    KERNEL = "the kernel's own high-water mark (VmHWM), reset after imports"
    SAMPLED = "resident memory read every millisecond: short peaks may be missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles:
    """The middle of `runs` values, and the quarter below and above it."""

    lower: float
    median: float
    upper: float
    runs: int


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeCost:
    """What an artefact takes in a fresh process of its runtime; memory in bytes above the state after imports.

    Attributes:
        artefact: sha256 of the file that ran.
        runtime: name of the runtime.
        flags: its settings.
        base_bytes: the peak of a model of one Relu, measured alike: what the runtime takes for itself.
        standing_bytes: what was resident when the model was loaded.
        load_peak_bytes: the most while it was loaded.
        run_peak_bytes: the most while it ran.
        latency: seconds of one run, without the warm-up runs.
        versions: packages with their versions.
        basis: how the peaks were found out.
    """

    kind: ClassVar[str] = "runtime-cost"
    version: ClassVar[int] = 1

    artefact: str
    runtime: str
    flags: Flags
    base_bytes: int
    standing_bytes: int
    load_peak_bytes: int
    run_peak_bytes: int
    latency: Quartiles
    versions: tuple[tuple[str, str], ...]
    basis: PeakBasis

    @property
    def peak_bytes(self) -> int:
        """The most, of loading and running, in bytes above the state after imports."""
        return max(self.load_peak_bytes, self.run_peak_bytes)

    @property
    def above_base_bytes(self) -> int:
        """The peak net of what the runtime takes for itself."""
        return self.peak_bytes - self.base_bytes


@codec.register
@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRatio:
    """How long one artefact runs as a multiple of another, from pairs of runs one right after the other."""

    kind: ClassVar[str] = "latency-ratio"
    version: ClassVar[int] = 1

    candidate: str
    reference: str
    candidate_flags: Flags
    reference_flags: Flags
    ratio: Quartiles
    versions: tuple[tuple[str, str], ...]
