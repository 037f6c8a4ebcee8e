"""Weights and activations in fewer bits: schemes on ONNX files, the repairs that keep quality, and the coverage."""
