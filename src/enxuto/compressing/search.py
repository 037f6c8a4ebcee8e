"""Which candidates are made: pruning levels from large to small, and on each a ladder of repairs until quality holds.

Everything is measured on the artefact in its runtime. Rows are kept in a folder as they are made, under a hash of
all they depend on, so that a search that was stopped goes on where it was; the same seed gives the same rows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from ..errors import UsageError
from ..records import (
    Calibration,
    Candidate,
    Coverage,
    LayerNeed,
    Limits,
    OnnxRuntimeFlags,
    Quartiles,
    Ranges,
    Recipe,
    Repair,
    Scheme,
    Settings,
    write_atomically,
)
from .distilling import Distillation
from .judging import Judge, as_executed
from .levels import Levels
from .making import Making, folded_or_plain
from .quantizing import sensitivity
from .runtimes import runtime
from .runtimes.measuring import compare_latency, measure

_PROBED = 64  # samples by which layers are ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a search tries.

    Attributes:
        step: share of the parameters that each level leaves of the one before.
        least: share of the parameters below which no level goes.
        refine: levels between the last that held and the first that did not.
        distillation: after each cut.
        spared: numbers of sensitive layers that are kept in 32 bits, tried one after the other.
        fine_tune: whether fine-tuning under rounding is the last rung.
        pairs: pairs of runs by which latency is compared.
        seconds: after which no new candidate is begun; 0: no limit.
    """

    step: float = 0.6
    least: float = 0.01
    refine: int = 1
    distillation: Distillation = field(default_factory=Distillation)
    spared: tuple[int, ...] = (1, 2)
    fine_tune: bool = True
    pairs: int = 20
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Search:
    """A search over pruning × bits × repairs.

    Args:
        levels: gives the pruned networks.
        making: makes artefacts.
        judge: judges them.
        limits: what they may take.
        effort: how hard it tries.
        example: one input, as the runtime measures with.
        folder: where rows and artefacts are kept.
        key: of everything that rows depend on besides their settings, as text.
        smallest: go on below the limits, as far as quality holds.
        say: takes lines of progress.
    """

    levels: Levels
    making: Making
    judge: Judge
    limits: Limits
    effort: Effort
    example: tuple[Any, ...]
    folder: Path
    key: str
    smallest: bool
    say: Callable[[str], None]
    rows: list[Candidate] = field(default_factory=list)
    layers: tuple[LayerNeed, ...] = ()
    notes: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def run(self) -> list[Candidate]:
        """Every candidate, the original first."""
        self.say("measuring the original in its runtime")
        self.rows.append(self._original())
        held: tuple[float, ...] = ()
        self.layers = self._needs(self.levels.original)
        self._level(held)
        if self._satisfied() and not self.smallest:
            return self.rows
        failed = 0.0
        while not self._over():
            share = (held[-1] if held else 1.0) * self.effort.step
            if share < self.effort.least:
                break
            if not self._tried((*held, share)):
                failed = share
                break
            held = (*held, share)
            if self._satisfied() and not self.smallest:
                return self.rows
        for _ in range(self.effort.refine if failed else 0):
            share = ((held[-1] if held else 1.0) * failed) ** 0.5
            if self._over():
                break
            if self._tried((*held, share)):
                held = (*held, share)
            else:
                failed = share
        return self.rows

    def holds(self, row: Candidate) -> bool:
        """Whether quality holds on the choosing samples: the drop is bounded, or, where they are too few for a
        bound, at most half of what is allowed."""
        return self._bounded(row.drop, row.upper_drop)

    def _bounded(self, drop: float, upper: float) -> bool:
        allowed = self.limits.max_drop
        return upper <= allowed or (not self.judge.enough and drop <= allowed / 2)

    def broken(self, row: Candidate) -> str:
        """The limit that a row breaks, in words; empty for none."""
        limits = self.limits
        if limits.file and row.file_bytes > limits.file:
            return "the file is too large"
        if limits.gzip and row.gzip_bytes > limits.gzip:
            return "the compressed file is too large"
        if limits.ram and row.ram_bytes > limits.ram:
            return "it takes too much memory"
        if limits.latency_ratio and row.latency is not None and row.latency.median > limits.latency_ratio:
            return "it is too slow"
        return ""

    def over_ram(self, row: Candidate) -> bool:
        """Whether memory is the limit that a row breaks."""
        return bool(self.limits.ram) and row.ram_bytes > self.limits.ram

    def artefact(self, row: Candidate) -> Path:
        """Where a candidate's file is."""
        return self._file(row.settings, "onnx")

    def _over(self) -> bool:
        over = bool(self.effort.seconds) and time.monotonic() - self._began > self.effort.seconds
        if over:
            self.notes.append(f"the search stopped at its time limit of {self.effort.seconds:g} s")
        return over

    def _satisfied(self) -> bool:
        return self.limits.any and any(
            row.settings is not None and self.holds(row) and not self.broken(row) for row in self.rows
        )

    def _tried(self, path: tuple[float, ...]) -> bool:
        """Whether quality holds at a level; one that cannot be made is noted."""
        try:
            return self._level(path)
        except UsageError as error:
            self.notes.append(str(error))
            return False

    def _level(self, path: tuple[float, ...]) -> bool:
        """Make the ladder at one pruning level; whether a rung holds."""
        model = self.levels.at(path)
        for settings in self._rungs(path, model):
            row = self._row(settings, model)
            self.rows.append(row)
            if self.holds(row):
                return True
            if self._over() or not self._float_holds(model):
                break
        return False

    def _float_holds(self, model: nn.Module) -> bool:
        """Whether quality holds before anything is rounded: else no repair of rounding can help."""
        seen = self.judge.see(model)
        return self._bounded(seen.drop, seen.upper)

    def _rungs(self, path: tuple[float, ...], model: nn.Module) -> Iterator[Settings]:
        """8 bits plainly, then each repair, wider activations, only weights in 8 bits, and the worst layers spared."""
        share = path[-1] if path else 1.0
        plain = Recipe(default=Scheme.STATIC8)
        trimmed = replace(plain, calibration=Calibration(ranges=Ranges.PERCENTILE))
        rebuilt = (Repair.RECONSTRUCT,)
        ladder: list[tuple[tuple[Repair, ...], Recipe]] = [
            ((), plain),
            ((), trimmed),
            ((Repair.EQUALISE, Repair.CORRECT), trimmed),
            (rebuilt, trimmed),
        ]
        if self.effort.fine_tune and not self.judge.gives_numbers:  # its teacher speaks in classes
            ladder.append(((Repair.FINE_TUNE,), plain))
        ladder += [
            (rebuilt, replace(trimmed, default=Scheme.STATIC8_WIDE)),
            (rebuilt, replace(plain, default=Scheme.WEIGHT8)),
        ]
        for repairs, recipe in ladder:
            yield Settings(kept_ratio=share, repairs=repairs, recipe=recipe)
        needs = self._needs(model)
        for spared in self.effort.spared:
            names = [f"{need.layer}.weight" for need in needs[:spared]]
            yield Settings(kept_ratio=share, repairs=(), recipe=trimmed.with_override(names, Scheme.FLOAT32))

    def _needs(self, model: nn.Module) -> tuple[LayerNeed, ...]:
        found = sensitivity(folded_or_plain(model), self.making.calibrate.first(_PROBED))
        return tuple(LayerNeed(layer=each.layer, weights=each.weights, kl=each.fidelity.kl) for each in found)

    # -- one row ---------------------------------------------------------------------------------------------

    def _original(self) -> Candidate:
        return self._row(None, self.levels.original)

    def _row(self, settings: Settings | None, model: nn.Module) -> Candidate:
        known = self._read(settings)
        if known is not None:
            return known
        self.say(f"making {_words(settings)}")
        path = self._file(settings, "onnx")
        asked = settings or Settings(kept_ratio=1.0, repairs=(), recipe=Recipe(default=Scheme.FLOAT32))
        coverage = self.making.make(model, asked, path)
        row = self._measured(settings, model, path, coverage)
        write_atomically(self._file(settings, "json"), msgspec.json.encode(row))
        return row

    def _measured(
        self, settings: Settings | None, model: nn.Module, path: Path, coverage: Coverage
    ) -> Candidate:
        ort, flags = runtime(), OnnxRuntimeFlags()
        artefact = ort.describe(path)
        seen = self.judge.see(as_executed(path))
        row = Candidate(
            settings=settings,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            file_bytes=artefact.file_bytes,
            gzip_bytes=artefact.gzip_bytes,
            weight_bytes=coverage.weight_bytes,
            covered_ratio=coverage.quantized_ratio,
            ram_bytes=0,
            latency=None,
            flags=flags,
            metric=seen.metric,
            drop=seen.drop,
            upper_drop=seen.upper,
            agreement=None if seen.fidelity is None else seen.fidelity.agreement,
            kl=None if seen.fidelity is None else seen.fidelity.kl,
            sha256=artefact.sha256,
        )
        if settings is not None and not self.holds(row):
            return row
        cost = measure(path, self.example, runtime=ort)
        row = replace(row, ram_bytes=cost.above_base_bytes)
        if settings is None:
            return row
        return replace(row, latency=self.latency(path, flags))

    def latency(self, path: Path, flags: OnnxRuntimeFlags) -> Quartiles:
        """Time of a run under settings, as a multiple of the original's under the runtime's own."""
        pair = (path, flags), (self._file(None, "onnx"), OnnxRuntimeFlags())
        return compare_latency(*pair, self.example, runtime=runtime(), pairs=self.effort.pairs).ratio

    def _file(self, settings: Settings | None, suffix: str) -> Path:
        text = msgspec.json.encode(settings) + self.key.encode()
        return self.folder / f"candidate-{hashlib.sha256(text).hexdigest()[:16]}.{suffix}"

    def _read(self, settings: Settings | None) -> Candidate | None:
        stored = self._file(settings, "json")
        if not stored.exists() or not self._file(settings, "onnx").exists():
            return None
        try:
            return msgspec.json.decode(stored.read_bytes(), type=Candidate)
        except msgspec.DecodeError:  # written by another version: made again
            return None


def _words(settings: Settings | None) -> str:
    if settings is None:
        return "the original's file"
    repairs = "".join(f", {repair.value}" for repair in settings.repairs)
    kept = "" if settings.kept_ratio == 1 else f"{settings.kept_ratio:.1%} of the parameters, "
    return f"{kept}{settings.recipe.default.value}{repairs}"
