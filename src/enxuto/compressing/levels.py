"""Smaller and smaller versions of a trained network: cut step by step, each taught by the original."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import MissingDependency, UsageError
from ..records import Cut, CutKind, Edit, Rebuild, write_atomically
from ..reporting import name_cut
from ..samples import Samples
from .distilling import Distillation, distil
from .factorising import LowRankSettings, factorise
from .pruning import Importance, Limit, Pruned, Pruning, Size, prune, size_of
from .rebuilding import rebuild

_RANKED = 1024  # samples by whose gradients units are ranked
_EVEN = (
    8,
    4,
    1,
)  # channels come in multiples of the first of these that goes far enough: kernels take eight at once
_SIZES = {
    CutKind.PARAMETERS: Size.PARAMETERS,
    CutKind.MACS: Size.MACS,
    CutKind.LOW_RANK: Size.PARAMETERS,
}


@dataclass(slots=True, eq=False)
class Levels:
    """The network after cuts; each is made once, and kept in a folder.

    Args:
        original: the trained network, which teaches all others.
        train: what they learn from.
        distillation: how, after each cut.
        folder: where finished levels are kept, so that a search that was stopped goes on.
        key: of everything that they depend on besides, as text.
        change: augments a batch of inputs while they learn.
        say: takes lines of progress.
    """

    original: nn.Module
    train: Samples
    distillation: Distillation
    folder: Path
    key: str
    change: Callable[[Any], Any] | None = None
    say: Callable[[str], None] = lambda line: None
    _known: dict[tuple[Cut, ...], tuple[nn.Module, Rebuild]] = field(default_factory=dict)

    def at(self, cuts: tuple[Cut, ...]) -> nn.Module:
        """The network after the first cut, taught, the second, taught, and so on.

        Raises:
            UsageError: nothing in it can be cut, or not so far.
        """
        return self._at(cuts)[0]

    def left(self, cuts: tuple[Cut, ...], kind: CutKind) -> float:
        """What is left after these cuts of what a kind of cut counts, as a share of the original's."""
        return self._size(self.at(cuts), kind) / self._size(self.original, kind)

    def _size(self, model: nn.Module, kind: CutKind) -> int:
        return size_of(model, self.train.first(1).inputs, _SIZES[kind])

    def _at(self, cuts: tuple[Cut, ...]) -> tuple[nn.Module, Rebuild]:
        if not cuts:
            return self.original, Rebuild(edits=())
        if cuts not in self._known:
            self._known[cuts] = self._read(cuts) or self._made(cuts)
        return self._known[cuts]

    def _made(self, cuts: tuple[Cut, ...]) -> tuple[nn.Module, Rebuild]:
        before, edits = self._at(cuts[:-1])
        words = name_cut(cuts[-1])
        self.say(f"cutting to {words}")
        model, made = self._cut(before, cuts[-1])
        self.say(f"teaching {words} for {self.distillation.epochs} epochs")
        checkpoint = self._file(cuts, "distil.safetensors")
        distil(
            self.original,
            model,
            self.train,
            self.distillation,
            checkpoint=checkpoint,
            change=self.change,
            progress=self.say,
        )
        rebuilt = edits.then(*made)
        self._write(cuts, model, rebuilt)
        checkpoint.unlink(missing_ok=True)
        return model, rebuilt

    def _cut(self, before: nn.Module, cut: Cut) -> tuple[nn.Module, tuple[Edit, ...]]:
        """A smaller copy, not taught yet."""
        at_most = int(cut.kept_ratio * self._size(self.original, cut.kind))
        if cut.kind is CutKind.LOW_RANK:
            low = factorise(before, LowRankSettings(at_most=at_most), data=self.train.first(_RANKED))
            made, edits, met = low.model, tuple[Edit, ...](low.edits), low.met
        else:
            pruned = self._pruned(before, Limit(size=_SIZES[cut.kind], at_most=at_most))
            made, edits, met = pruned.model, (pruned.spec,), pruned.met
        if not met:
            raise UsageError(f"cutting cannot go as far as {name_cut(cut)}")
        return made, edits

    def _pruned(self, before: nn.Module, limit: Limit) -> Pruned:
        """Where time is what is cut, units go by what they take of it, and what stays is even."""
        timed = limit.size is Size.MACS
        for round_to in _EVEN if timed else (1,):
            pruning = Pruning(
                limit=limit, importance=Importance.FIRST_ORDER, round_to=round_to, by_cost=timed
            )
            ranked = self.train.first(_RANKED)
            pruned = prune(before, self.train.first(1).inputs, pruning, data=ranked)
            if pruned.met:
                break
        return pruned

    def _file(self, cuts: tuple[Cut, ...], suffix: str) -> Path:
        path = tuple((cut.kind.value, cut.kept_ratio) for cut in cuts)
        name = hashlib.sha256(f"{self.key} {path}".encode()).hexdigest()[:16]
        return self.folder / f"level-{name}.{suffix}"

    def _write(self, cuts: tuple[Cut, ...], model: nn.Module, edits: Rebuild) -> None:
        save = _safetensors().save
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        write_atomically(self._file(cuts, "json"), edits.to_json())
        write_atomically(self._file(cuts, "safetensors"), save(state))  # last: with it a level is whole

    def _read(self, cuts: tuple[Cut, ...]) -> tuple[nn.Module, Rebuild] | None:
        stored, edits = self._file(cuts, "safetensors"), self._file(cuts, "json")
        if not stored.exists() or not edits.exists():
            return None
        known = Rebuild.from_json(edits.read_bytes())
        model = rebuild(copy.deepcopy(self.original), known)
        model.load_state_dict(_safetensors().load(stored.read_bytes()))
        return model, known


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise MissingDependency(
            "levels are kept as safetensors; install them with pip install 'enxuto[compress]'"
        ) from None
    return safetensors.torch
