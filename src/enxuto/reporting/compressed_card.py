"""A compression as the README of its artefact: what it is, how to run it, how to check it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from ..errors import UsageError
from ..records import Candidate, Compressed, OnnxRuntimeFlags, OptimizationLevel
from ..units import format_bytes
from . import certificate_rows
from . import compressed_rows as rows
from .compressed_rows import Value
from .wording import plain

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~&!$@])")  # what Markdown reads as more than itself inside a line

_LEVELS = {
    OptimizationLevel.DISABLE: "ORT_DISABLE_ALL",
    OptimizationLevel.BASIC: "ORT_ENABLE_BASIC",
    OptimizationLevel.EXTENDED: "ORT_ENABLE_EXTENDED",
    OptimizationLevel.ALL: "ORT_ENABLE_ALL",
}


def model_card(
    compressed: Compressed,
    *,
    artefact: str = "model.onnx",
    example_shape: Sequence[int],
    input_names: Sequence[str],
    dtype: str = "float32",
    certificate: str = "certificate.json",
) -> str:
    """The README of the chosen artefact, in Markdown; text from models is escaped.

    Args:
        compressed: what was found.
        artefact: name of its file, beside the README.
        example_shape: of every input, the batch first.
        input_names: of the artefact's inputs, in order.
        dtype: numpy's name for the type of every input.
        certificate: name of the certificate's file, beside the README.

    Raises:
        UsageError: nothing was chosen, so there is no artefact to describe.
    """
    chosen = compressed.artefact
    if chosen is None:
        raise UsageError(
            "there is no artefact to describe: no candidate keeps the limits "
            "(`enxuto report` shows what would have to be allowed)"
        )
    parts = [
        f"# {_safe(compressed.workload)}",
        _what_it_is(compressed, chosen),
        "## Sizes and quality",
        "\n".join(_sizes(compressed)),
        _quality(compressed),
        "## Run it",
        _running(compressed, chosen, artefact, tuple(example_shape), input_names, dtype),
        "## Measured, and where",
        "\n".join(f"- {_safe(name)}: {_safe(value)}" for name, value in rows.conditions(compressed)),
        *_checking(compressed, artefact, certificate),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(compressed: Compressed, chosen: Candidate) -> str:
    was = compressed.original
    return (
        f"Compressed by enxuto for {_safe(compressed.runtime)}: "
        f"{_safe(rows.name_settings(chosen.settings))}. "
        f"{format_bytes(was.file_bytes)} became {format_bytes(chosen.file_bytes)} "
        f"({rows.smaller(was.file_bytes, chosen.file_bytes)})."
    )


def _sizes(compressed: Compressed) -> Iterator[str]:
    yield "| | original | this file | | asked for |"
    yield "|---|---:|---:|---|---:|"
    for row in rows.limits(compressed):
        cells = (row.name, _value(row.before), _value(row.after), row.ratio, _value(row.asked))
        yield f"| {' | '.join(map(_safe, cells))} |"


def _value(value: Value) -> str:
    return f"{format_bytes(value)} ({value:,} B)" if isinstance(value, int) else value


def _quality(compressed: Compressed) -> str:
    certificate = compressed.certificate
    if certificate is None:
        return (
            "**Not certified.** The drop is bounded on the samples that chose this candidate among others, "
            "which makes it look better than it is."
        )
    lines = [f"- {_safe(name)}: {_safe(value)}" for name, value in certificate_rows.summary(certificate)[1:]]
    return f"**Certificate: {_safe(certificate_rows.headline(certificate))}.**\n\n" + "\n".join(lines)


def _running(
    compressed: Compressed,
    chosen: Candidate,
    artefact: str,
    shape: tuple[int, ...],
    names: Sequence[str],
    dtype: str,
) -> str:
    if not isinstance(chosen.flags, OnnxRuntimeFlags):
        return f"Load {_code(artefact)} with {_safe(compressed.runtime)}."
    return (
        f"```python\n{_snippet(chosen.flags, artefact, shape, names, dtype)}\n```\n\n"
        f"Memory and latency were measured under: {_safe(rows.name_flags(chosen.flags))}."
    )


def _snippet(
    flags: OnnxRuntimeFlags, artefact: str, shape: tuple[int, ...], names: Sequence[str], dtype: str
) -> str:
    """Three lines; where the numbers hold under other settings than the runtime's own, those too."""
    options = list(_options(flags))
    given = ", ".join(f"{_literal(name)}: numpy.zeros({shape}, {_literal(dtype)})" for name in names)
    provider = 'providers=["CPUExecutionProvider"]'
    how = f"options, {provider}" if options else provider
    lines = [
        "import numpy, onnxruntime",
        *options,
        f"session = onnxruntime.InferenceSession({_literal(artefact)}, {how})",
        f"outputs = session.run(None, {{{given}}})",
    ]
    return "\n".join(lines)


def _options(flags: OnnxRuntimeFlags) -> Iterator[str]:
    """The lines that set what `enxuto` measured under, where the runtime would do otherwise."""
    level = OptimizationLevel.DISABLE if flags.ahead else flags.level  # the file holds the optimized graph
    own = OnnxRuntimeFlags()
    lines = []
    if level is not own.level:
        name = f"onnxruntime.GraphOptimizationLevel.{_LEVELS[level]}"
        lines.append(f"options.graph_optimization_level = {name}")
    if not flags.arena:
        lines.append("options.enable_cpu_mem_arena = False")
    if not flags.memory_pattern:
        lines.append("options.enable_mem_pattern = False")
    if not flags.prepacking:
        lines.append('options.add_session_config_entry("session.disable_prepacking", "1")')
    if lines:
        yield "options = onnxruntime.SessionOptions()"
        yield from lines


def _checking(compressed: Compressed, artefact: str, certificate: str) -> Iterator[str]:
    if compressed.certificate is None:
        return
    yield "## Check it again"
    files = f"--recheck {shlex.quote(plain(certificate))} --model {shlex.quote(plain(artefact))}"
    yield (
        f"```bash\nenxuto certify ORIGINAL {files} --data FILE.py:NAME\n```\n\n"
        "ORIGINAL is the network as it was (`file.py:name`, or an `.onnx` file), FILE.py:NAME the samples. "
        "Without ORIGINAL and `--data` the certificate's own numbers and this file's hash are checked."
    )


def _safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _ACTIVE.sub(r"\\\1", plain(text))


def _code(name: str) -> str:
    """A name as code; a backtick inside would end it."""
    return f"`{plain(name).replace('`', chr(0x2019))}`"


def _literal(text: str) -> str:
    """A Python string that is this text, on one line."""
    written = repr(text)
    return f'"{text}"' if written == f"'{text}'" and '"' not in text else written
