"""The settings of onnxruntime under which an artefact takes the least memory at a latency that is allowed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ...errors import RecordError
from ...records import LatencyRatio, OnnxRuntimeFlags, OptimizationLevel, RuntimeCost, read, write
from .contract import Runtime
from .measuring import arrays_of, compare_latency, fingerprint, measure
from .onnx_runtime import OnnxRuntime, vector_width

RecordT = TypeVar("RecordT", RuntimeCost, LatencyRatio)

#: Peaks of one artefact under one setting differ by less from process to process (measured: 0.1 MiB).
NOISE_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is tried: every combination. Where two take the same memory, the one that comes first is chosen.

    `BASIC` and `DISABLE` are left out: on ResNet-18 and MobileNetV2 in float they took at most 0.2 MiB less than
    `EXTENDED`; int8 was not tried.

    Attributes:
        levels: how far the graph is optimized.
        ahead: whether the file holds the optimized graph.
        external_data: whether weights are mapped from a file of their own.
        prepacking: whether weights are copied into the kernels' layout.
        activations: pairs of arena and memory pattern.
        threads: of one operator.
    """

    levels: tuple[OptimizationLevel, ...] = (OptimizationLevel.ALL, OptimizationLevel.EXTENDED)
    ahead: tuple[bool, ...] = (False, True)
    external_data: tuple[bool, ...] = (False, True)
    prepacking: tuple[bool, ...] = (True, False)
    activations: tuple[tuple[bool, bool], ...] = ((True, True), (True, False), (False, False))
    threads: int = 1

    def __iter__(self) -> Iterator[OnnxRuntimeFlags]:
        """The combinations in the order of preference, onnxruntime's defaults first."""
        for level, ahead, external, prepacking, (arena, pattern) in itertools.product(
            self.levels, self.ahead, self.external_data, self.prepacking, self.activations
        ):
            yield OnnxRuntimeFlags(
                level=level,
                ahead=ahead,
                external_data=external,
                prepacking=prepacking,
                arena=arena,
                memory_pattern=pattern,
                threads=self.threads,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRow:
    """One setting, measured; `ratio` to the defaults' latency is None where it was not needed to decide."""

    cost: RuntimeCost
    ratio: LatencyRatio | None
    chosen: bool = False

    @property
    def flags(self) -> OnnxRuntimeFlags:
        """The setting."""
        assert isinstance(self.cost.flags, OnnxRuntimeFlags)
        return self.cost.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The answer of `tune`: `best` is None where no setting keeps both limits; rows by rising memory."""

    best: TunedRow | None
    rows: tuple[TunedRow, ...]

    @property
    def default(self) -> TunedRow:
        """The row of onnxruntime's defaults."""
        return next(row for row in self.rows if row.flags == OnnxRuntimeFlags(threads=row.flags.threads))


def tune(
    path: str | Path,
    example: Any,
    *,
    ram: int | None = None,
    latency_ratio: float | None = None,
    grid: Grid | None = None,
    cache: str | Path | None = None,
    runs: int = 10,
    pairs: int = 30,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Find the setting with the lowest peak, net of the runtime's base, among those within both limits.

    Every setting's memory is measured in a process of its own. Latency is then compared with the defaults' in
    interleaved pairs, from the lowest memory up, and only until a setting is allowed. Measurements are kept in
    `cache` as they are made: an interrupted search goes on where it was.

    Args:
        path: an ONNX file.
        example: as for `measuring.measure`.
        ram: the most that it may take above the runtime's base, in bytes.
        latency_ratio: the longest median run allowed, as a multiple of the defaults'.
        grid: what is tried.
        cache: a folder; None measures everything anew.
        runs: timed runs of each setting.
        pairs: pairs of runs of each comparison.
        progress: called with a line of text before each measurement.

    Raises:
        UsageError: there is no ONNX model at `path`.
    """
    search = _Search(
        source=Path(path), example=example, cache=None if cache is None else Path(cache), runs=runs, pairs=pairs,
        say=progress or (lambda line: None), wanted=grid or Grid(),
    )  # fmt: skip
    with TemporaryDirectory(prefix="enxuto-") as folder:
        search.folder = Path(folder)
        return search.answer(ram, latency_ratio)


@dataclass(slots=True, kw_only=True)
class _Search:
    """One call of `tune`: what it is about, and the prepared files, each written when first needed."""

    source: Path
    example: Any
    cache: Path | None
    runs: int
    pairs: int
    say: Callable[[str], None]
    wanted: Grid
    runtime: OnnxRuntime = field(default_factory=OnnxRuntime)
    folder: Path = Path()
    key: str = ""

    def answer(self, ram: int | None, latency_ratio: float | None) -> Tuned:
        self.key = _key(self.source, self.example, self.runtime)
        settings = list(dict.fromkeys((OnnxRuntimeFlags(threads=self.wanted.threads), *self.wanted)))
        costs = [self._cost(flags, f"{i + 1} of {len(settings)}") for i, flags in enumerate(settings)]
        costs.sort(key=lambda cost: cost.above_base_bytes // NOISE_BYTES)  # stable: preferred ones first
        ratios: dict[OnnxRuntimeFlags, LatencyRatio] = {}
        best = self._first_allowed(costs, ram, latency_ratio, ratios)
        rows = [TunedRow(cost=c, ratio=ratios.get(_own(c)), chosen=c is best) for c in costs]
        return Tuned(best=next((row for row in rows if row.chosen), None), rows=tuple(rows))

    def _first_allowed(
        self,
        costs: list[RuntimeCost],
        ram: int | None,
        latency_ratio: float | None,
        ratios: dict[OnnxRuntimeFlags, LatencyRatio],
    ) -> RuntimeCost | None:
        for cost in costs:
            if ram is not None and cost.above_base_bytes > ram:
                continue
            ratios[_own(cost)] = ratio = self._ratio(_own(cost))
            if latency_ratio is None or ratio.ratio.median <= latency_ratio:
                return cost
        return None

    def _cost(self, flags: OnnxRuntimeFlags, place: str) -> RuntimeCost:
        def measured() -> RuntimeCost:
            self.say(f"measuring setting {place}")
            return measure(
                self._prepared(flags), self.example, runtime=self.runtime, flags=flags, runs=self.runs
            )

        return self._kept(f"cost-{fingerprint(self.key, flags, self.runs)}", RuntimeCost, measured)

    def _ratio(self, flags: OnnxRuntimeFlags) -> LatencyRatio:
        default = OnnxRuntimeFlags(threads=flags.threads)

        def measured() -> LatencyRatio:
            self.say("comparing latency with the defaults")
            return compare_latency(
                (self._prepared(flags), flags),
                (self.source, default),
                self.example,
                runtime=self.runtime,
                pairs=self.pairs,
            )

        return self._kept(f"ratio-{fingerprint(self.key, flags, self.pairs)}", LatencyRatio, measured)

    def _prepared(self, flags: OnnxRuntimeFlags) -> Path:
        """The file that the flags ask for; levels matter to it only when it is optimized ahead."""
        if not (flags.ahead or flags.external_data):
            return self.source
        level = flags.level.value if flags.ahead else "as-it-is"
        path = self.folder / f"{level}-{'outside' if flags.external_data else 'inside'}.onnx"
        if not path.exists():
            self.runtime.prepare(self.source, flags, path)
        return path

    def _kept(self, name: str, kind: type[RecordT], measured: Callable[[], RecordT]) -> RecordT:
        if self.cache is None:
            return measured()
        path = self.cache / f"{name}.json"
        try:
            found: RecordT = read(path, expect=kind)
            return found
        except RecordError:  # not there yet, or cut off by an older version
            self.cache.mkdir(parents=True, exist_ok=True)
            found = measured()
            write(found, path)
            return found


def _own(cost: RuntimeCost) -> OnnxRuntimeFlags:
    assert isinstance(cost.flags, OnnxRuntimeFlags)
    return cost.flags


def _key(source: Path, example: Any, runtime: Runtime) -> str:
    """What a measurement depends on beside its settings: the file, the inputs' shapes, versions, the machine."""
    shapes = [(array.dtype.str, array.shape) for array in arrays_of(example)]
    return fingerprint(runtime.sha256(source), shapes, runtime.versions(), vector_width(), os.cpu_count())
