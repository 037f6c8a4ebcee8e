"""Write the README's tables from the benchmarks' JSON: `make tables`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = {
    "dry": "enxuto, dry trace",
    "real": "enxuto, real CPU trace",
    "meta": "enxuto, dry on `meta`",
    "memtracker": "torch's MemTracker, fake tensors",
    "kernel": "kernel RSS of a fresh process",
}


def cpu_truth_table() -> str:
    """The summary of `cpu_truth.json` as Markdown."""
    content = json.loads((RESULTS / "cpu_truth.json").read_text())
    lines = [
        "| | n | failed | equal to the byte | median | p90 | max | bias |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column, label in COLUMNS.items():
        f = content["summary"][column]
        lines.append(
            f"| {label} | {f['n']} | {f['failed']} | {f['equal']} | {f['median_percent']} % | {f['p90_percent']} % "
            f"| {f['max_percent']} % | {f['bias_percent']} % |"
        )
    machine = content["machine"]
    lines.append(f"\ntorch {machine['torch']}, {machine['cpu']}, {machine['threads']} threads")
    return "\n".join(lines)


def main() -> int:
    for name in ("README.md", "README.pt-BR.md"):
        path = ROOT / name
        text = path.read_text()
        block = f"<!-- table: cpu_truth -->\n{cpu_truth_table()}\n<!-- end -->"
        path.write_text(
            re.sub(
                r"<!-- table: cpu_truth -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.S
            )
        )
        print(f"wrote the tables of {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
