"""Exported nets, once for all tests: an export takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compressing.quantizing.nets import Sequence, SmallNet, exported, images, tokens

pytest.importorskip("onnxruntime", reason="the extra 'compress' is not installed")


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(SmallNet(), images(), tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture(scope="session")
def sequence_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(Sequence(), tokens(), tmp_path_factory.mktemp("onnx") / "sequence.onnx")
