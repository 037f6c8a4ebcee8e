"""Real children under real limits: who allocates too much dies of it, who stays below finishes."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from enxuto.errors import UndecidableError, UsageError
from enxuto.verifying import Cap, CapRun, caps, memory_groups, process_base, run_capped

MIB = 2**20
LIMIT = 400 * MIB
#: Take that many MiB and touch every page.
ALLOCATE = """
import sys
block = bytearray(int(sys.argv[1]) * 2**20)
block[::4096] = b"1" * len(block[::4096])
print("done")
"""
WAYS = [Cap.CGROUP_V1, Cap.CGROUP_V2, Cap.RLIMIT_DATA]


def run(code: str, *arguments: object, limit: int = LIMIT, timeout: float = 60, **options: object) -> CapRun:
    return run_capped(
        [sys.executable, "-c", code, *map(str, arguments)],
        limit=limit,
        timeout=timeout,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(params=WAYS, ids=str)
def how(request: pytest.FixtureRequest) -> Cap:
    """Each kind of limit that works here; the others are skipped with what refused them."""
    tried = run("", how=request.param)
    if tried.how is Cap.NONE:
        pytest.skip(tried.reason)
    return tried.how


@pytest.fixture
def group_how(how: Cap) -> Cap:
    if how is Cap.RLIMIT_DATA:
        pytest.skip("RLIMIT_DATA makes no group")
    return how


def groups_left(how: Cap) -> list[Path]:
    own, _ = memory_groups.own_folder(1 if how is Cap.CGROUP_V1 else 2)
    return [path for folder in (own, own.parent) for path in folder.glob(f"enxuto-{os.getpid()}-*")]


def test_too_much_dies_and_less_finishes(how: Cap) -> None:
    dead = run(ALLOCATE, 600, how=how)
    assert (dead.how, dead.limit) == (how, LIMIT)
    assert dead.died_of_memory
    assert not dead.finished
    assert dead.returncode not in (0, None)
    assert "done" not in dead.output
    assert dead.reason

    alive = run(ALLOCATE, 200, how=how)
    assert (alive.finished, alive.died_of_memory, alive.returncode) == (True, False, 0)
    assert alive.output == "done\n"
    assert alive.reason == ""
    assert alive.peak is not None
    assert 200 * MIB <= alive.peak <= 240 * MIB


def test_a_cgroup_counts_all_processes_together(group_how: Cap) -> None:
    two = (
        "import subprocess, sys\n"
        "children = [subprocess.Popen([sys.executable, '-c', sys.argv[1], '250']) for _ in range(2)]\n"
        "sys.exit(max(abs(child.wait()) for child in children))"
    )
    hold = ALLOCATE + "\nimport time; time.sleep(2)"
    assert run(two, hold, how=group_how).died_of_memory
    assert run(two, hold, limit=2 * LIMIT, how=group_how).finished


def test_the_callers_own_memory_is_not_in_the_peak(how: Cap) -> None:
    ours = bytearray(300 * MIB)
    ours[::4096] = b"1" * len(ours[::4096])
    peak = run("", how=how).peak
    assert peak is not None
    assert peak < 50 * MIB


def test_torch_refused_an_allocation_died_of_memory() -> None:
    code = "import torch\ntry:\n    torch.empty(2**31)\nfinally:\n    print('reached')"
    tried = run(code, limit=2**32, how=Cap.RLIMIT_DATA)
    if tried.how is Cap.NONE:
        pytest.skip(tried.reason)
    assert "reached" in tried.output
    assert tried.died_of_memory
    assert "can't allocate memory" in tried.reason


def test_a_failure_of_its_own_is_not_of_memory(how: Cap) -> None:
    failed = run("print('so far'); raise SystemExit(3)", how=how)
    assert (failed.finished, failed.died_of_memory, failed.returncode) == (False, False, 3)
    assert "exit status 3" in failed.reason
    assert failed.output == "so far\n"


def test_a_crash_under_rlimit_data_is_said_to_be_undecided() -> None:
    crashed = run("import os; os.kill(os.getpid(), 11)", how=Cap.RLIMIT_DATA)
    if crashed.how is Cap.NONE:
        pytest.skip(crashed.reason)
    assert (crashed.died_of_memory, crashed.returncode) == (False, -11)
    assert "cannot be told apart" in crashed.reason


def test_time_runs_out_and_nothing_stays(how: Cap) -> None:
    began = time.monotonic()
    late = run("import time; print('here', flush=True); time.sleep(60)", timeout=1.0, how=how)
    assert time.monotonic() - began < 20
    assert (late.finished, late.died_of_memory, late.returncode) == (False, False, None)
    assert "stopped after" in late.reason
    assert late.output == "here\n"


def test_a_process_left_behind_is_ended(how: Cap, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    leave = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))"
    )
    assert run(leave, note, how=how).finished
    assert not is_running(int(note.read_text()))


def test_a_process_that_left_the_session_does_not_leave_the_group(group_how: Cap, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    leave = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(str(child.pid))"
    )
    assert run(leave, note, how=group_how).finished
    assert not is_running(int(note.read_text()))
    assert groups_left(group_how) == []


def is_running(pid: int) -> bool:
    """Whether a process runs, in the short time that the kernel may need to end one; a zombie does not."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_group_goes_when_waiting_is_interrupted(
    group_how: Cap, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object) -> None:
        assert groups_left(group_how)
        raise error

    began = time.monotonic()
    monkeypatch.setattr(caps, "_Tail", interrupted)
    with pytest.raises(error):
        run("import time; time.sleep(60)", how=group_how)
    assert groups_left(group_how) == []
    assert time.monotonic() - began < 20


