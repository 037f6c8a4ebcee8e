"""Scripts run in this process as `__main__` under a watch, and what the watch saw."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import types
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from enxuto.monitoring import diagnose, read_log, watch
from enxuto.records import Recording

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Seen:
    """A script's run: the record, what was said meanwhile, and the error that ended it."""

    recording: Recording
    said: tuple[str, ...]
    error: str


def run_watched(source: str, file: str, *, budget: str | None = None, log: Path | None = None) -> Seen:
    """Execute source text as the file's, watched; what it leaves is gone when this returns."""
    said: list[str] = []
    error = ""
    before = sys.modules["__main__"]
    module = types.ModuleType("__main__")
    module.__file__ = file
    gc.collect()  # models that an earlier script left would count
    gc.freeze()  # and walks through Python's objects need not go through the tests' own
    sys.modules["__main__"] = module
    observed = watch(budget=budget, name=Path(file).name, log=log, say=said.append)
    try:
        with warnings.catch_warnings(), observed:
            warnings.simplefilter("ignore")  # about quantization's and checkpointing's older forms
            exec(compile(source, file, "exec"), vars(module))
    except MemoryError as raised:
        error = str(raised)
    finally:
        vars(module).clear()
        sys.modules["__main__"] = before
        gc.unfreeze()
        gc.collect()
    return Seen(observed.diagnosed(), tuple(said), error)


def run_alone(script: Path, log: Path) -> Seen:
    """A script under `enxuto run`, in a process that shares no memory with this one."""
    command = [sys.executable, "-m", "enxuto", "run", "--log", str(log), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = tuple(line for line in done.stderr.splitlines() if "M0" in line or "M1" in line)
    recording = read_log(log)
    return Seen(
        replace(recording, causes=diagnose(recording).causes),
        said,
        "" if done.returncode == 0 else done.stderr,
    )


def run_script(name: str) -> Seen:
    """One of the scripts of `scripts/`, with the budget that its first line names."""
    path = SCRIPTS / f"{name}.py"
    source = path.read_text()
    budget = re.search(r"budget: (\d+ \w+)", source)
    return run_watched(source, str(path), budget=budget[1] if budget else None)
