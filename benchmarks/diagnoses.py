"""What the watch says of scripts that its detectors were not written beside: `held_out/`.

    python -m benchmarks.diagnoses                    all, each in a process of its own
    python -m benchmarks.diagnoses m05_bad leak_hook

The scripts are of another hand than the detectors and their tests. They were held out until the first run, whose
figures stay in the JSON as `first`; the detectors were mended by what it showed since, so later runs say that they
are not worse, and no more how they do on scripts that they have never met. `situations.toml` says what each shows. A
failing script is right when its situation is found, with the owner where one is named there; a leak when M03 is found
with its owner; a fixed twin and a healthy script when nothing is found. What is wrong stays in the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu_truth import RESULTS, machine
from enxuto.records import write_atomically

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "held_out"
RESULT = RESULTS / "diagnoses.json"
WATCHED = """
import json, sys, warnings
import torch
from enxuto.monitoring import watch
path, budget = sys.argv[1], sys.argv[2] or None
run = watch(budget=budget, name=path, say=lambda line: None)
names = vars(__import__("types").ModuleType("__main__"))
names["__file__"] = path
error = ""
try:
    with warnings.catch_warnings(), run:
        warnings.simplefilter("ignore")
        exec(compile(open(path).read(), path, "exec"), names)
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}".splitlines()[0]
causes = [[c.id, c.owner, c.site.line if c.site else 0] for c in run.diagnosed().causes]
print("\\n" + json.dumps({"causes": causes, "error": error}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A script: what it shows (`expected` is empty for nothing), what was said, and whether that is right."""

    script: str
    expected: str
    owner: str
    said: tuple[tuple[str, str, int], ...]
    error: str
    right: bool


def judged(script: Path, facts: dict[str, Any]) -> Row:
    """Run one script under a watch."""
    situation = script.stem.split("_")[0]
    fact = facts.get(situation if situation in facts else script.stem, {})
    expected = "" if script.stem.endswith("_good") or situation == "healthy" else situation.upper()
    expected = "M03" if expected == "LEAK" else expected
    owner = fact.get("owner", "") if expected else ""
    command = [sys.executable, "-c", WATCHED, str(script), str(fact.get("budget", ""))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = done.stdout.strip().splitlines()
    try:
        seen = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        seen = {"causes": [], "error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    said = tuple((str(i), str(o), int(n)) for i, o, n in seen["causes"])
    crashed = seen["error"] and not seen["error"].startswith(("OutOfBudget", "MemoryError"))
    found = any(i == expected and owner in o for i, o, _ in said)
    right = not crashed and (found if expected else not said and not seen["error"])
    return Row(
        script=script.stem, expected=expected, owner=owner, said=said, error=seen["error"], right=right
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", help="names of scripts; all by default")
    wanted = parser.parse_args().scripts
    facts = tomllib.loads((SCRIPTS / "situations.toml").read_text())
    rows = []
    for script in sorted(SCRIPTS.glob("*.py")):
        if wanted and script.stem not in wanted:
            continue
        row = judged(script, facts)
        rows.append(row)
        said = ", ".join(f"{i} {o}" for i, o, _ in row.said) or "nothing"
        expected = f"{row.expected} {row.owner}".strip() or "nothing"
        print(
            f"{'ok ' if row.right else 'BAD'} {row.script:28} {expected:22} said: {said} {row.error}",
            flush=True,
        )
    for kind, part in kinds(rows).items():
        print(f"{kind}: {sum(row.right for row in part)} of {len(part)} right")
    if not wanted:
        content = {"machine": machine(), "first": first_run(rows), "rows": [asdict(row) for row in rows]}
        write_atomically(RESULT, json.dumps(content, indent=1).encode())
    return 0


def first_run(rows: list[Row]) -> dict[str, Any]:
    """The figures of the run that met these scripts for the first time: those that are stored, else this one's."""
    if RESULT.exists() and (first := json.loads(RESULT.read_text()).get("first")):
        return dict(first)
    right = {kind: [sum(row.right for row in part), len(part)] for kind, part in kinds(rows).items()}
    return {"right": right, "wrong": [row.script for row in rows if not row.right]}


def kinds(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by what kind of script they are."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        first, _, last = row.script.partition("_")
        name = {"leak": "leaks", "healthy": "healthy scripts"}.get(first)
        found.setdefault(name or ("failing scripts" if last == "bad" else "fixed twins"), []).append(row)
    return found


if __name__ == "__main__":
    sys.exit(main())
