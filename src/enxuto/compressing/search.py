"""Which candidates are made: levels from large to small, and on each a ladder of repairs until quality holds.

What is cut follows from what the limits still lack: MACs where a run takes too long, parameters otherwise. Where large
linear layers hold much of a network, their weights are also tried in 4 bits, and after the last cut in low rank.

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

from ..errors import EnxutoError, MissingDependency, UsageError, UserCodeError
from ..records import (
    Calibration,
    Candidate,
    Coverage,
    Cut,
    CutKind,
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
from ..reporting import name_settings
from .distilling import Distillation
from .judging import Judge, as_executed
from .levels import Levels
from .making import Making, folded_or_plain
from .quantizing import sensitivity
from .runtimes import runtime
from .runtimes.measuring import compare_latency, measure

_PROBED = 64  # samples by which layers are ranked
_DIGITS = 3  # of the shares that are asked for
_LARGE = 4096  # weights of a linear layer from which 4 bits and low rank are worth their scales and their second op
_WORTH = 0.2  # the share of a network's parameters that such layers hold, below which neither is tried
_PLAIN = Recipe(default=Scheme.STATIC8)
_TRIMMED = replace(_PLAIN, calibration=Calibration(ranges=Ranges.PERCENTILE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a search tries.

    Attributes:
        step: share of the parameters (or MACs) that each level leaves of the one before.
        least: share of them below which no level goes.
        refine: levels between the last that held and the first that did not.
        distillation: after each cut.
        schemes: how weights may be stored and computed with; FLOAT32 alone prunes and rounds nothing.
        spared: numbers of sensitive layers that are kept in 32 bits, tried one after the other.
        fine_tune: whether fine-tuning under rounding is the last rung.
        reduce_range: whether static 8-bit kernels get 7-bit weights, so that they cannot saturate on x86 processors
            without VNNI; None: where this machine's do. Say True to ship to such processors.
        pairs: pairs of runs by which latency is compared.
        seconds: after which no new candidate is begun; 0: no limit.
    """

    step: float = 0.6
    least: float = 0.01
    refine: int = 1
    distillation: Distillation = field(default_factory=Distillation)
    schemes: tuple[Scheme, ...] = (
        Scheme.STATIC8,
        Scheme.STATIC8_WIDE,
        Scheme.WEIGHT8,
        Scheme.WEIGHT4,
        Scheme.FLOAT32,
    )
    spared: tuple[int, ...] = (1, 2)
    fine_tune: bool = True
    reduce_range: bool | None = None
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
        self.layers = self._needs(self.levels.original)
        if self.effort.reduce_range:
            self.notes.append(
                "static 8-bit weights use 7 bits: the int8 kernels of x86 processors without VNNI saturate beyond"
            )
        self._level(())
        held = self._descend(())
        self._low_rank(held)
        return self.rows

    def _descend(self, held: tuple[Cut, ...]) -> tuple[Cut, ...]:
        """Cut further and further while quality holds, then between the last that held and the first that did not."""
        failed: Cut | None = None
        while failed is None and not self._done():
            cut = self._next(held)
            if cut.kept_ratio < self.effort.least:
                return held
            if self._tried((*held, cut)):
                held = (*held, cut)
            else:
                failed = cut
        for _ in range(self.effort.refine if failed else 0):
            assert failed is not None
            if self._done():
                break
            between = _middle(self.levels.left(held, failed.kind), failed)
            if self._tried((*held, between)):
                held = (*held, between)
            else:
                failed = between
        return held

    def _next(self, held: tuple[Cut, ...]) -> Cut:
        kind = CutKind.MACS if self._too_slow() else CutKind.PARAMETERS
        return Cut(kind=kind, kept_ratio=round(self.levels.left(held, kind) * self.effort.step, _DIGITS))

    def _too_slow(self) -> bool:
        """Whether time is limited, and not short enough in the last row that was timed."""
        limit = self.limits.latency_ratio
        timed = [row.latency.median for row in self.rows if row.latency is not None]
        return limit > 0 and (not timed or timed[-1] > limit)

    def _low_rank(self, held: tuple[Cut, ...]) -> None:
        """Low rank in place of one more cut, where large linear layers hold much of what is left."""
        if self._done():
            return
        model = self.levels.at(held)
        share = _share_of(large_linear_layers(model), model)
        if share < _WORTH:
            self.notes.append(
                f"low rank and 4 bits: not tried, large linear layers hold {share:.0%} of the parameters"
            )
            return
        kept = self.levels.left(held, CutKind.LOW_RANK) * self.effort.step
        if kept >= self.effort.least:
            self._tried((*held, Cut(kind=CutKind.LOW_RANK, kept_ratio=round(kept, _DIGITS))))

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

    def _done(self) -> bool:
        """Whether no further level is begun."""
        return (self._satisfied() and not self.smallest) or self._over()

    def _satisfied(self) -> bool:
        return self.limits.any and any(
            row.settings is not None and self.holds(row) and not self.broken(row) for row in self.rows
        )

    def _tried(self, cuts: tuple[Cut, ...]) -> bool:
        """Whether quality holds at a level; one that cannot be made is noted."""
        try:
            return self._level(cuts)
        except UsageError as error:
            self.notes.append(str(error))
            return False

    def _level(self, cuts: tuple[Cut, ...]) -> bool:
        """Make the ladder at one level; whether a rung holds. Below one that does, 4 bits are tried."""
        model = self.levels.at(cuts)
        for settings in self._rungs(cuts, model):
            if self._holding(settings, model):
                for finer in () if self._done() else self._finer(settings, model):
                    if self._holding(finer, model):
                        break
                return True
            if self._over() or not self._float_holds(model):
                break
        return False

    def _holding(self, settings: Settings, model: nn.Module) -> bool:
        """Add a row; whether quality holds in it. What does not fit this network is noted, and is no row."""
        try:
            row = self._row(settings, model)
        except (MissingDependency, UserCodeError):
            raise
        except EnxutoError as error:
            self.notes.append(f"{name_settings(settings)}: {error}")
            return False
        self.rows.append(row)
        return self.holds(row)

    def _float_holds(self, model: nn.Module) -> bool:
        """Whether quality holds before anything is rounded: else no repair of rounding can help."""
        seen = self.judge.see(model)
        return self._bounded(seen.drop, seen.upper)

    def _rungs(self, cuts: tuple[Cut, ...], model: nn.Module) -> Iterator[Settings]:
        """The ladder, in the schemes that may be used, with 32 bits at its end."""
        allowed = self.effort.schemes
        for repairs, recipe in self._ladder():
            if recipe.default in allowed:
                yield Settings(cuts=cuts, repairs=repairs, recipe=recipe)
        if Scheme.STATIC8 in allowed:
            needs = self._needs(model) if cuts else self.layers
            for spared in self.effort.spared:
                names = [f"{need.layer}.weight" for need in needs[:spared]]
                recipe = self._static(_TRIMMED).with_override(names, Scheme.FLOAT32)
                yield Settings(cuts=cuts, repairs=(), recipe=recipe)
        if Scheme.FLOAT32 in allowed and cuts:  # with no cut this is the original
            yield Settings(cuts=cuts, repairs=(), recipe=Recipe(default=Scheme.FLOAT32))

    def _ladder(self) -> Iterator[tuple[tuple[Repair, ...], Recipe]]:
        """8 bits plainly, then each repair, wider activations, and only weights in 8 bits."""
        rebuilt = (Repair.RECONSTRUCT,)
        plain, trimmed = self._static(_PLAIN), self._static(_TRIMMED)
        yield (), plain
        yield (), trimmed
        yield (Repair.EQUALISE, Repair.CORRECT), trimmed
        yield rebuilt, trimmed
        if self.effort.fine_tune and not self.judge.gives_numbers:  # its teacher speaks in classes
            yield (Repair.FINE_TUNE,), plain
        yield rebuilt, replace(_TRIMMED, default=Scheme.STATIC8_WIDE)
        yield rebuilt, replace(_PLAIN, default=Scheme.WEIGHT8)

    def _static(self, recipe: Recipe) -> Recipe:
        """A recipe of 8-bit kernels, in the range that they do not saturate in."""
        return replace(recipe, reduce_range=bool(self.effort.reduce_range))

    def _finer(self, held: Settings, model: nn.Module) -> Iterator[Settings]:
        """What held, with the weights of large linear layers in 4 bits: as they are, then with rounding repaired."""
        layers = large_linear_layers(model)
        rounds = held.recipe.default is not Scheme.FLOAT32
        if Scheme.WEIGHT4 not in self.effort.schemes or not rounds or _share_of(layers, model) < _WORTH:
            return
        spared = {override.name for override in held.recipe.overrides}
        names = [name for path in layers if (name := f"{path}.weight") not in spared]
        recipe = held.recipe.with_override(names, Scheme.WEIGHT4)
        for repairs in dict.fromkeys((held.repairs, (Repair.RECONSTRUCT,))):
            if Repair.FINE_TUNE not in repairs:  # it rounds to 8 bits everywhere
                yield replace(held, repairs=repairs, recipe=recipe)

    def _needs(self, model: nn.Module) -> tuple[LayerNeed, ...]:
        found = sensitivity(folded_or_plain(model), self.making.calibrate.first(_PROBED))
        return tuple(LayerNeed(layer=each.layer, weights=each.weights, kl=each.moved) for each in found)

    # -- one row ---------------------------------------------------------------------------------------------

    def _original(self) -> Candidate:
        return self._row(None, self.levels.original)

    def _row(self, settings: Settings | None, model: nn.Module) -> Candidate:
        known = self._read(settings)
        if known is not None:
            return known
        self.say(f"making {name_settings(settings)}")
        path = self._file(settings, "onnx")
        asked = settings or Settings(cuts=(), repairs=(), recipe=Recipe(default=Scheme.FLOAT32))
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


def large_linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers by path whose weights repay what packing them costs; a layer with two paths counts once."""
    return {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.numel() >= _LARGE
    }


def _share_of(layers: dict[str, nn.Linear], model: nn.Module) -> float:
    """Of a model's parameters, what these layers' weights hold."""
    held = sum(layer.weight.numel() for layer in layers.values())
    return held / sum(parameter.numel() for parameter in model.parameters())


def _middle(held: float, failed: Cut) -> Cut:
    """Halfway, by ratio, between a share that held and a cut that did not."""
    return replace(failed, kept_ratio=round((held * failed.kept_ratio) ** 0.5, _DIGITS))
