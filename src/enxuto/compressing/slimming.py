"""An ONNX file without what no runtime reads: long names, stored shapes of intermediates, notes of the exporter."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ..records import write_atomically


def slim(path: Path) -> int:
    """Shorten every inner name and drop notes, in place; inputs and outputs keep their names.

    A graph with subgraphs keeps its names: what is inside refers to what is outside.

    Returns:
        Bytes saved.
    """
    import onnx

    before = path.stat().st_size
    model = onnx.load(str(path))
    _drop_notes(model)
    if not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        _shorten(model.graph)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return before - path.stat().st_size


def _drop_notes(model: Any) -> None:
    graph = model.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def _shorten(graph: Any) -> None:
    kept = {value.name for value in (*graph.input, *graph.output)}
    fresh = (name for name in map(_digits, itertools.count()) if name not in kept)
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        if not name or name in kept:  # an empty name is an argument left out
            return name
        if name not in short:
            short[name] = next(fresh)
        return short[name]

    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)


def _digits(number: int) -> str:
    """A count in base 36: short names, in the order of first use."""
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while True:
        number, rest = divmod(number, 36)
        text = letters[rest] + text
        if not number:
            return f"t{text}"
