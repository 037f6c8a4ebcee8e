"""Smaller and smaller versions of a trained network: pruned step by step, each taught by the original."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import MissingDependency, UsageError
from ..records import Rebuild, write_atomically
from ..samples import Samples
from .distilling import Distillation, distil
from .pruning import Importance, Limit, Pruning, Size, prune
from .rebuilding import rebuild

_RANKED = 1024  # samples by whose gradients units are ranked


@dataclass(slots=True, eq=False)
class Levels:
    """The network at shares of its parameters; each is made once, and kept in a folder.

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
    _known: dict[tuple[float, ...], tuple[nn.Module, Rebuild]] = field(default_factory=dict)

    def at(self, path: tuple[float, ...]) -> nn.Module:
        """The network cut to `path[0]` of its parameters, taught, cut to `path[1]`, taught, and so on.

        Raises:
            UsageError: nothing in it can be pruned, or not so far.
        """
        return self._at(path)[0]

    @property
    def parameters(self) -> int:
        """Of the original."""
        return sum(parameter.numel() for parameter in self.original.parameters())

    def _at(self, path: tuple[float, ...]) -> tuple[nn.Module, Rebuild]:
        if not path:
            return self.original, Rebuild(edits=())
        if path not in self._known:
            self._known[path] = self._read(path) or self._made(path)
        return self._known[path]

    def _made(self, path: tuple[float, ...]) -> tuple[nn.Module, Rebuild]:
        before, edits = self._at(path[:-1])
        share = path[-1]
        self.say(f"pruning to {share:.1%} of the parameters")
        limit = Limit(size=Size.PARAMETERS, at_most=int(share * self.parameters))
        cut = prune(
            before,
            self.train.first(1).inputs,
            Pruning(limit=limit, importance=Importance.FIRST_ORDER),
            data=self.train.first(_RANKED),
        )
        if not cut.met:
            raise UsageError(f"pruning cannot go as far as {share:.1%} of the parameters")
        self.say(f"teaching {share:.1%} of the parameters for {self.distillation.epochs} epochs")
        checkpoint = self._file(path, "distil.safetensors")
        distil(
            self.original,
            cut.model,
            self.train,
            self.distillation,
            checkpoint=checkpoint,
            change=self.change,
            progress=self.say,
        )
        rebuilt = edits.then(cut.spec)
        self._write(path, cut.model, rebuilt)
        checkpoint.unlink(missing_ok=True)
        return cut.model, rebuilt

    def _file(self, path: tuple[float, ...], suffix: str) -> Path:
        name = hashlib.sha256(f"{self.key} {path}".encode()).hexdigest()[:16]
        return self.folder / f"level-{name}.{suffix}"

    def _write(self, path: tuple[float, ...], model: nn.Module, edits: Rebuild) -> None:
        save = _safetensors().save
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        write_atomically(self._file(path, "json"), edits.to_json())
        write_atomically(self._file(path, "safetensors"), save(state))  # last: with it a level is whole

    def _read(self, path: tuple[float, ...]) -> tuple[nn.Module, Rebuild] | None:
        stored, edits = self._file(path, "safetensors"), self._file(path, "json")
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
