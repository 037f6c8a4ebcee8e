"""What watching costs and how true it is: time ratios of interleaved pairs, and recorded peaks beside the allocator's.

    python -m benchmarks.watch [--pairs N]

Watched and plain steps alternate within one process, on one thread; the ratio of each pair's processor time is
taken and the median of the ratios reported, with quartiles, and the ratio of the sums, in which the recorded steps
count in full. The default level is `enxuto.watch` as it is; the first
steps, which are recorded at any cost, are run before and reported by themselves. The census is measured on the same
step with a leak in it, from the moment that growth is seen.

The long run is a simulation: a real GPT's first steps, and then the rows of a million steps through the log's own
writer. Its page is opened in headless Chromium, until all its pictures are drawn; the clock starts with the
navigation, the browser is up already.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from enxuto.monitoring import read_log, watch
from enxuto.records import How, Step, StepKind
from enxuto.records.log import LogWriter, Rows
from enxuto.reporting import write_html
from enxuto.targets import resolve
from enxuto.tracing import trace
from enxuto.verifying.memory import true_peaks

RESULTS = Path(__file__).parent / "results" / "watch.json"
NETS = {
    "ResNet-18, batch 4, 64 px": "zoo:resnet18?batch=4&size=64",
    "GPT, batch 1, 32 tokens": "zoo:gpt?batch=1&length=32",
}
_BLOCK = 40  # steps in a row that are watched, and then as many that are not


def stepped(work: Any) -> Callable[[], Any]:
    """A training step of a workload on live objects."""
    model = work.model()
    optimizer = work.optimizer(model.parameters())
    batch = work.batch()

    def step() -> Any:
        optimizer.zero_grad()
        loss = work.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return step


def seconds(step: Callable[[], Any], times: int) -> float:
    """The processor's time for so many steps: one thread, so that a busy machine counts little."""
    began = time.process_time()
    for _ in range(times):
        step()
    return time.process_time() - began


