"""Bad input gives one clear message, the documented exit code and no file; good input what was asked for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import enxuto
from enxuto import cli
from enxuto.cli import main, progress
from enxuto.records import Explanation, LargestBatch, Plan, Timeline, read

NET = """
import torch, enxuto as ex
from torch import nn
print("noise of the user's own")
def build(loss=lambda m, x: m(x).sum(), batch=lambda n=None: torch.zeros(n or 2, 4)):
    return ex.Workload(model=lambda: nn.Linear(4, 2), batch=batch, loss=loss,
                       optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
work = build()
def fails(m, x): raise ValueError("their own\\nwords")
broken = build(fails)
matrix = build(lambda m, x: m(x))
number_loss = build(lambda m, x: 3.0)
constant = build(lambda m, x: x.sum())
elsewhere = build(batch=lambda n=None: torch.zeros(2, 4, device="meta"))
narrow = build(batch=lambda n=None: torch.zeros(2, 5))
def stops(m, x): raise SystemExit(0)
stopping = build(stops)
net = nn.Linear(4, 2)
pictures = ex.Workload(model=lambda: nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten()), batch=lambda n=2:
    torch.zeros(n, 3, 8, 8), loss=lambda m, x: m(x).sum(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), batch_size=2)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with one file of the user's and two records that cannot be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "corrupt.json").write_text("{")
    (tmp_path / "future.json").write_text('{"kind": "explanation", "version": 99, "body": {}}')
    return tmp_path


