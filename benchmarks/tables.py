"""Write the README's tables from the benchmarks' JSON: `make tables`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.diagnoses import Row as Diagnosed
from benchmarks.diagnoses import kinds
from benchmarks.recompute import EVERY_BLOCK, NONE, OURS, TORCH, Row, cheapest
from enxuto.records.bounds import upper_drop

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


def cost_table() -> str:
    """The rows of `cost.json` as Markdown: seconds and resident memory of a process, imports included."""
    content = json.loads((RESULTS / "cost.json").read_text())
    found = {(row["target"], row["what"]): row for row in content["rows"]}
    lines = ["| | warm table | cold table | `--no-calibrate` | torch's MemTracker |", "|---|---|---|---|---|"]
    for target in dict.fromkeys(row["target"] for row in content["rows"]):
        cells = [_cost_cell(found[target, what]) for what in ("warm", "cold", "uncalibrated", "memtracker")]
        lines.append(f"| {target} | {' | '.join(cells)} |")
    ratios = ", ".join(f"{row['target']} {row['ratio']:.2f}" for row in content["slowdowns"])
    lines.append(f"\nrecorded real step / plain step: {ratios}")
    return "\n".join(lines)


def _cost_cell(row: dict[str, Any]) -> str:
    return row["failed"] if "failed" in row else f"{row['seconds']:.1f} s, {row['rss'] / 2**20:.0f} MiB"


def recompute_table() -> str:
    """`recompute.json` as Markdown: our cheapest plan under the peak of each baseline, and our lowest peak."""
    content = json.loads((RESULTS / "recompute.json").read_text())
    rows = [Row(**row) for row in content["rows"]]
    lines = [
        "| | none | every block | enxuto, no higher | torch's budget, lowest | enxuto, no higher | enxuto, lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for net in dict.fromkeys(row.net for row in rows):
        of_net = [row for row in rows if row.net == net and not row.failed and not row.wrong]
        (plain,), (blocks,) = ([r for r in of_net if r.method == m] for m in (NONE, EVERY_BLOCK))
        knob = min(
            (r for r in of_net if r.method == TORCH), key=lambda r: (r.peak, r.extra_flops), default=None
        )
        ours = [row for row in of_net if row.method == OURS]
        cells = [_peak(plain), _peak(blocks), _peak(cheapest(ours, OURS, blocks.peak))]
        cells += [_peak(knob), _peak(cheapest(ours, OURS, knob.peak) if knob else None)]
        cells.append(_peak(min(ours, key=lambda row: row.peak, default=None)))
        lines.append(f"| {net} | {' | '.join(cells)} |")
    machine = content["machine"]
    lines.append(
        f"\ntorch {machine['torch']}, {machine['cpu']}; all 20 budgets: `python -m benchmarks.recompute`"
    )
    return "\n".join(lines)


GUARDS = {
    "point": "the measured drop is within the tolerance",
    "wald": "Wald's bound",
    "tango": "Tango's bound",
    "ours": "enxuto: Tango's, corrected",
}


def guard_table() -> str:
    """`guard.json` as Markdown: for each size the most false acceptances of any discordance, and the power."""
    content = json.loads((RESULTS / "guard.json").read_text())
    sizes = sorted({cell["n"] for cell in content["cells"]})
    power = content["power"]
    heads = [f"n = {n:,}" for n in sizes] + [f"no drop, n = {power['n']:,}"]
    lines = [f"| accept if | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for rule, label in GUARDS.items():
        worst = [max(cell[rule] for cell in content["cells"] if cell["n"] == n) for n in sizes]
        cells = [f"{percent:.1f} %" for percent in [*worst, power[rule]]]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"\n{content['draws']:,} draws a cell; numpy {content['machine']['numpy']}")
    return "\n".join(lines)


def compress_table() -> str:
    """`compress.json` and `baselines.json` as Markdown: compressed files, and what they keep of 10,000 pictures."""
    content = json.loads((RESULTS / "compress.json").read_text())
    baselines = list(json.loads((RESULTS / "baselines.json").read_text())["rows"].values())
    lines = [
        "| gzip, times smaller; right answers; at most lost | float32 | best baseline | enxuto, int8 alone | enxuto |",
        "|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        start = row["original_gzip"]
        int8 = start / row["int8_gzip"], row["int8_accuracy"], row["int8_upper_drop"]
        ours = start / row["gzip"], row["accuracy"], row["upper_drop"]
        best = best_baseline([b for b in baselines if b["net"] == row["net"]], start)
        plain = f"{start / 1000:,.0f} kB; {row['original_accuracy']:.2%}"
        cells = [plain, best, *(f"{r:.1f}×; {a:.2%}; {u:.2%}" for r, a, u in (int8, ours))]
        lines.append(f"| {row['net']} | {' | '.join(cells)} |")
    machine = content["machine"]
    if fast := fast_sentence():
        lines.append(f"\n{fast}")
    lines.append(
        f"\ntorch {machine['torch']}, {machine['cpu']}; all rows: `python -m benchmarks.compress`, `.baselines`"
    )
    return "\n".join(lines)


def fast_sentence() -> str:
    """The net pruned for time, in one line; empty before it was measured."""
    rows = json.loads((RESULTS / "compress.json").read_text()).get("fast", [])
    return "\n".join(
        f"{row['net']}, pruned to {row['macs_ratio']:.0%} of its MACs and not rounded: a run takes "
        f"{row['confirmed'][1]:.2f} of float32's ({row['confirmed'][0]:.2f} to {row['confirmed'][2]:.2f}), "
        f"{1 / row['confirmed'][1]:.1f} times faster; {row['accuracy']:.2%}; at most {row['upper_drop']:.2%} lost"
        for row in rows
    )


def pretrained_table() -> str:
    """`pretrained.json` as Markdown: published nets in 8 bits, ours beside the baselines."""
    content = json.loads((RESULTS / "pretrained.json").read_text())
    lines = [
        "| net | | file, times smaller | right | at most lost | agreement | KL |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        if row["failed"]:
            lines.append(f"| {row['net']} | {row['method']} | {row['failed'].split(':')[0]} | | | | |")
            continue
        method = f"{row['method']}: {row['settings']}" if row["settings"] else row["method"]
        cells = f"{row['ratio']:.2f}× | {row['metric']:.2%} | {row['upper_drop']:.2%}"
        lines.append(f"| {row['net']} | {method} | {cells} | {row['agreement']:.1%} | {row['kl']:.4f} |")
    return "\n".join(lines)


def migrate_table() -> str:
    """`migrate.json` as Markdown: the teacher, the student taught and alone, and nets that train alone."""
    content = json.loads((RESULTS / "migrate.json").read_text())
    sizes = {size["net"]: size for size in content["sizes"]}
    lean, teacher = sizes.pop("squeezenet_style"), sizes.pop(content["teacher"])
    lines = ["| | file | training peak, SGD; AdamW | right answers | at most lost |", "|---|---|---|---|---|"]
    lines.append(_net_line(f"{teacher['net']}, the teacher", teacher, teacher, _logged(teacher["net"]), "-"))
    for student in content["students"]:
        label = f"{lean['net']}, {student['run']}"
        bound = f"{student['upper_drop']:.2%}, {student['decision']}"
        lines.append(_net_line(label, lean, teacher, student["accuracy"], bound))
    lines += [_net_line(f"{name}, alone", size, teacher, _logged(name), "-") for name, size in sizes.items()]
    machine = content["machine"]
    lines.append(
        f"\nbytes of float32 .onnx files; test accuracies of 10,000; torch {machine['torch']}, {machine['cpu']}"
    )
    return "\n".join(lines)


def _net_line(label: str, size: dict[str, Any], teacher: dict[str, Any], right: float, bound: str) -> str:
    peaks = "; ".join(
        f"{size[key] / 2**20:.1f} MiB ({teacher[key] / size[key]:.2f}×)" for key in ("sgd", "adamw")
    )
    file = f"{size['file'] / 1000:,.0f} kB ({teacher['file'] / size['file']:.1f}×)"
    return f"| {label} | {file} | {peaks} | {right:.2%} | {bound} |"


def _logged(net: str) -> float:
    """The test accuracy in the log of a net's training."""
    accuracy: float = json.loads((ROOT / "benchmarks" / "nets" / f"{net}.json").read_text())["test_accuracy"]
    return accuracy


