"""Records as JSON: there and back, without torch, whole or not at all, and every wrong file refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enxuto.devices import cpu_device
from enxuto.errors import RecordError
from enxuto.records import Device, Ragged, Timeline, from_json, read, to_json, write
from enxuto.testing import random_timeline

WHOLE = random_timeline(3)


def edited(**changes: Any) -> bytes:
    envelope = json.loads(WHOLE.to_json())
    return json.dumps(envelope | changes).encode()


def body_with(path: str, value: Any) -> bytes:
    envelope = json.loads(WHOLE.to_json())
    *above, last = path.split(".")
    place = envelope["body"]
    for key in above:
        place = place[key]
    place[last] = value
    return json.dumps(envelope).encode()


def test_a_file_brings_back_the_same_timeline(tmp_path: Path) -> None:
    write(WHOLE, tmp_path / "step.json")
    again = read(tmp_path / "step.json")
    assert again == WHOLE
    assert (again.curve == WHOLE.curve).all()
    assert again.blocks[5] == WHOLE.blocks[5]
    assert again.saves[2] == WHOLE.saves[2]


def test_a_timeline_written_before_holders_were_known_is_read() -> None:
    envelope = json.loads(WHOLE.to_json())
    assert envelope["body"].pop("holders")
    assert Timeline.from_json(json.dumps(envelope)) == replace(WHOLE, holders=())


def test_a_device_comes_back_too() -> None:
    device = cpu_device()
    assert from_json(to_json(device), expect=Device) == device


def test_columns_are_equal_by_value_and_not_by_type() -> None:
    other = replace(WHOLE.blocks, nbytes=WHOLE.blocks.nbytes + 1)
    assert WHOLE.blocks == replace(WHOLE.blocks)
    assert WHOLE.blocks != other
    assert replace(WHOLE, blocks=other) != WHOLE
    assert replace(WHOLE, ticks=WHOLE.ticks + 1) != WHOLE
    assert WHOLE != "a timeline"


def test_rows_are_read_by_index_slice_and_from_behind() -> None:
    blocks = WHOLE.blocks
    assert blocks[-1] == blocks[len(blocks) - 1]
    assert [b.id for b in blocks[2:5]] == [2, 3, 4]
    assert len(list(blocks)) == len(blocks)
    with pytest.raises(IndexError, match="row 60 of 60"):
        blocks[60]


def test_ragged_rows_keep_their_lengths() -> None:
    rows = [(1, 2), (), (3,)]
    ragged = Ragged.of(rows)
    assert [ragged[i] for i in range(3)] == rows
    assert ragged.owners().tolist() == [0, 0, 2]
    assert len(Ragged.of([])) == 0


def test_a_timeline_is_read_and_asked_without_torch(tmp_path: Path) -> None:
    write(WHOLE, tmp_path / "step.json")
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from enxuto.records import read\n"
        "from enxuto.testing import check_timeline\n"
        f"t = read({str(tmp_path / 'step.json')!r})\n"
        "check_timeline(t)\n"
        "print(t.peak, t.peak_tick, len(t.alive(t.peak_tick)), t.blocks[0].category.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    alive = len(WHOLE.alive(WHOLE.peak_tick))
    assert done.stderr == ""
    assert done.stdout.split() == [
        *map(str, (WHOLE.peak, WHOLE.peak_tick, alive)),
        WHOLE.blocks[0].category.name,
    ]


ZLIB_OF_NOTHING = "eJwDAAAAAAE="


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "this is no enxuto record"),
        (b"[1, 2]", "this is no enxuto record"),
        (b'{"kind": "timeline"}', "this is no enxuto record"),
        (WHOLE.to_json()[:-20], "this is no enxuto record"),
        (WHOLE.to_json()[:500], "this is no enxuto record"),
        (b"\xff\xfe\x00", "this is no enxuto record"),
        (edited(kind="novel"), "unknown kind of record 'novel'; this enxuto knows "),
        (
            edited(version=2),
            "this timeline has format version 2, and this enxuto reads version 1: read it with",
        ),
        (edited(version=0), "this timeline has format version 0"),
        (edited(body={}), "this timeline is corrupt"),
        (edited(body=7), "this timeline is corrupt"),
        (body_with("world", "moon"), "this timeline is corrupt"),
        (body_with("ticks", "many"), "this timeline is corrupt"),
        (body_with("blocks.nbytes", [1, 2]), "this timeline is corrupt"),
        (body_with("blocks.nbytes", {"dtype": "|O", "zlib": ""}), "not in enxuto's packed form"),
        (body_with("blocks.nbytes", {"dtype": "<i8", "zlib": "%%%"}), "this timeline is corrupt"),
        (body_with("blocks.nbytes", {"dtype": "<i8", "zlib": "AAAA"}), "this timeline is corrupt"),
        (body_with("blocks.nbytes", {"dtype": "<i8", "zlib": ZLIB_OF_NOTHING}), "columns of Blocks differ"),
        (body_with("saves.release", {"dtype": "<i8", "zlib": ZLIB_OF_NOTHING}), "columns of Saves differ"),
        (body_with("ops.tick", {"dtype": "<i8", "zlib": ZLIB_OF_NOTHING}), "columns of Ops differ"),
        (body_with("calls.enter", {"dtype": "<i8", "zlib": ZLIB_OF_NOTHING}), "columns of Calls differ"),
    ],
)
def test_what_is_no_timeline_is_refused_in_words(text: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Timeline.from_json(text)


@pytest.mark.parametrize("reader", ["from_json", "read"])
def test_every_way_of_reading_checks_the_columns(reader: str, tmp_path: Path) -> None:
    text = body_with("blocks.nbytes", {"dtype": "<i8", "zlib": ZLIB_OF_NOTHING})
    (tmp_path / "step.json").write_bytes(text)
    with pytest.raises(RecordError, match="columns of Blocks differ in length"):
        from_json(text) if reader == "from_json" else read(tmp_path / "step.json")


def test_another_kind_is_refused() -> None:
    with pytest.raises(RecordError, match="expected a record of kind 'timeline', found 'device'"):
        Timeline.from_json(to_json(cpu_device()))


def test_a_file_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*missing\.json: No such file"):
        read(tmp_path / "missing.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(RecordError, match=r"text\.json: this is no enxuto record"):
        read(tmp_path / "text.json")
    with pytest.raises(RecordError, match=r"cannot write .*step\.json: No such file"):
        write(WHOLE, tmp_path / "no folder" / "step.json")


def no_space(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["replace", "chmod", "fdopen"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "step.json"
    target.write_text("old")
    monkeypatch.setattr(os, broken, no_space)
    with pytest.raises(RecordError, match=r"cannot write .*step\.json: No space left on device"):
        write(WHOLE, target)
    assert [path.name for path in tmp_path.iterdir()] == ["step.json"]
    assert target.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda handle, mode: (os.close(handle), opened(full(), mode))[1])
    with pytest.raises(RecordError, match="No space left on device"):
        write(WHOLE, tmp_path / "step.json")
    assert list(tmp_path.iterdir()) == []


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write(WHOLE, tmp_path / "step.json")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "step.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


MILLION = """
import resource, sys, time
from enxuto.records import Timeline
from enxuto.testing import random_timeline
count = 1_000_000
timeline = random_timeline(1, blocks=count, saves=count, calls=1000, ops=count)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
again = Timeline.from_json(timeline.to_json())
assert again == timeline
assert len(again.alive(again.peak_tick)) and again.curve[again.peak_tick] == again.peak > 0
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_blocks_travel_in_seconds_and_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stderr == ""
    seconds, kibibytes = map(float, done.stdout.split())
    assert seconds < 20
    assert kibibytes < 2**20


def test_interning_gives_each_text_one_index() -> None:
    from enxuto.records import intern

    assert intern(["a", "b", "a", ""]) == (("a", "b", ""), [0, 1, 0, 2])


def test_an_empty_timeline_has_no_peak() -> None:
    empty = random_timeline(0, blocks=0, saves=0, calls=0, ops=0)
    assert (empty.peak, empty.peak_tick) == (0, 0)
    nothing = replace(empty, ticks=0, phases=())
    assert (nothing.peak, nothing.peak_tick, nothing.curve.tolist()) == (0, 0, [])
    assert np.array_equal(nothing.ends, np.zeros(0, np.int64))
