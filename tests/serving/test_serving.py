"""The live page: it shows the log's own figures, follows it, and answers nobody without the token."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from enxuto.cli import main
from enxuto.errors import MissingDependency, UsageError
from enxuto.records.log import read_log
from enxuto.serving import Server, serve
from enxuto.serving.following import POINTS, Followed, shown
from enxuto.units import format_bytes
from tests.reporting.browser import CHROMIUM, FLAGS, needs_chromium
from tests.serving.logs import HOSTILE, MIB, Log, a_run

ROOT = Path(__file__).resolve().parents[2]


def asked(
    url: str, path: str = "", *, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """What the server answers; `path` is relative to the page, or from the root."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    target = path if path.startswith("/") else parts.path + path
    connection.request(
        method, target, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return a_run(tmp_path_factory.mktemp("run") / "log")


@pytest.fixture(scope="module")
def server(log: Log) -> Iterator[Server]:
    with serve(log.folder) as server:
        yield server


# Who is answered


def test_the_address_is_loopback_with_a_long_secret(server: Server) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", server.url)


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "run.json"])
def test_who_has_the_token_is_answered(path: str, server: Server) -> None:
    status, body, headers = asked(server.url, path)
    assert status == 200 and body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize(
    "path", ["/", "/run.json", "/wrong/", "/wrong/run.json", "//", "/%2e%2e/run.json", "*"]
)
def test_who_has_not_is_refused(path: str, server: Server) -> None:
    path = path if path.startswith("/") else "/*"
    status, body, headers = asked(server.url, path)
    assert (status, body) == (403, b"forbidden\n")
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_token_that_is_nearly_right_is_refused(server: Server) -> None:
    token = urlsplit(server.url).path.strip("/")
    for wrong in (token[:-1], token + "x", token.swapcase(), token[:-1] + ("a" if token[-1] != "a" else "b")):
        assert asked(server.url, f"/{wrong}/run.json")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", "", "[::1]:1"]
)
def test_another_host_is_refused(host: str, server: Server) -> None:
    assert asked(server.url, "run.json", Host=host)[0] == 403


def test_a_tunnel_is_answered(server: Server) -> None:
    assert asked(server.url, "run.json", Host="localhost:9999")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "http://localhost"]
)
def test_another_origin_is_refused(origin: str, server: Server) -> None:
    assert asked(server.url, "run.json", Origin=origin)[0] == 403


