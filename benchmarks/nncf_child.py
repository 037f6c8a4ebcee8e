"""NNCF's post-training quantization of an ONNX file, for an environment that holds nncf, onnx and numpy.

    PYTHON benchmarks/nncf_child.py model.onnx calibration.npy quantized.onnx

A program of its own because nncf pins what it needs; it imports nothing of this repository.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import onnx


def main(model_path: str, calibration_path: str, quantized_path: str) -> None:
    """Quantize with NNCF's defaults: int8, its "performance" preset, fast bias correction."""
    model = onnx.load(model_path)
    name = model.graph.input[0].name
    pictures = np.load(calibration_path)
    dataset = nncf.Dataset([{name: picture[None]} for picture in pictures])
    onnx.save(nncf.quantize(model, dataset, subset_size=len(pictures)), quantized_path)
    print(nncf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
