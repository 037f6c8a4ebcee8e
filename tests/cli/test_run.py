"""`enxuto run`: a script behaves as without it, and what was seen survives whatever ends the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enxuto.cli import main
from enxuto.cli.run import _of_rank
from enxuto.records import Ending, Recording, read
from enxuto.records.log import read_log

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import atexit, multiprocessing, os, sys
assert "torch" not in sys.modules
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from torch import nn

def child(file):
    open(file, "w").write(__name__)

def train(steps=6):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(torch.ones(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())

if __name__ == "__main__":
    print(sys.argv, __name__, os.path.basename(__file__), sys.path[0] == os.path.dirname(os.path.abspath(__file__)))
    print(train())
    if os.fork() == 0:
        print("child", train(2), flush=True)
        os._exit(0)
    os.wait()
    worker = multiprocessing.get_context("spawn").Process(target=child, args=(os.path.abspath("spawned"),))
    worker.start()
    worker.join()
    os.chdir("/")
    atexit.register(lambda: 1 / 0)
    sys.stdout.flush()
    sys.exit(7)
"""

WAITS = """
import atexit, sys, time, torch
from torch import nn
torch.set_num_threads(1)
atexit.register(lambda: print("tidied up", flush=True))
net = nn.Linear(8, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(1, 100_000):
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    time.sleep(0.02)
    if step == 8:
        print("ready", flush=True)
"""


CLOSES = """
import sys, torch
torch.set_num_threads(1)
net = torch.nn.Linear(8, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
print("first", flush=True)
sys.stdout.close()
for step in range(40):
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
sys.exit(5)
"""

RANKS = """
import sys, torch
import torch.distributed as ranks
torch.set_num_threads(1)
ranks.init_process_group("gloo")
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
print(ranks.get_rank(), sys.argv[1:], flush=True)
ranks.destroy_process_group()
"""


def started(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, text=True, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is off
    )  # fmt: skip


def test_a_script_that_does_everything_does_it_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    plain = started(tmp_path, "train.py", "--lr", "1")
    expected, complaints = plain.communicate(timeout=120)
    (tmp_path / "spawned").unlink()
    options = ["--log", "log", "--html", "run.html", "--save", "run.json", "--budget", "8GiB"]
    watched = started(tmp_path, "-m", "enxuto", "run", *options, "train.py", "--lr", "1")
    output, said = watched.communicate(timeout=240)
    assert output == expected
    assert "['train.py', '--lr', '1'] __main__ train.py True" in output
    assert watched.returncode == plain.returncode == 7
    assert "ZeroDivisionError" in complaints and "ZeroDivisionError" in said
    assert (tmp_path / "spawned").read_text() == "__mp_main__"
    assert "6 steps" in said and "none: nothing that grows" in said
    recording = read(tmp_path / "run.json", expect=Recording)
    assert recording.total_steps == 6  # neither the fork's two nor anything of the spawned one
    assert recording.source.arguments == ("--lr", "1")
    assert (recording.ending, recording.error) == (Ending.FINISHED, "exit 7")
    logged = read_log(tmp_path / "log")
    assert [(row.step, row.peak, row.host) for row in logged.steps] == [
        (row.step, row.peak, row.host) for row in recording.steps
    ]
    assert logged.ending is Ending.FINISHED
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")


def test_a_killed_run_is_read_from_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    run = started(tmp_path, "-m", "enxuto", "run", "--log", "log", "waits.py")
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    recording = read_log(tmp_path / "log")
    assert recording.ending is Ending.LOST
    assert recording.total_steps >= 7  # the eighth was over, and the next had begun or not
    assert recording.peak > 0
    assert main(["report", str(tmp_path / "log")]) == 0
    assert "its log has no end" in capsys.readouterr().out


def test_an_interrupted_run_ends_by_the_signal(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    run = started(tmp_path, "-m", "enxuto", "run", "waits.py")
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    output, said = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT
    assert output == "tidied up\n"
    assert "KeyboardInterrupt" in said
    assert "until it was interrupted" in said
    assert "enxuto/" not in said.partition("KeyboardInterrupt")[0]  # the traceback is the script's alone


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 12 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root on Linux only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_a_closed_stdout_are_no_end(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "closes.py").write_text(CLOSES)
    run = started(tmp_path, "-m", "enxuto", "run", "--log", str(small_disk / "log"), "closes.py")
    output, said = run.communicate(timeout=120)
    assert (output, run.returncode) == ("first\n", 5)
    assert "ends here (no space left" in said.lower() and "the run goes on" in said
    assert "40 steps" in said
    logged = read_log(small_disk / "log")
    assert logged.ending is Ending.LOST
    steps = logged.steps.step.tolist()
    assert steps[:3] == [1, 2, 3] and steps == sorted(steps)
    assert 6 <= logged.total_steps < 40


def test_two_ranks_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    command = ["enxuto", "run", "--quiet", "--log", "log", "ranks.py", "--lr", "1"]
    run = started(tmp_path, *launcher, *command)
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0
    assert sorted(output.splitlines()) == ["0 ['--lr', '1']", "1 ['--lr', '1']"]
    logged = [read_log(tmp_path / f"log-rank{rank}") for rank in (0, 1)]
    assert [(each.source.rank, each.source.world_size) for each in logged] == [(0, 2), (1, 2)]
    assert [(each.total_steps, each.ending) for each in logged] == 2 * [(5, Ending.FINISHED)]


def test_ranks_do_not_share_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _of_rank(Path("run/log")) == Path("run/log")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _of_rank(Path("run/log")) == Path("run/log-rank1")
    assert _of_rank(Path("page.html")) == Path("page-rank1.html")
    assert _of_rank(None) is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "missing.py"], 2, "cannot run missing.py: there is no such file"),
        (["run", "--budget", "2 apples", "x.py"], 2, "'2 apples' is no size"),
        (["run", "--html", "no/where.html", "x.py"], 2, "there is no folder no"),
        (["explain", "M21"], 2, "there is no situation M21; there are M01 to M20"),
    ],
)
def test_usage(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert said in capsys.readouterr().err


def test_explain_prints_a_situation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "m03"]) == 0
    assert capsys.readouterr().out.startswith("# M03: memory grows with every step\n")