def overhead(step: Callable[[], Any], *, pairs: int, block: int, warm: int) -> dict[str, Any]:
    """Ratios of watched to plain blocks of steps; the watch goes on from block to block."""
    run = watch(name="benchmark", say=print)
    ratios, plains, watcheds = [], [], []
    with run:
        first = seconds(step, warm)
        for pair in range(pairs):
            first_watched = (
                pair % 2 == 1
            )  # the order alternates, so that a drift of the machine's speed cancels
            if first_watched:
                watched = seconds(step, block)
            run.pause()
            plain = seconds(step, block)
            run.resume()
            if not first_watched:
                watched = seconds(step, block)
            plains.append(plain)
            watcheds.append(watched)
            ratios.append(watched / plain)
    low, middle, high = statistics.quantiles(ratios, n=4)
    recording = run.recording
    return {
        "ratio": round(middle, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "ratio_of_sums": round(sum(watcheds) / sum(plains), 4),
        "pairs": pairs,
        "steps_a_block": block,
        "plain_seconds": round(statistics.median(plains) / block, 4),
        "first_steps": {"n": warm, "seconds": round(first, 3)},
        "recorded": sum(step.step > warm for step in recording.recorded),
        "recorded_cost_seconds": round(statistics.median(s.cost for s in recording.recorded), 4),
    }


def truth(target: str) -> dict[str, Any]:
    """The recorded peak of step 3 beside the allocator's own; this machine's kernels were measured before."""
    work = resolve(target)
    trace(work)
    allocator = true_peaks(work).steady
    gc.collect()
    step = stepped(work)
    with watch(name="truth", say=print) as run:
        for _ in range(4):
            step()
    recorded = next(row for row in run.recording.steps if row.step == 3)
    assert recorded.peak_how is How.RECORDED
    return {
        "recorded": recorded.peak,
        "allocator": allocator,
        "difference_percent": round(100 * (recorded.peak - allocator) / allocator, 3),
    }


def default_level(target: str, *, pairs: int, block: int) -> dict[str, Any]:
    """The cost on a step in which nothing is wrong."""
    gc.collect()  # models of an earlier measurement would be counted
    step = stepped(resolve(target))
    seconds(step, 3)
    return overhead(step, pairs=pairs, block=block, warm=26)


def census(target: str, *, pairs: int, block: int) -> dict[str, Any]:
    """The same ratios where the step leaks a little: the census looks for it."""
    gc.collect()
    step = stepped(resolve(target))
    kept: list[Any] = []

    def leaks() -> None:
        kept.append(step().detach().expand(1000).clone())

    result = overhead(leaks, pairs=pairs, block=block, warm=24)
    kept.clear()
    gc.collect()
    return {key: result[key] for key in ("ratio", "quartiles", "ratio_of_sums", "pairs", "recorded")}


def long_run(steps: int) -> dict[str, Any]:
    """The log of so many steps, of which every third belongs to a validation, and how long its page takes to open."""
    gc.collect()
    step = stepped(resolve(NETS["GPT, batch 1, 32 tokens"]))
    with watch(name="train.py", say=print) as run:
        for _ in range(6):
            step()
    real = run.recording
    with tempfile.TemporaryDirectory() as temporary:
        folder, page = Path(temporary) / "log", Path(temporary) / "run.html"
        writer, rows, random_source = LogWriter(folder, real.source, print), Rows(), random.Random(0)
        for explanation in real.explanations:
            writer.explanation(explanation)
        began = time.perf_counter()
        for number in range(1, steps + 1):
            if number % (steps // 2000) == 0:  # as many as a run keeps at the most
                writer.event("recorded", real.recorded[-1])
            row = _row(number, real.peak, random_source)
            writer.step(row)
            if rows.add(row):
                writer.thin(rows)
        written = time.perf_counter() - began
        writer.close()
        nbytes = sum(each.stat().st_size for each in folder.iterdir())
        began = time.perf_counter()
        recording = read_log(folder)
        read = time.perf_counter() - began
        assert recording.total_steps == steps
        write_html(recording, page)
        short = Path(temporary) / "short.html"
        write_html(real, short)
        pairs = [(opening(page), opening(short)) for _ in range(5)]
        return {
            "steps": steps,
            "log_bytes": nbytes,
            "write_seconds_a_step": written / steps,
            "read_seconds": round(read, 2),
            "page_bytes": page.stat().st_size,
            "open_seconds": round(statistics.median(long for long, _ in pairs), 2),
            "open_seconds_of_six_steps": round(statistics.median(short for _, short in pairs), 2),
            "open_seconds_all": [[round(each, 2) for each in pair] for pair in pairs],
            "load": round(os.getloadavg()[0], 1),
        }


def _row(number: int, peak: int, random_source: random.Random) -> Step:
    """A step of a run whose peak wanders."""
    kind = StepKind.CALL if number % 3 == 0 else StepKind.UPDATE
    return Step(
        step=number,
        covers=1,
        kind=kind,
        seconds=0.036,
        peak=int(peak * random_source.uniform(0.5, 1) / (2 if kind is StepKind.CALL else 1)),
        peak_how=How.REPEATED,
        host=random_source.randrange(2**30, 2**31),
        host_peak=random_source.randrange(2**31, 2**32),
        workers=random_source.randrange(2**30),
        signature=0,
    )


def opening(page: Path) -> float:
    """Seconds from the navigation until the page was loaded and each of its pictures was painted."""
    with Browser() as browser:
        began = time.perf_counter()
        browser.asked("Page.navigate", url=page.as_uri())
        drawn = browser.asked("Runtime.evaluate", expression=_DRAWN, awaitPromise=True)["result"]["value"]
        seconds = time.perf_counter() - began
        assert drawn > 0, "the page has drawn nothing"
        return seconds


#: Waits for the load event and two frames after it; how many pictures there are then.
_DRAWN = """new Promise((done) => {
  const painted = () => requestAnimationFrame(() => requestAnimationFrame(
    () => done(document.querySelectorAll(".js-plotly-plot .main-svg").length)));
  document.readyState === "complete" ? painted() : addEventListener("load", painted);
})"""


class Browser:
    """A headless Chromium with one page, spoken to by the DevTools protocol through two pipes."""

    def __enter__(self) -> Browser:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            raise SystemExit("the page is opened in chromium, which is not installed")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        flags = f"--headless --no-sandbox --disable-gpu --no-first-run --user-data-dir={self._profile.name}"
        command = (
            f'exec "$0" {flags} --remote-debugging-pipe 3<&{to_read} 4>&{to_write}'  # its fixed descriptors
        )
        self._child = subprocess.Popen(
            ["bash", "-c", command, chromium], pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._session, self._rest = 0, "", b""
        target = self.asked("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.asked("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def asked(self, method: str, **parameters: Any) -> Any:
        """Send a command, and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 1 << 20)
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                return answer["result"]

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--block", type=int, default=_BLOCK)
    parser.add_argument("--long", action="store_true", help="only the long run's log and page")
    parser.add_argument("--peaks", action="store_true", help="only the recorded peaks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    part = options.long or options.peaks
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if part else {"torch": torch.__version__}
    if options.peaks:
        for name, target in NETS.items():
            known["nets"][name]["peak"] = truth(target)
            print(name, json.dumps(known["nets"][name]["peak"], indent=1), flush=True)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        return
    known["long_run"] = long_run(1_000_000)
    print("long run", json.dumps(known["long_run"], indent=1), flush=True)
    if options.long:
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        return
    rows = {}
    for name, target in NETS.items():
        row = {
            "peak": truth(target),
            "default": default_level(target, pairs=options.pairs, block=options.block),
            "census": census(target, pairs=max(options.pairs // 2, 3), block=options.block),
        }
        rows[name] = row
        print(name, json.dumps(row, indent=1), flush=True)
    RESULTS.write_text(json.dumps({**known, "nets": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