def compare_table() -> str:
    """`compare.json` as Markdown: lean nets by what each is wanted for, and how true the peaks are."""
    content = json.loads((RESULTS / "compare.json").read_text())
    asked = content["conditions"]
    heads = f"{asked['size']} px, {asked['optimizer']} | training, batch {asked['batch']}"
    lines = [
        f"| {heads} | kept a sample | inference | file; int8 | MACs | top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for net in content["nets"]:
        mib = {
            key: f"{net[key] / 2**20:,.1f}"
            for key in ("training_peak", "saved_per_item", "inference_peak", "file_bytes", "int8_bytes")
        }
        name = net["target"].removeprefix("zoo:")
        lines.append(
            f"| {name if net['dominated_by'] else f'**{name}**'} | {mib['training_peak']} | {mib['saved_per_item']} "
            f"| {mib['inference_peak']} | {mib['file_bytes']}; {mib['int8_bytes']} | {net['macs'] / 1e6:,.0f} M "
            f"| {net['top1']:.1f} % |"
        )
    errors = [abs(row["error_percent"]) for row in content["rows"]]
    machine = content["machine"]
    lines.append(
        f"\nMiB, predicted; bold: none beats it in training memory and accuracy. {len(errors)} peaks beside the "
        f"allocator's: {sum(error == 0 for error in errors)} equal, worst {max(errors):.3f} %. Compared in "
        f"{content['seconds']:.0f} s ({content['cpu_seconds']:.0f} s of CPU) at load {content['load'][0]:g} on "
        f"{machine['cores']} cores; torch {machine['torch']}"
    )
    return "\n".join(lines)


def diagnoses_table() -> str:
    """`diagnoses.json` as Markdown: right answers of the first run on these scripts, and of the last."""
    content = json.loads((RESULTS / "diagnoses.json").read_text())
    rows = [Diagnosed(**row) for row in content["rows"]]
    lines = ["| scripts of another hand | first run | after mending |", "|---|---|---|"]
    for kind, part in kinds(rows).items():
        right, n = content["first"]["right"][kind]
        lines.append(f"| {kind} | {right} of {n} | {sum(row.right for row in part)} of {len(part)} |")
    wrong = ", ".join(row.script for row in rows if not row.right) or "none"
    lines.append(
        f"\nnow wrong: {wrong}; torch {content['machine']['torch']}; `python -m benchmarks.diagnoses`"
    )
    return "\n".join(lines)


def watch_table() -> str:
    """`watch.json` as Markdown: recorded peaks beside the allocator's, ratios of watched to plain time, a long run."""
    content = json.loads((RESULTS / "watch.json").read_text())
    lines = [
        "| on the CPU | recorded peak, allocator's | time, default level | time where something leaks |",
        "|---|---|---|---|",
    ]
    for net, row in content["nets"].items():
        peak = f"{row['peak']['recorded']:,} B, {row['peak']['allocator']:,} B"
        lines.append(f"| {net} | {peak} | {_ratio(row['default'])} | {_ratio(row['census'])} |")
    long = content["long_run"]
    lines.append(
        f"\nprocessor time, watched by plain, quartiles; {long['steps']:,} simulated steps: a log of "
        f"{long['log_bytes'] / 1e6:.1f} MB, whose page opens in {long['open_seconds']:.1f} s "
        f"(one of six steps: {long['open_seconds_of_six_steps']:.1f} s) at load {long['load']:g} on 2 cores; "
        f"torch {content['torch']}"
    )
    return "\n".join(lines)


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    return f"{row['ratio']:.3f}× ({low:.3f} to {high:.3f})"


def best_baseline(rows: list[dict[str, Any]], start: int) -> str:
    """The smallest baseline that loses at most one point by the bound that ours has to keep."""
    held = [
        (row["gzip_bytes"], row, bound)
        for row in rows
        if not row["failed"] and (bound := upper_drop(row["hurt"], row["helped"], row["n"], 0.05)) <= 0.01
    ]
    nbytes, row, bound = min(held, key=lambda each: each[0])
    return f"{row['baseline']}: {start / nbytes:.1f}×; {row['right'] / row['n']:.2%}; {bound:.2%}"


def _peak(row: Row | None) -> str:
    return "-" if row is None else f"{row.peak / 2**20:.1f}, {row.extra_percent:+.2f} %"


def main() -> int:
    tables: dict[str, Callable[[], str]] = {
        "cpu_truth": cpu_truth_table,
        "cost": cost_table,
        "recompute": recompute_table,
        "guard": guard_table,
        "compress": compress_table,
        "pretrained": pretrained_table,
        "migrate": migrate_table,
        "compare": compare_table,
        "diagnoses": diagnoses_table,
        "watch": watch_table,
    }
    measured = {name: table() for name, table in tables.items() if (RESULTS / f"{name}.json").exists()}
    for name in ("README.md", "README.pt-BR.md"):
        path = ROOT / name
        text = path.read_text()
        for table, content in measured.items():
            block = f"<!-- table: {table} -->\n{content}\n<!-- end -->"
            pattern = rf"<!-- table: {table} -->.*?<!-- end -->"
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.S)
        path.write_text(text)
        print(f"wrote the tables of {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