def test_runs_at_the_same_time_do_not_meet(how: Cap) -> None:
    found: list[CapRun] = []
    threads = [
        threading.Thread(target=lambda size=size: found.append(run(ALLOCATE, size, how=how)))
        for size in (600, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.died_of_memory for run in found) == [False, True]


def test_only_the_end_of_a_long_output_is_kept() -> None:
    said = run("print('a' * 10**6); print('end')")
    if said.how is Cap.NONE:
        pytest.skip(said.reason)
    assert len(said.output) == 8192
    assert said.output.endswith("aaa\nend\n")


def test_the_environment_is_the_commands_whole_environment() -> None:
    said = run("import os; print(os.environ.get('NAME'), 'HOME' in os.environ)", env={"NAME": "x"})
    if said.how is Cap.NONE:
        pytest.skip(said.reason)
    assert said.output == "x False\n"


# ---- Where nothing works ---------------------------------------------------------------------------------------


def refuse(*_: object, **__: object) -> None:
    raise memory_groups.NoMemoryGroup("not in this test")


def test_without_a_cgroup_it_is_rlimit_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "memory_group", refuse)
    tried = run(ALLOCATE, 600)
    assert tried.how is (Cap.RLIMIT_DATA if sys.platform == "linux" else Cap.NONE)


def test_without_any_limit_the_command_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(caps.sys, "platform", "elsewhere")
    mark = tmp_path / "mark"
    tried = run("import sys; open(sys.argv[1], 'w')", mark)
    assert tried.how is Cap.NONE
    assert (tried.finished, tried.died_of_memory, tried.returncode, tried.peak) == (False, False, None, None)
    assert all(way in tried.reason for way in WAYS)
    assert not mark.exists()
    with pytest.raises(UndecidableError, match="no memory limit"):
        process_base(())


def test_a_limit_that_cannot_be_taken_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "memory_group", refuse)
    tried = run("", limit=2**80)  # no rlimit holds it
    assert tried.how is Cap.NONE
    assert "RLIMIT_DATA: " in tried.reason


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit: int) -> None:
    with pytest.raises(UsageError, match="positive"):
        run("", limit=limit)


@pytest.mark.parametrize("command", [[], ["no-such-program"]])
def test_a_program_has_to_be_there(command: list[str]) -> None:
    with pytest.raises(UsageError, match="no program"):
        run_capped(command, limit=LIMIT, timeout=1)


# ---- The base --------------------------------------------------------------------------------------------------


