"""PyTorch's memory snapshots: read without running them, and every figure is the allocator's own."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enxuto.cli import main
from enxuto.errors import RecordError
from enxuto.records import Snapshot, is_snapshot, read_snapshot, snapshot_file
from enxuto.records.snapshot_file import _PLAIN, plain_values
from enxuto.reporting import render, snapshot_rows
from enxuto.units import format_bytes
from tests.records.snapshots import SEGMENT, STACKS, Allocator, frame, played
from tests.reporting.browser import Page, needs_chromium, open_in_chromium


def write(content: Any, folder: Path, protocol: int | None = None) -> Path:
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("seed", range(12))
def test_the_state_is_the_allocators(seed: int, tmp_path: Path) -> None:
    allocator = played(seed)
    snapshot = read_snapshot(write(allocator.dump(), tmp_path, protocol=2 + seed % 4))
    blocks = [b for s in allocator.segments for b in s["blocks"]]

    def total(state: str) -> int:
        return sum(b["size"] for b in blocks if b["state"] == state)

    assert snapshot.requested == sum(nbytes for nbytes, _ in allocator.alive.values())
    assert snapshot.allocated == total("active_allocated")
    assert snapshot.free == total("inactive")
    assert snapshot.reserved == SEGMENT * len(allocator.segments)
    assert snapshot.allocated + snapshot.awaiting + snapshot.free == snapshot.reserved
    assert snapshot.largest_free == max((b["size"] for b in blocks if b["state"] == "inactive"), default=0)
    stranded = 0
    for segment in allocator.segments:
        free = sum(b["size"] for b in segment["blocks"] if b["state"] == "inactive")
        stranded += free if free < SEGMENT else 0
    assert snapshot.stranded == stranded
    assert sum(held.nbytes for held in snapshot.held()) == snapshot.allocated


@pytest.mark.parametrize("seed", range(12))
def test_the_curves_are_what_happened(seed: int, tmp_path: Path) -> None:
    allocator = played(seed)
    snapshot = read_snapshot(write(allocator.dump(), tmp_path))
    curve, reserved = snapshot.lives(0).curve, snapshot.reserved_curve(0)
    assert list(zip(curve[1:].tolist(), reserved[1:].tolist(), strict=True)) == allocator.truth
    assert curve[0] == reserved[0] == 0
    peak = int(curve.argmax())
    by_line = {held.site.line: held.nbytes for held in snapshot.held_at_peak(0) if held.site}
    assert by_line == allocator.holders[peak - 1]


@pytest.mark.parametrize("seed", range(12))
def test_a_history_cut_short_has_the_same_end(seed: int, tmp_path: Path) -> None:
    """The ring of events keeps the latest; what was alive before it is known from its end or from now."""
    allocator = played(seed)
    latest = len(allocator.trace) // 2
    snapshot = read_snapshot(write(allocator.dump(history=latest), tmp_path))
    curve, reserved = snapshot.lives(0).curve, snapshot.reserved_curve(0)
    expected = allocator.truth[len(allocator.trace) - latest - 1 :]
    assert list(zip(curve.tolist(), reserved.tolist(), strict=True)) == expected
    assert sum(held.nbytes for held in snapshot.held_at_peak(0)) == curve.max()


def test_a_holder_is_the_users_innermost_line(tmp_path: Path) -> None:
    snapshot = read_snapshot(write(played(1).dump(), tmp_path))
    assert {str(held.site) for held in snapshot.held()} <= {f"/home/ana/train.py:{n}" for n in (10, 20, 30)}


def test_old_and_bare_snapshots_are_read(tmp_path: Path) -> None:
    """PyTorch 2.0 kept frames in a history; without `_record_memory_history` there are neither frames nor events."""
    old = {"size": 1024, "state": "active_allocated", "history": [{"real_size": 700, "frames": STACKS[0]}]}
    bare = {"size": 512, "state": "active_pending_free", "some_newer_field": {"a": [1]}}
    segment = {"address": 4096, "total_size": 1536, "blocks": [old, bare]}
    snapshot = read_snapshot(write({"segments": [segment]}, tmp_path))
    assert (snapshot.requested, snapshot.allocated, snapshot.awaiting) == (700, 1024, 512)
    assert [block.address for block in snapshot.blocks] == [4096, 5120]
    assert snapshot.devices == (0,) and len(snapshot.events) == 0
    assert render(snapshot, "text")


def test_a_refused_request_is_shown(tmp_path: Path) -> None:
    dump = played(3).dump()
    dump["device_traces"][0].append({"action": "oom", "size": 3 * 2**30, "device_free": 17, "frames": []})
    dump["device_traces"].append(
        [{"action": "hologram_alloc", "size": 1}]
    )  # a second device, a newer PyTorch
    snapshot = read_snapshot(write(dump, tmp_path))
    assert dict(snapshot_rows.summary(snapshot))["Failures"] == "1 refused request, the last of 3.0 GiB"
    assert snapshot.devices == (0, 1) and snapshot.lives(1).curve.tolist() == [0, 0]


# Nothing in the file is run


class _Calls:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", [0, 1])
def test_a_pickle_that_calls_is_refused_and_not_run(protocol: int, depth: int, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    bad: Any = _Calls(os.mkdir, str(trap))
    path = write({"segments": [], "device_traces": [[bad]]} if depth else bad, tmp_path, protocol)
    with pytest.raises(RecordError, match=r"more than plain values \(instruction|damaged"):
        read_snapshot(path)
    assert not trap.exists()


def test_only_instructions_that_make_plain_values_are_known() -> None:
    made = {"list", "dict", "tuple", "int", "float", "str", "None", "bool", "any", "mark", "int_or_bool"}
    for code in _PLAIN:
        known = next(op for op in pickletools.opcodes if op.code.encode("latin1") == code)
        assert {each.name for each in known.stack_after} <= made, known.name
        assert not {"GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "EXT1", "PERSID"} & {known.name}


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", bytearray(9), Path("x"), np.int64(3), complex(1, 2), len, Exception("x")]
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(RecordError, match="plain values"):
        plain_values(pickle.dumps(value))


MEMO_BOMB = b"\x80\x02]r\xff\xff\xff\xffr\x00\x00\x00\x80."  # the reader in C makes 64 GiB of room for it


def test_a_far_place_in_the_table_takes_no_memory() -> None:
    assert plain_values(MEMO_BOMB) == []


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_an_error_of_ours(seed: int, tmp_path: Path) -> None:
    content = bytearray(pickle.dumps(played(seed, 20).dump()))
    chance = np.random.default_rng(seed)
    for _ in range(3):
        content[chance.integers(2, len(content))] = chance.integers(256)
    path = tmp_path / "damaged.pickle"
    path.write_bytes(content if seed % 2 else content[: chance.integers(2, len(content))])
    try:
        snapshot = read_snapshot(path)
    except RecordError as error:
        assert "damaged.pickle is no memory snapshot" in str(error)
    else:  # the damage is in a number or a name
        snapshot.check_columns()


@pytest.mark.parametrize(
    "content", [[], {"segments": 3}, {"segments": [{"address": 1}]}, {}, {"segments": [[]]}]
)
def test_another_pickle_is_no_snapshot(content: Any, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no memory snapshot of PyTorch"):
        read_snapshot(write(content, tmp_path))


@pytest.mark.parametrize("size", [2**70, -1])
def test_sizes_that_are_none_are_refused(size: int, tmp_path: Path) -> None:
    segment = {"address": 0, "total_size": size, "blocks": []}
    with pytest.raises(RecordError, match="no memory snapshot"):
        read_snapshot(write({"segments": [segment]}, tmp_path))


def test_a_file_that_unfolds_is_refused(tmp_path: Path) -> None:
    """Each of 30,000 segments is the same one with the same list of 30,000 blocks: 900 million, in 120 kB."""
    block = {"size": 1, "state": "inactive"}
    segment = {"address": 0, "total_size": 1, "blocks": [block] * 30_000}
    path = write({"segments": [segment] * 30_000}, tmp_path)
    assert path.stat().st_size < 200_000
    with pytest.raises(RecordError, match="unfolds to 900,000,000"):
        read_snapshot(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(played(0).dump(), tmp_path)
    monkeypatch.setattr(snapshot_file, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(RecordError, match="larger than"):
        read_snapshot(path)


# As a record


def test_json_round_trip_and_its_checks(tmp_path: Path) -> None:
    snapshot = read_snapshot(write(played(5).dump(), tmp_path))
    assert Snapshot.from_json(snapshot.to_json()) == snapshot
    stacks = np.full(len(snapshot.blocks), len(snapshot.stacks))
    wrong = replace(snapshot, blocks=replace(snapshot.blocks, stack=stacks))
    with pytest.raises(RecordError, match="outside of its table"):
        Snapshot.from_json(wrong.to_json())


def test_report_shows_it_without_torch(tmp_path: Path) -> None:
    path = write(played(5).dump(), tmp_path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from enxuto.cli import main\nsys.exit(main(['report', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "--html", str(tmp_path / "s.html"), "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "memory-snapshot"
    page = Page((tmp_path / "s.html").read_text())
    snapshot = read_snapshot(path)
    *rows, total = page.numbers("held")
    assert sum(rows) == total == snapshot.allocated


def test_a_refused_file_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(_Calls(print, "run"), tmp_path)
    assert is_snapshot(path)
    assert main(["report", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "was not opened" in shown.err


def test_the_card_adds_up_and_names_are_plain(tmp_path: Path) -> None:
    allocator = Allocator()
    for nbytes in range(1000, 1008):
        allocator.alloc(nbytes, 0)
    dump = allocator.dump()
    for segment in dump["segments"]:
        for index, block in enumerate(segment["blocks"]):
            block["frames"] = [frame(f"/home/<b>&\x1b[31m{index}/{id(block)}.py", index)]
    snapshot = read_snapshot(write(dump, tmp_path))
    card = render(snapshot, "text")
    assert "\x1b" not in card and format_bytes(snapshot.allocated) in card
    shown = snapshot_rows.holders(snapshot.held(), 4)
    assert len(shown) == 4 and sum(held.nbytes for held in shown) == snapshot.allocated
    assert "<b>" not in snapshot._repr_html_() and "&lt;b&gt;" in snapshot._repr_html_()


@needs_chromium
def test_the_page_draws_by_itself(tmp_path: Path) -> None:
    snapshot = read_snapshot(write(played(5).dump(), tmp_path))
    opened = open_in_chromium(render(snapshot, "html"), tmp_path)
    assert opened.complaints == [] and opened.requests == []
    assert opened.dom.count('class="trace scatter') == 2
