"""The README of an artefact: its numbers, a snippet that runs as it stands, hostile text that stays text."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enxuto.errors import UsageError
from enxuto.records import Compressed, OnnxRuntimeFlags, OptimizationLevel, ThreadFlags
from enxuto.reporting import model_card
from tests.reporting import compressed_samples, samples

SHAPE = (1, 1, 28, 28)


def card(record: Compressed, *, artefact: str = "model.onnx", names: tuple[str, ...] = ("input",)) -> str:
    return model_card(record, artefact=artefact, example_shape=SHAPE, input_names=names)


def fenced(markdown: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def with_flags(record: Compressed, flags: OnnxRuntimeFlags | ThreadFlags) -> Compressed:
    return replace(record, candidates=tuple(replace(each, flags=flags) for each in record.candidates))


def test_the_card_says_what_became_of_the_sizes_and_of_quality() -> None:
    text = card(compressed_samples.chosen())
    assert text.startswith("# vgg\\_style, Fashion-MNIST\n")
    assert "5.7 MiB became 271.0 KiB (21.5× smaller)." in text
    assert (
        "| file | 5.7 MiB (5,971,968 B) | 271.0 KiB (277,504 B) | 21.5× smaller | 300.0 KiB (307,200 B) |"
        in text
    )
    assert "**Certificate: accepted: top-1 accuracy loses at most 0.67 points.**" in text
    assert "- samples: 512 calibrated, 5,000 chose, 10,000 were kept to certify" in text
    assert "graph optimization extended, no arena, 1 thread" in text


def test_without_a_certificate_the_card_says_so_and_offers_no_check() -> None:
    text = card(compressed_samples.plain_file())
    assert "**Not certified.**" in text
    assert "--recheck" not in text and "## Check it again" not in text


def test_nothing_chosen_has_no_card() -> None:
    with pytest.raises(UsageError, match="no artefact to describe"):
        card(compressed_samples.nothing())


def test_the_command_checks_this_file_again() -> None:
    command = fenced(card(compressed_samples.chosen(), artefact="a model's.onnx"), "bash")
    words = shlex.split(command)
    assert words[:5] == ["enxuto", "certify", "ORIGINAL", "--recheck", "certificate.json"]
    assert words[words.index("--model") + 1] == "a model's.onnx"


def test_the_runtimes_own_settings_take_three_lines() -> None:
    assert fenced(card(compressed_samples.plain_file()), "python").splitlines() == [
        "import numpy, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        'outputs = session.run(None, {"input": numpy.zeros((1, 1, 28, 28), "float32")})',
    ]


def test_another_runtime_gets_no_snippet_of_onnxruntime() -> None:
    text = card(with_flags(compressed_samples.chosen(), ThreadFlags(threads=1)), artefact="model.pte")
    assert "```python" not in text and "Load `model.pte` with" in text


@pytest.mark.parametrize(
    "flags",
    [
        OnnxRuntimeFlags(),
        compressed_samples.TUNED,
        OnnxRuntimeFlags(level=OptimizationLevel.DISABLE, prepacking=False, memory_pattern=False),
        OnnxRuntimeFlags(level=OptimizationLevel.BASIC, ahead=True, arena=False),
    ],
)
@pytest.mark.parametrize("name", ["input", 'it\'s "two" `names`'])
def test_the_snippet_runs_and_sets_what_was_measured_under(
    flags: OnnxRuntimeFlags, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    shaped = [helper.make_tensor_value_info(each, real, SHAPE) for each in (name, "out")]
    graph = helper.make_graph([helper.make_node("Relu", [name], ["out"])], "g", shaped[:1], shaped[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    snippet = fenced(card(with_flags(compressed_samples.chosen(), flags), names=(name,)), "python")
    space: dict[str, Any] = {}
    exec(snippet, space)
    assert space["outputs"][0].shape == SHAPE
    options = space["session"].get_session_options()
    level = OptimizationLevel.DISABLE if flags.ahead else flags.level
    wanted = {
        OptimizationLevel.DISABLE: runtime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        OptimizationLevel.BASIC: runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        OptimizationLevel.EXTENDED: runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        OptimizationLevel.ALL: runtime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    assert options.graph_optimization_level == wanted[level]
    assert options.enable_cpu_mem_arena == flags.arena
    assert options.enable_mem_pattern == flags.memory_pattern
    if not flags.prepacking:
        assert options.get_session_config_entry("session.disable_prepacking") == "1"


def test_hostile_text_is_only_text_once_markdown_is_read() -> None:
    markdown = pytest.importorskip("markdown_it")
    record = compressed_samples.hostile()
    text = card(record, artefact=f"{samples.SCRIPT}.onnx", names=(samples.HANDLER, samples.ESCAPE))
    assert "\x1b" not in text
    tokens = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inside = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inside]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open"}
    title = next(token for token in tokens if token.type == "inline")
    assert samples.SCRIPT in "".join(child.content for child in title.children or [])
    assert len([token for token in tokens if token.type == "fence"]) == 2
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    assert len(cells) == 5 * len(rows)  # no text adds a column
    compile(fenced(text, "python"), "card", "exec")


def test_a_metrics_name_opens_no_column_and_no_emphasis() -> None:
    text = card(replace(compressed_samples.plain_file(), metric="a|b *c* _d_ $e$ ~~f~~"))
    assert "| a\\|b \\*c\\* \\_d\\_ \\$e\\$ \\~\\~f\\~\\~, choosing |" in text


def test_a_name_survives_in_the_snippet() -> None:
    for name in (*samples.HOSTILE, 'x"y', "a\\b", "```", "tab\t"):
        snippet = fenced(card(compressed_samples.plain_file(), artefact=name, names=(name,)), "python")
        lines = snippet.splitlines()
        assert len(lines) == 3
        found = re.search(r"InferenceSession\((.*), providers=", lines[1])
        assert found and eval(found[1]) == name
