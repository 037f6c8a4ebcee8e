"""Weights and activations in fewer bits: schemes on ONNX files, the repairs that keep quality, and the coverage.

The lesson first (`affine`); then recipes carried out on a file (`quantize_onnx`) and what they covered (`cover`).
Repairs work on the torch module before it is exported, batch norms folded: `equalise`, `correct_biases`,
`reconstruct` (its grids go to `quantize_onnx`), `fine_tune_quantized`. `sensitivity` says where they are needed.
"""

from .affine import (
    CHANNELS8,
    Affine,
    AffineError,
    Lesson,
    Quantized,
    lesson,
    pack4,
    quantize,
    sqnr_db,
    unpack4,
)
from .correcting import BiasCorrection, correct_biases
from .coverage import cover
from .equalising import Clip, Equalisation, Equalised, Pair, equalise
from .grids import Grid
from .layers import with_weights
from .onnx_recipes import quantize_onnx, weight_names
from .quantization_aware import FineTuned, FineTuning, fine_tune_quantized
from .reconstructing import LayerReconstruction, Reconstructed, Reconstruction, reconstruct
from .sensitivity import LayerSensitivity, Probe, sensitivity

__all__ = [
    "CHANNELS8",
    "Affine",
    "AffineError",
    "BiasCorrection",
    "Clip",
    "Equalisation",
    "Equalised",
    "FineTuned",
    "FineTuning",
    "Grid",
    "LayerReconstruction",
    "LayerSensitivity",
    "Lesson",
    "Pair",
    "Probe",
    "Quantized",
    "Reconstructed",
    "Reconstruction",
    "correct_biases",
    "cover",
    "equalise",
    "fine_tune_quantized",
    "lesson",
    "pack4",
    "quantize",
    "quantize_onnx",
    "reconstruct",
    "sensitivity",
    "sqnr_db",
    "unpack4",
    "weight_names",
    "with_weights",
]
