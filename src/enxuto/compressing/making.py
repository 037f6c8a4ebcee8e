"""One candidate made: a trained module, under settings, as a file of its runtime."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UndecidableError, UsageError
from ..records import Coverage, Recipe, Repair, Scheme, Settings
from ..samples import Samples
from .folding import fold_batch_norms
from .quantizing import (
    CHANNELS8,
    BiasCorrection,
    FineTuning,
    Grid,
    Reconstruction,
    correct_biases,
    cover,
    equalise,
    fine_tune_quantized,
    quantize_onnx,
    reconstruct,
)
from .quantizing.graph import name_products, read_onnx, write_onnx
from .runtimes.onnx_runtime import OnnxRuntime
from .slimming import slim

_RECONSTRUCTED = 512  # samples whose inputs weigh the rounding
_CALIBRATED = 512  # samples whose activations set the ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What every candidate of a search is made with.

    Attributes:
        calibrate: sets ranges, and weighs the repairs.
        train: fine-tunes.
        fine_tuning: how.
    """

    calibrate: Samples
    train: Samples
    fine_tuning: FineTuning = field(default_factory=FineTuning)

    def make(self, model: nn.Module, settings: Settings, path: Path) -> Coverage:
        """Write the artefact of a (pruned) module under settings, whole or not at all.

        Returns:
            Its stored tensors, under the names that the module has for them.

        Raises:
            UsageError: the module cannot be exported, or a repair does not fit it.
            UndecidableError: it cannot be followed.
        """
        folded = folded_or_plain(model)
        if Repair.FINE_TUNE in settings.repairs:
            _fine_tuned(self, folded, path, settings.recipe)
            return _slimmed(path, settings.recipe)
        if Repair.EQUALISE in settings.repairs:
            folded = equalise(folded).model
        grids: tuple[Grid, ...] = ()
        weights = None
        if Repair.RECONSTRUCT in settings.repairs:
            kept, grid_of = _kept(settings.recipe), _reconstruction(settings.recipe)
            found = reconstruct(folded, self.calibrate.first(_RECONSTRUCTED), grid_of)
            grids = tuple(grid for grid in found.grids if grid.name not in kept)
            weights = {name: weight for name, weight in found.weights.items() if f"{name}.weight" not in kept}
            plain = folded
            folded = found.model
            _restore(folded, plain, kept)
        if Repair.CORRECT in settings.repairs:
            grid = BiasCorrection(weights=replace(CHANNELS8, bits=_bits(settings.recipe)))
            folded = correct_biases(folded, self.calibrate, grid, weights=weights)
        export(folded, self.calibrate, settings.recipe, path, grids=grids)
        return _slimmed(path, settings.recipe)


def export(module: nn.Module, calibrate: Samples, recipe: Recipe, path: Path, *, grids: Any = ()) -> None:
    """Write a module as an ONNX file under a recipe."""
    with tempfile.TemporaryDirectory(prefix="enxuto-", dir=path.parent) as folder:
        plain = Path(folder) / "float32.onnx"
        OnnxRuntime().export(module, calibrate.first(2).inputs, plain)
        if recipe.default is Scheme.FLOAT32 and not recipe.overrides:
            os.replace(plain, path)
            return
        _name_products(plain, module)
        samples = calibrate.first(_CALIBRATED) if recipe.needs_data else None
        quantize_onnx(plain, path, recipe, samples=samples, grids=grids)


def _name_products(path: Path, module: nn.Module) -> None:
    """In the file, the names that recipes use: the module's."""
    model = read_onnx(path)
    linear = {
        f"{place}.weight": part.weight.detach().cpu().numpy()
        for place, part in module.named_modules()
        if isinstance(part, nn.Linear)
    }
    name_products(model, linear)
    write_onnx(model, path)


def _slimmed(path: Path, recipe: Recipe) -> Coverage:
    coverage = cover(path, recipe)
    slim(path)
    return coverage


def folded_or_plain(model: nn.Module) -> nn.Module:
    """A copy in eval mode with batch norms folded, where torch.fx can follow it."""
    try:
        return fold_batch_norms(model).model.eval()
    except (UndecidableError, UsageError):
        import copy

        return copy.deepcopy(model).eval()


def _fine_tuned(making: Making, folded: nn.Module, path: Path, recipe: Recipe) -> None:
    settings = replace(making.fine_tuning, reduce_range=recipe.reduce_range)
    with torch.random.fork_rng(devices=[]):
        fine_tune_quantized(folded, making.train, path, settings)


def _bits(recipe: Recipe) -> int:
    """Of the weights that a recipe computes with in 8-bit kernels."""
    return 7 if recipe.reduce_range else 8


def _kept(recipe: Recipe) -> set[str]:
    """Weights that stay as they are."""
    return {override.name for override in recipe.overrides if override.scheme is Scheme.FLOAT32}


def _reconstruction(recipe: Recipe) -> Reconstruction:
    """Rounding on the grids that a recipe stores: 8 bits or 7, and 4 where it says so."""
    four = [override.name for override in recipe.overrides if override.scheme is Scheme.WEIGHT4]
    return Reconstruction(
        bits=_bits(recipe), exceptions=tuple((name.removesuffix(".weight"), 4) for name in four)
    )


def _restore(rounded: nn.Module, plain: nn.Module, names: set[str]) -> None:
    """The weights that a recipe keeps as they are, as they were before rounding."""
    before = dict(plain.named_parameters())
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name in names:
                parameter.copy_(before[name])
