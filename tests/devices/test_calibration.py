"""Measuring op calls in a child process: exact answers, and crashes that cost one answer only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from enxuto.devices import OpMemory, ScratchTable, cpu_op_memories
from enxuto.devices.calibration import measure, measure_all
from enxuto.devices.scratch import needs_measuring


def tensor(*shape: int, dtype: str = "float32", stride: tuple[int, ...] | None = None) -> list[Any]:
    return ["tensor", dtype, list(shape), list(stride or torch.empty(shape, device="meta").stride())]


def call(name: str, *args: Any, **kwargs: Any) -> str:
    return json.dumps([name, list(args), kwargs])


def conv(batch: int, side: int = 8, channels: int = 4) -> str:
    image, weight = tensor(batch, channels, side, side), tensor(8, channels, 3, 3)
    return call("aten.convolution.default", image, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)


RAISES = call("aten.mm.default", tensor(2, 3), tensor(2, 3))
MM = call("aten.mm.default", tensor(4, 5), tensor(5, 6))


@pytest.fixture
def fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A signature whose kernel ends the child: an op registered by the child's own sitecustomize."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'enxuto.devices.calibration' in ' '.join(sys.orig_argv):\n"
        "    import torch\n"
        "    library = torch.library.Library('enxuto_test', 'DEF')\n"
        "    library.define('fatal(Tensor x) -> Tensor')\n"
        "    library.impl('fatal', lambda x: os._exit(11), 'CPU')\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [before])]))
    return call("enxuto_test.fatal.default", tensor(2))


def test_a_call_that_kills_the_child_costs_its_own_answer_only(fatal: str) -> None:
    seen: list[int] = []
    calls = [MM, conv(1), fatal, RAISES, conv(2)]
    found = measure_all(calls, threads=1, progress=seen.append)
    assert list(map(found.get, (fatal, RAISES))) == [None, None]
    assert found[MM] == OpMemory(0, (4 * 6 * 4,))
    assert found[conv(1)].outputs == (8 * 8 * 8 * 4,)
    assert found[conv(2)].outputs == (2 * 8 * 8 * 8 * 4,)
    assert set(found) == set(calls)


def test_a_fatal_call_among_many_chunks_is_found(fatal: str) -> None:
    calls = [call("aten.mm.default", tensor(1, n), tensor(n, 2)) for n in range(1, 71)]
    calls.insert(40, fatal)
    found = measure_all(calls, threads=1, progress=lambda done: None)
    assert [signature for signature in calls if found[signature] is None] == [fatal]
    assert len(found) == 71


def test_only_fatal_calls_end_too(fatal: str) -> None:
    assert measure_all([fatal], threads=1, progress=lambda done: None) == {fatal: None}
    assert measure_all([], threads=1, progress=lambda done: None) == {}


@pytest.mark.parametrize(
    ("signature", "memory"),
    [
        (MM, OpMemory(0, (4 * 6 * 4,))),
        (call("aten.relu.default", tensor(3, 7)), OpMemory(0, (3 * 7 * 4,))),
        (call("aten.relu_.default", tensor(3, 7)), OpMemory(0, ())),
        (call("aten.t.default", tensor(3, 7)), OpMemory(0, ())),
        # the output keeps the room of the unreduced losses: a scalar of 40 B; beside it their mean's copy
        # (40 B) and the exponent (12 B)
        (call("aten.mse_loss.default", tensor(10), tensor(10)), OpMemory(52, (40,))),
        # a number becomes a float64 and is then cast to float32: 8 + 4 B
        (call("aten.mul.Tensor", tensor(5), 0.5), OpMemory(12, (20,))),
        (call("aten.max.dim", tensor(4, 6), 1), OpMemory(0, (16, 32))),
        (RAISES, None),
        (call("aten.no_such_op.default", tensor(1)), None),
        ("[]", None),
    ],
)
def test_a_call_is_measured_exactly(signature: str, memory: OpMemory | None) -> None:
    assert measure([signature]) == [memory]


def test_measuring_again_gives_the_same() -> None:
    calls = [conv(1), conv(2), conv(2, side=16), MM]
    assert measure(calls) == measure(calls) == [measure([one])[0] for one in calls]


def test_every_argument_of_a_signature_reaches_the_op() -> None:
    full = call("aten.full.default", [3, 4], 2, dtype="torch.float64", device="device:cpu", pin_memory=False)
    assert measure([full]) == [OpMemory(0, (3 * 4 * 8,))]
    stacked = call("aten.cat.default", [tensor(2, 3), tensor(4, 3)])
    assert measure([stacked]) == [OpMemory(0, (6 * 3 * 4,))]
    spread = call("aten.sum.dim_IntList", tensor(3, 8, stride=(0, 0)), [0], True)
    assert measure([spread]) == [OpMemory(0, (32,))]


# -- the table -----------------------------------------------------------------------------------------------


def test_a_table_is_written_and_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path))
    table = ScratchTable.of_this_machine()
    assert table.rows == {}
    table.measure([MM, RAISES], lambda done: None)
    again = ScratchTable.of_this_machine()
    assert again.rows == {MM: OpMemory(0, (96,)), RAISES: None}
    assert again.missing([MM, RAISES, conv(1)]) == [conv(1)]
    assert [path.suffix for path in (tmp_path / "enxuto").iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rows": {"x": [1]}}', '{"rows": 3}', "\udcff"])
def test_a_spoilt_table_is_begun_anew(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path))
    path = ScratchTable.of_this_machine().path
    assert path is not None
    path.parent.mkdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert ScratchTable.of_this_machine().rows == {}


def test_a_table_without_a_place_stays_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    table = ScratchTable.of_this_machine()
    table.measure([MM], lambda done: None)
    assert table.look_up(MM) == OpMemory(0, (96,))


def test_a_thread_more_is_another_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENXUTO_CACHE", str(tmp_path))
    one = ScratchTable.of_this_machine().path
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ScratchTable.of_this_machine().path != one


@pytest.mark.parametrize(
    ("side", "channels", "batch"), [(64, 16, 300), (112, 32, 40)], ids=["64x64", "112x112"]
)
def test_a_large_convolution_is_extended_from_two_small_batches(side: int, channels: int, batch: int) -> None:
    table = ScratchTable({})
    large = conv(batch, side, channels)
    small = table.missing([large])
    assert len(small) == 2
    assert large not in small
    table.measure(small, lambda done: None)
    assert table.look_up(large) == measure([large])[0]


def test_a_call_too_large_to_run_is_unknown() -> None:
    table = ScratchTable({})
    huge = call("aten.sort.default", tensor(2**27))
    assert table.missing([huge]) == []
    memories = cpu_op_memories([huge], table)
    assert (memories.of_signature, memories.unknown, memories.basis) == ((None,), 1, "assumed 0")


def test_the_basis_says_how_much_was_measured() -> None:
    assert cpu_op_memories([conv(1)], ScratchTable({}), calibrate=False).basis == "assumed 0"
    assert cpu_op_memories([conv(1)], ScratchTable({})).basis == "measured"
    assert cpu_op_memories([], ScratchTable({})).basis == "measured"
    mixed = cpu_op_memories([conv(1), call("aten.sort.default", tensor(2**27))], ScratchTable({}))
    assert (mixed.basis, mixed.unknown) == ("partly assumed", 1)


def test_what_is_known_is_not_measured_again() -> None:
    said: list[str] = []
    table = ScratchTable({})
    cpu_op_memories([conv(1), MM], table, progress=said.append)
    assert said[0] == "measuring kernel scratch once for this machine: 1 op calls"
    said.clear()
    cpu_op_memories([conv(1), MM], table, progress=said.append)
    assert said == []


@pytest.mark.parametrize(
    ("signature", "needed"),
    [
        (MM, False),
        (call("aten.mm.default", tensor(4, 5, dtype="bfloat16"), tensor(5, 6, dtype="bfloat16")), True),
        (call("aten.relu.default", tensor(3, 7)), False),
        (call("aten.add.Tensor", tensor(3, 7), tensor(3, 7)), False),
        (call("aten.add.Tensor", tensor(3, 7), tensor(3, 7, stride=(1, 3))), True),
        (call("aten.add.Tensor", tensor(3, 7), 1), True),
        (call("aten.zeros.default", [3]), False),
        (conv(1), True),
        (call("aten.no_such_op.default", tensor(1)), False),
    ],
)
def test_only_calls_that_can_hide_memory_are_measured(signature: str, needed: bool) -> None:
    assert needs_measuring(signature) is needed