def test_its_own_origin_is_answered(server: Server) -> None:
    assert asked(server.url, "run.json", Origin=server.url[: server.url.index("/", 7)])[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(method: str, server: Server) -> None:
    assert asked(server.url, "run.json", method=method)[0] == 405


def test_no_other_file_is_served(server: Server) -> None:
    for path in ("application.py", "../records/codec.py", "%2e%2e/events.jsonl", "events.jsonl"):
        assert asked(server.url, path)[0] in (403, 404)


# What is answered


def test_the_figures_are_the_logs(log: Log, server: Server) -> None:
    run = json.loads(asked(server.url, "run.json")[1])
    recording = read_log(log.folder)
    lines = {line["name"]: line["values"] for line in run["lines"]}
    assert run["steps"] == recording.steps.step.tolist()
    assert lines["tensors"] == recording.steps.peak.tolist()
    assert lines["process"] == recording.steps.host_peak.tolist()
    assert lines["workers"] == [value or None for value in recording.steps.workers.tolist()]
    assert run["peak"] == format_bytes(recording.peak) and run["budget"] == 900 * MIB
    assert sum(part["nbytes"] for part in run["parts"]) == 507 * MIB
    assert [finding["id"] for finding in run["findings"]] == ["M03"] and not run["ended"]


def test_no_news_is_no_body(server: Server) -> None:
    version = json.loads(asked(server.url, "run.json")[1])["version"]
    assert asked(server.url, f"run.json?have={version}")[:2] == (204, b"")


def test_a_log_is_followed(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    followed = Followed(log.folder)
    first = json.loads(followed.news("") or b"")
    assert first["steps"] == [] and first["peak"] == "–"
    log.step(peak=5 * MIB, host=MIB)
    second = json.loads(followed.news(first["version"]) or b"")
    assert second["steps"] == [1] and second["peak"] == "5.0 MiB"
    log.end()
    third = json.loads(followed.news(second["version"]) or b"")
    assert third["ended"] and "12.5 s" in third["state"]
    assert followed.news(third["version"]) is None


def test_a_long_run_is_thinned_and_keeps_its_peak(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for number in range(9000):
        log.step(peak=MIB + (number == 4321) * 17, host=0)
    log.writer.close()
    run = shown(read_log(log.folder), version="")
    assert len(run.steps) <= POINTS
    (tensors,) = (line for line in run.lines if line.name == "tensors")
    assert max(value or 0 for value in tensors.values) == MIB + 17
    assert run.steps[-1] == 9000 or 9000 - run.steps[-1] < 20


# As a process


def test_it_ends_with_its_parent(log: Log) -> None:
    """Also when the parent is killed: nobody is left to close it."""
    code = (
        "import sys, time\nfrom enxuto.serving import serve\n"
        "server = serve(sys.argv[1])\nprint(server._process, server.url, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(log.folder)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child, url = parent.stdout.readline().split()
    assert asked(url, "run.json")[0] == 200
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not _runs(int(child)):
            return
        time.sleep(0.1)
    raise AssertionError("the server outlived its parent")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_closing_ends_it_and_may_be_done_twice(log: Log) -> None:
    server = serve(log.folder)
    server.close()
    server.close()
    with pytest.raises(OSError):
        asked(server.url)


def test_a_port_in_use_and_a_folder_that_is_no_log(log: Log, server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no log of a run"):
        serve(tmp_path)
    with pytest.raises(UsageError, match="did not start"):
        serve(log.folder, port=urlsplit(server.url).port or 0)


def test_the_command_names_what_is_wrong(
    log: Log, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path)]) == 2
    assert main(["serve", str(log.folder), "--port", str(urlsplit(server.url).port)]) == 2
    assert "cannot listen on port" in capsys.readouterr().err


def test_the_command_serves_without_torch(log: Log) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from enxuto.cli import main\nsys.exit(main(['serve', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(log.folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stderr is not None
    url = child.stdout.readline().strip()
    assert asked(url, "run.json")[0] == 200
    child.send_signal(2)  # ctrl-C
    assert child.wait(30) == 0 and child.stderr.read() == ""
    child.stdout.close()
    child.stderr.close()


def test_a_missing_package_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'enxuto\[serve\]'"):
        serve(log.folder)


# In a browser


def drawn(url: str, folder: Path) -> tuple[str, list[str]]:
    """The DOM after the page drew, and what the browser complained of; it reaches no other address."""
    assert CHROMIUM is not None
    flags = [flag for flag in FLAGS if not flag.startswith("--host-resolver-rules")]
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    done = subprocess.run(
        [CHROMIUM, *flags, rules, f"--user-data-dir={folder / 'profile'}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line or "ERR_" in line]


@needs_chromium
def test_the_page_draws_the_logs_points(log: Log, server: Server, tmp_path: Path) -> None:
    dom, complaints = drawn(server.url, tmp_path)
    assert complaints == []
    steps = read_log(log.folder).steps
    found = {
        name: points for points, name in re.findall(r'<polyline points="([^"]*)"[^>]*data-name="(\w+)"', dom)
    }
    for name, column in (("tensors", steps.peak), ("process", steps.host_peak)):
        assert found[name] == " ".join(
            f"{s},{v}" for s, v in zip(steps.step.tolist(), column.tolist(), strict=True)
        )
    assert sorted(map(int, re.findall(r'data-bytes="(\d+)"', dom))) == sorted(
        [507 * MIB // 4, 507 * MIB - 507 * MIB // 4]
    )
    assert ">following<" in dom
    assert html.escape(HOSTILE, quote=False) in dom and "<img src=x" not in dom
    assert "M03" in dom and "keep numbers" in dom


LIVE = """
import os, sys, torch
torch.set_num_threads(1)
net = torch.nn.Linear(8, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(8):
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
print("ready", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    sys.exit(3)
print(os.wait()[1] >> 8)
try:
    os.wait()
except ChildProcessError:
    print("no child is left", flush=True)
sys.exit(7)
"""


@needs_chromium
def test_a_run_is_shown_live_and_is_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "live.py").write_text(LIVE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "enxuto", "run", "--serve", "--quiet", "live.py"]
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    assert run.stdout is not None and run.stderr is not None
    url = run.stderr.readline().strip().removeprefix("enxuto: live at ")
    assert run.stdout.readline() == "ready\n"
    assert list((tmp_path / "temporary").glob("enxuto-*"))  # its log, since none was asked for
    dom, complaints = drawn(url, tmp_path)
    assert complaints == []
    assert "live.py" in dom and ">following<" in dom
    points = {
        name: each for each, name in re.findall(r'<polyline points="([^"]*)"[^>]*data-name="(\w+)"', dom)
    }
    assert points["tensors"].split()[0] == "1,280"  # step 1: 72 B of weights, as many of gradients ...
    output, said = run.communicate("\n", timeout=60)
    assert output == "3\nno child is left\n"
    assert run.returncode == 7
    assert "8 steps" in said
    with pytest.raises(OSError):
        asked(url)
    assert not list((tmp_path / "temporary").glob("enxuto-*"))


@needs_chromium
def test_a_wrong_token_shows_nothing(server: Server, tmp_path: Path) -> None:
    dom, _ = drawn(server.url[:-2] + "/", tmp_path)
    assert "forbidden" in dom and "train.py" not in dom