def test_base_and_promise_are_enough_and_base_alone_is_not(how: Cap) -> None:
    base = process_base(("json",), how=how)
    code = "import json\n" + ALLOCATE
    assert run(code, 64, limit=base + 72 * MIB, how=how).finished
    assert run(code, 64, limit=base + 56 * MIB, how=how).died_of_memory


def test_the_base_of_torch_is_that_of_a_process_with_torch() -> None:
    if run("").how is Cap.NONE:
        pytest.skip(run("").reason)
    assert 100 * MIB < process_base(threads=1) < 1024 * MIB


def test_a_module_that_cannot_be_imported_is_said() -> None:
    if run("").how is Cap.NONE:
        pytest.skip(run("").reason)
    with pytest.raises(UsageError, match="no_such_module"):
        process_base(("no_such_module",))


# ---- What the kernel shows, as text ----------------------------------------------------------------------------


def shown(folder: Path, groups: str, mounts: str) -> Path:
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(mounts)
    return folder


@pytest.mark.parametrize(
    ("version", "groups", "root", "kind", "options", "below"),
    [
        (1, "4:cpu:/\n3:memory:/a/b\n0::/c\n", "/", "cgroup", "rw,memory", "a/b"),
        (1, "3:cpuacct,memory:/a/b\n", "/a", "cgroup", "rw,memory,cpuacct", "b"),
        (2, "3:memory:/a/b\n0::/c\n", "/", "cgroup2", "rw", "c"),
        (2, "0::/\n", "/", "cgroup2", "rw,nsdelegate", "."),
    ],
)
def test_the_own_group_is_found(
    tmp_path: Path, version: int, groups: str, root: str, kind: str, options: str, below: str
) -> None:
    for folder in ("a/b", "b", "c"):
        (tmp_path / "top" / folder).mkdir(parents=True)
    mounts = (
        f"1 2 0:3 / {tmp_path} rw - tmpfs none rw\n"
        f"2 2 0:4 / {tmp_path} rw - cgroup none rw,pids\n"
        f"3 2 0:5 {root} {tmp_path}/top rw shared:9 - {kind} none {options}\n"
    )
    found = memory_groups.own_folder(version, shown(tmp_path, groups, mounts))
    assert found == (tmp_path / "top" / below, tmp_path / "top")


@pytest.mark.parametrize("groups", ["", "4:cpu:/\n", "3:memory:/gone\n"])
def test_no_group_is_said(tmp_path: Path, groups: str) -> None:
    mounts = f"3 2 0:5 / {tmp_path} rw - cgroup none rw,memory\n"
    with pytest.raises(memory_groups.NoMemoryGroup):
        memory_groups.own_folder(1, shown(tmp_path, groups, mounts))


def test_version_2_goes_where_the_controller_is_handed_down(tmp_path: Path) -> None:
    own = tmp_path / "slice" / "scope"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(memory_groups.NoMemoryGroup, match="handed down"):
        memory_groups._parent(2, own, tmp_path)
    (own.parent / "cgroup.subtree_control").write_text("cpu memory\n")
    assert memory_groups._parent(2, own, tmp_path) == own.parent
    assert memory_groups._parent(1, own, tmp_path) == own


def test_a_lower_limit_above_is_said(tmp_path: Path) -> None:
    own = tmp_path / "slice" / "scope"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text("1000\n")
    memory_groups._check_no_lower(2, own, tmp_path, 1000)
    with pytest.raises(memory_groups.NoMemoryGroup, match="1000 bytes"):
        memory_groups._check_no_lower(2, own, tmp_path, 1001)


def test_version_2_files_are_read(tmp_path: Path) -> None:
    group = memory_groups.MemoryGroup(tmp_path, 2)
    assert (group.kills(), group.peak()) == (0, None)
    (tmp_path / "memory.events").write_text("low 0\nmax 7\noom 2\noom_kill 1\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    assert (group.kills(), group.peak()) == (1, 4096)


def test_a_process_of_another_namespace_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, _: killed.append(process))
    group = memory_groups.MemoryGroup(tmp_path, 2)
    group.procs.write_text("0\n7\n")  # os.kill(0, ...) would end this very test run
    group.kill_all()
    assert set(killed) == {7}