BAD = [
    # the call itself
    (["explain", "--bacth", "3", "net.py:work"], 2, "--batch"),
    (["explain", "net.py:work", "--batch", "many"], 2, "Invalid value for '--batch'"),
    (["explain", "net.py:work", "--batch", "0"], 2, "a batch size must be at least 1, not 0"),
    (["explain", "net.py:work", "--world", "moon"], 2, "Invalid value for '--world'"),
    (["explian"], 2, "Did you mean 'explain'?"),
    (["explain", "--json"], 2, "what shall be explained?"),
    (["explain", "--diff", "corrupt.json"], 2, "requires 2 arguments"),
    (["explain", "net.py:work", "--grad"], 2, "--grad goes with --inference"),
    (["report", "corrupt.json", "extra"], 2, "unexpected extra argument"),
    # fitting
    (["fit", "net.py:work"], 2, "fit needs --budget SIZE"),
    (["fit", "net.py:work", "--budget", "1MiB", "--plan", "p.json"], 2, "and not both"),
    (["fit", "net.py:work", "--budget", "1MiB", "--fixed", "offlaod"], 2, "--fixed knows checkpoint, "),
    (["fit", "net.py:work", "--budget", "1MiB", "--max-slowdown", "0.5"], 2, "at least 1, not 0.5"),
    (["fit", "net.py:work", "--plan", "corrupt.json"], 2, "corrupt.json: this is no enxuto record"),
    (["fit", "net.py:broken", "--budget", "1MiB"], 4, "their own"),
    # the largest batch
    (["explain", "net.py:work", "--solve", "batch"], 2, "needs --budget SIZE"),
    (["explain", "net.py:work", "--budget", "2GiB"], 2, "--budget goes with --solve batch"),
    (["explain", "net.py:work", "--solve", "time", "--budget", "1"], 2, "Invalid value for '--solve'"),
    (["explain", "net.py:work", "--solve", "batch", "--budget", "2 apples"], 2, "'2 apples' is no size"),
    (
        ["explain", "net.py:work", "--solve", "batch", "--budget", "1", "--batch", "3", "--html", "x"],
        2,
        "--solve batch finds the batch size: leave out --batch, --html",
    ),
    (
        ["explain", "net.py:work", "--solve", "batch", "--budget", "1", "--world", "cpu"],
        2,
        "traces dry by itself: leave out --world",
    ),
    (["explain", "future.json", "--solve", "batch", "--budget", "1"], 2, "leave out --solve"),
    (["explain", "--solve", "batch", "--budget", "1"], 2, "what shall be explained?"),
    # targets
    (["explain", "gone.py:work"], 2, "there is no file gone.py"),
    (["explain", "net.py:wrok"], 2, "did you mean work"),
    (["explain", "net.py"], 2, "net.py needs a name: write net.py:work"),
    (["explain", "net.py:net"], 2, "is a torch.nn.Module (Linear), not an enxuto.Workload"),
    (["explain", "zoo:resnet81"], 2, "did you mean resnet18"),
    (
        ["explain", "zoo:lstm?batch=nan"],
        2,
        "batch must be a positive whole number, at most 1000000000, not 'nan'",
    ),
    (["explain", "zoo:lstm?bacth=3"], 2, "did you mean batch?"),
    # the step
    (["explain", "net.py:matrix"], 2, "must return a scalar tensor, not a tensor of shape (2, 2)"),
    (["explain", "net.py:number_loss"], 2, "must return a scalar tensor, not float"),
    (["explain", "net.py:constant"], 2, "does not depend on any parameter"),
    (["explain", "net.py:elsewhere"], 2, "the batch is on meta and the model on cpu"),
    (["explain", "net.py:broken"], 4, "error: net.py:broken raised ValueError: their own"),
    (["explain", "net.py:narrow"], 4, "error: net.py:narrow raised RuntimeError: mat1 and mat2"),
    (["explain", "net.py:stopping"], 4, "the workload's code ended the program (exit 0)"),
    # records
    (["explain", "corrupt.json"], 2, "corrupt.json: this is no enxuto record"),
    (["explain", "future.json"], 2, "format version 99"),
    (["explain", "gone.json"], 2, "cannot read gone.json: No such file"),
    (["explain", "future.json", "--batch", "3", "--timeline", "x"], 2, "leave out --batch, --timeline"),
    (["explain", "--diff", "future.json", "corrupt.json"], 2, "format version 99"),
    (["explain", "net.py:work", "--diff", "a.json", "b.json"], 2, "leave out TARGET net.py:work"),
    (["report", "corrupt.json"], 2, "is no enxuto record"),
    (["report", "future.json"], 2, "format version 99"),
    (["report", "gone.json"], 2, "cannot read gone.json: No such file"),
    # outputs
    (["explain", "net.py:work", "--html", "no/such/x.html"], 2, "there is no folder no/such"),
    (["explain", "net.py:work", "--save", "."], 2, "cannot write .: it is a folder"),
    (["explain", "net.py:work", "--save", "x", "--timeline", "./x"], 2, "two outputs have the same file"),
    (["report", "future.json", "--html", "no/x.html"], 2, "there is no folder no"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_bad_input(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    before = sorted(net.rglob("*"))
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert len(re.findall("^error: ", err, re.MULTILINE | re.IGNORECASE)) == 1
    assert out == ""
    assert sorted(net.rglob("*")) == before


def test_outputs_are_checked_before_anything_runs(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "net.py:work", "--save", "no/x.json"]) == 2
    assert "noise" not in capsys.readouterr().err


@pytest.mark.parametrize("output", ["--html", "--save", "--timeline"])
def test_a_step_that_fails_writes_nothing(net: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    (net / "there").write_text("kept")
    before = sorted(net.iterdir())
    assert main(["explain", "net.py:broken", output, "there"]) == 4
    assert sorted(net.iterdir()) == before
    assert (net / "there").read_text() == "kept"


def test_the_traceback_is_the_users_own(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "net.py:broken"]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "noise of the user's own"
    assert lines[1:] == [
        "Traceback (most recent call last):",
        f'  File "{net}/net.py", line 9, in fails',
        '    def fails(m, x): raise ValueError("their own\\nwords")',
        *[line for line in lines if set(line.strip()) == {"^"}],
        "ValueError: their own",
        "words",
        "error: net.py:broken raised ValueError: their own",
    ]


def test_a_traceback_shows_the_libraries_called_but_not_enxuto(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "net.py:narrow"]) == 4
    err = capsys.readouterr().err
    files = re.findall(r'^  File "(.+)", line', err, re.MULTILINE)
    assert files[0] == f"{net}/net.py"
    assert [file for file in files if Path(enxuto.__file__).parent in Path(file).parents] == []
    assert "fake_tensor" not in err


def test_a_syntax_error_shows_its_line(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (net / "bad.py").write_text("def (")
    assert main(["explain", "bad.py:work"]) == 4
    err = capsys.readouterr().err
    assert "    def (" in err
    assert "Traceback" not in err


def test_json_goes_to_stdout_alone_and_files_can_be_reported(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--save", "a.json", "--html", "a.html", "--timeline", "t.json"]
    assert main(["explain", "net.py:work", "--json", *outputs]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed == json.loads((net / "a.json").read_text())
    assert sum(share["nbytes"] for share in printed["body"]["shares"]) == printed["body"]["peak"]
    assert err.splitlines() == ["noise of the user's own", "wrote t.json", "wrote a.html", "wrote a.json"]
    assert (net / "a.html").read_text().startswith("<!doctype html>")

    explanation, timeline = read("a.json", expect=Explanation), read("t.json", expect=Timeline)
    assert timeline.peak == explanation.peak
    for arguments in (["explain", "a.json"], ["explain", "t.json"], ["report", "a.json"]):
        assert main(arguments) == 0
        assert "Receipt at the peak" in capsys.readouterr().out
    assert main(["report", "a.json", "--html", "b.html"]) == 0
    assert capsys.readouterr() == ("", "wrote b.html\n")
    assert (net / "b.html").read_text() == (net / "a.html").read_text()
    assert main(["report", "t.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "timeline"


def test_two_explanations_are_compared(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "net.py:work", "--batch", "8", "--no-calibrate", "--save", "a.json"]) == 0
    assert main(["explain", "net.py:work", "--batch", "16", "--no-calibrate", "--save", "b.json"]) == 0
    peaks = [read(name).peak for name in ("a.json", "b.json")]
    assert peaks[0] < peaks[1]
    capsys.readouterr()
    assert main(["explain", "--diff", "a.json", "b.json", "--json", "--save", "d.json"]) == 0
    change = json.loads(capsys.readouterr().out)["body"]["peak"]
    assert [change["before"], change["after"]] == peaks
    for arguments in (["explain", "--diff", "a.json", "b.json"], ["report", "d.json"], ["explain", "d.json"]):
        assert main(arguments) == 0
        assert "By category" in capsys.readouterr().out


def test_the_largest_batch_within_a_budget(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["explain", "net.py:work", "--no-calibrate", "--solve", "batch", "--budget"]
    assert main([*question, "2KiB", "--save", "l.json"]) == 0
    out, err = capsys.readouterr()
    found = read("l.json", expect=LargestBatch)
    assert found.peak <= found.budget == 2048 < found.next_peak
    assert re.search(rf"^largest batch size +{found.batch_size}$", out, re.MULTILINE)
    assert err.endswith("wrote l.json\n")
    assert main(["report", "l.json"]) == 0
    assert capsys.readouterr().out == out

    assert (
        main([*question, "10", "--json"]) == 1
    )  # 10 bytes: an answer, and the exit code of a budget not met
    out, err = capsys.readouterr()
    body = json.loads(out)["body"]
    assert (body["batch_size"], body["next_size"]) == (0, 1)
    assert "error" not in err


def test_a_training_step_within_a_budget(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["fit", "net.py:work", "--no-calibrate", "--no-measure"]
    files = ["--save", "p.json", "--html", "p.html", "--export", "train_fit.py"]
    assert main([*question, "--budget", "1MiB", *files]) == 0
    out, err = capsys.readouterr()
    plan = read("p.json", expect=Plan)
    assert plan.fits
    assert plan.actions == ()
    assert re.search(r"^peak +\S+ B predicted, 1.0 MiB to spare$|^peak .* predicted", out, re.MULTILINE)
    assert err.endswith("wrote p.html\nwrote p.json\nwrote train_fit.py\n")
    compile(Path("train_fit.py").read_text(), "train_fit.py", "exec")
    assert main([*question, "--plan", "p.json"]) == 0
    capsys.readouterr()

    assert main([*question, "--budget", "10", "--json"]) == 1  # 10 bytes: an answer, and a budget not met
    out, err = capsys.readouterr()
    assert json.loads(out)["body"]["plan"]["status"] == "infeasible"
    assert "error" not in err


def test_inference_has_the_other_gradient_mode_beside_it(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def explained(*options: str) -> Any:
        assert main(["explain", "zoo:llama_tiny?batch=1&length=8", "--no-calibrate", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["body"]

    without, recording = explained("--inference"), explained("--inference", "--grad", "--timeline", "t.json")
    assert not without["facts"]["training"] and not without["facts"]["grad_enabled"]
    assert recording["facts"]["grad_enabled"]
    assert [row["peak"] for row in without["alternatives"]] == [recording["peak"]]
    assert [row["peak"] for row in recording["alternatives"]] == [without["peak"]]
    assert read("t.json").peak == recording["peak"]


def test_a_bug_of_ours_never_reads_as_a_budget_that_is_not_met(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(record: Any, *, as_json: bool) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(cli.output, "show", broken)
    assert main(["explain", "net.py:work"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith(
        "error: enxuto itself failed with ZeroDivisionError; please report"
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"enxuto {enxuto.__version__}\n"
    for arguments in (["--help"], ["-h"], *([command.__name__, "-h"] for command in cli.COMMANDS)):
        assert main(arguments) == 0
        assert "Usage: enxuto" in capsys.readouterr().out


def test_a_line_of_progress_shows_in_a_terminal_after_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress() as say:
        assert say is None  # no terminal: nobody reads along
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for after, shown in ((60.0, False), (0.0, True)):
        with progress.progress(after=after) as say:
            assert say is not None
            say("tracing [1/2] of it")
            time.sleep(0.2)
        assert ("tracing [1/2] of it" in capsys.readouterr().err) == shown


# As a process


def run(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enxuto", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


def test_help_needs_no_torch(net: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from enxuto.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for arguments, expected in (
        (["explain", "-h"], 0),
        (["explain", "--bacth"], 2),
        (["report", "future.json"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=net, capture_output=True, check=False
        )
        assert done.returncode == expected, done.stderr


def test_the_module_is_the_command(net: Path) -> None:
    done = run("explain", "net.py:broken", folder=net)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.endswith("error: net.py:broken raised ValueError: their own\n")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("option", ["--json", "--save=s.json"])
def test_a_reader_that_leaves_is_no_error(net: Path, option: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "enxuto", "explain", "net.py:work", option],
            cwd=net, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert "Error" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_is_quiet(net: Path) -> None:
    (net / "slow.py").write_text(
        "import sys, time\nprint('loading', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "enxuto", "explain", "slow.py:work", "--save", "s.json"],
        cwd=net, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    assert not (net / "s.json").exists()


def test_where_no_plan_fits_a_classifier_leaner_nets_are_a_command_away(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--no-calibrate", "--no-measure", "--budget", "10", "--batch", "2"]
    assert main(["fit", "net.py:pictures", *small]) == 1
    assert "enxuto compare net.py:pictures --suggest --budget 10 --batch 2\n" in capsys.readouterr().err
    assert main(["fit", "net.py:work", *small]) == 1
    assert "enxuto compare" not in capsys.readouterr().err
