"""Compressions as text and in notebooks: the rows that matter, whole numbers, limits as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from enxuto.cli import app
from enxuto.records import Compressed, Limits, Quartiles, Recipe, Repair, Scheme, display, from_json, write
from enxuto.reporting import compressed_rows, render, to_text
from enxuto.units import format_bytes
from tests.reporting import compressed_samples, samples
from tests.reporting.compressed_samples import candidate, made

RECORDS: dict[str, Compressed] = {
    "chosen": compressed_samples.chosen(),
    "nothing": compressed_samples.nothing(),
    "undecided": compressed_samples.undecided(),
    "scored": compressed_samples.scored(),
    "many": compressed_samples.many(),
    "alone": compressed_samples.alone(),
    "hostile": compressed_samples.hostile(),
    "plain_file": compressed_samples.plain_file(),
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def flat(record: object, *, width: int = 200) -> str:
    return " ".join(to_text(record, width=width).split())


def random_records(count: int) -> Iterator[Compressed]:
    """Records of random candidates under random limits, of which some are measured in part."""
    draw = np.random.default_rng(4)
    for _ in range(count):
        every = [candidate(None, 4000, 0.0, ram=9000)]
        for _ in range(int(draw.integers(0, 30))):
            kept, file = float(draw.uniform(0.05, 1)), int(draw.integers(50, 4000))
            ram, latency = int(draw.integers(0, 2)) * file * 3, float(draw.integers(0, 2)) * kept
            drop = float(draw.choice([0.001, 0.004, 0.008, 0.3])) * float(draw.uniform(0.5, 1.5))
            every.append(
                candidate(made(kept, Recipe()), file, drop, ram=ram, latency=latency, refused="not better")
            )
        limits = Limits(
            file=int(draw.choice([0, 300, 2000])) * 1024,
            gzip=int(draw.choice([0, 200])) * 1024,
            ram=int(draw.choice([0, 1500, 6000])) * 1024,
            latency_ratio=float(draw.choice([0.0, 0.5])),
            max_drop=float(draw.choice([0.0, 0.005, 0.01])),
        )
        chosen = int(draw.integers(-1, len(every)))
        base = compressed_samples.chosen()
        yield replace(
            base, candidates=tuple(every), limits=limits, chosen=chosen or -1, certificate=None, layers=()
        )


def exceeded(record: Compressed, index: int) -> dict[str, float]:
    """Every limit that a candidate exceeds, and how many times; written out once more."""
    each, limits = record.candidates[index], record.limits
    found: dict[str, float] = {}
    if limits.file and each.file_bytes > limits.file:
        found["file"] = each.file_bytes / limits.file
    if limits.gzip and each.gzip_bytes > limits.gzip:
        found["gzip"] = each.gzip_bytes / limits.gzip
    if limits.ram and each.ram_bytes > limits.ram:
        found["peak RAM"] = each.ram_bytes / limits.ram
    if limits.latency_ratio and each.latency and each.latency.median > limits.latency_ratio:
        found["latency"] = each.latency.median / limits.latency_ratio
    if each.upper_drop > limits.max_drop:
        found["drop"] = each.upper_drop / limits.max_drop if limits.max_drop else float("inf")
    return found


# -- which rows are shown --------------------------------------------------------------------------------


def test_a_short_table_keeps_the_original_the_chosen_and_the_front() -> None:
    for record in random_records(60):
        rows = compressed_rows.candidates(record, limit=12)
        shown = [row.index for row in rows]
        assert shown == sorted(set(shown)) and len(shown) == min(12, len(record.candidates))
        assert 0 in shown and (record.chosen in shown or record.chosen < 0)
        if len({0, *record.pareto, record.chosen}) <= 12:
            assert set(record.pareto) <= set(shown)
            others = [i for i in range(len(record.candidates)) if i not in {0, *record.pareto, record.chosen}]
            worst = {
                i: (max(exceeded(record, i).values(), default=0), record.candidates[i].file_bytes)
                for i in others
            }
            kept = [worst[i] for i in others if i in shown]
            assert all(left <= worst[i] for i in others if i not in shown for left in kept)
        more = len(record.candidates) - len(shown)
        said = compressed_rows.left_out(len(shown), record)
        assert said.startswith(f"{more} more candidate") if more else said == ""


def test_a_long_search_says_how_many_candidates_are_in_the_json_alone() -> None:
    assert "48 more candidates in the JSON." in flat(RECORDS["many"])
    assert "more candidate" not in flat(RECORDS["chosen"])


def test_marks_are_of_the_chosen_one_and_of_the_front() -> None:
    for record in [*random_records(20), RECORDS["chosen"]]:
        for row in compressed_rows.candidates(record):
            assert (">" in row.marks) == (row.index == record.chosen)
            assert ("*" in row.marks) == (row.index in record.pareto)


# -- limits ----------------------------------------------------------------------------------------------


def test_a_limit_is_kept_only_where_it_was_measured_to_be() -> None:
    for record in random_records(100):
        index = record.chosen if record.chosen >= 0 else compressed_rows.nearest(record)
        each, over = record.candidates[index], exceeded(record, index)
        rows = {row.name: row for row in compressed_rows.limits(record)}
        limits = record.limits
        asked = {
            "file": (limits.file, True),
            "gzip": (limits.gzip, True),
            "peak RAM": (limits.ram, each.ram_bytes > 0),
            "latency": (limits.latency_ratio, each.latency is not None),
        }
        for name, (limit, measured) in asked.items():
            wanted = None if not (limit and measured) else name not in over
            assert rows[name].kept is wanted if name in rows else not limit
        assert rows["drop, at most"].kept is (False if "drop" in over else None)  # not certified: never kept


def test_the_nearest_candidate_exceeds_its_worst_limit_least() -> None:
    for record in random_records(60):
        if len(record.candidates) > 1:
            worst = [
                max(exceeded(record, index).values(), default=0) for index in range(1, len(record.candidates))
            ]
            assert worst[compressed_rows.nearest(record) - 1] == min(worst)


def test_what_would_have_to_be_allowed_is_what_a_candidate_takes() -> None:
    for record in random_records(60):
        record = replace(record, chosen=-1)
        wishes = compressed_rows.needed(record)
        if len(record.candidates) == 1:
            assert wishes == []
            continue
        over = exceeded(record, compressed_rows.nearest(record))
        assert bool(wishes) == bool(over)
        single = {name for i in range(1, len(record.candidates)) for name in exceeded(record, i)
                  if len(exceeded(record, i)) == 1}  # fmt: skip
        names = {wish.removeprefix("or ").split(" of ")[0].removeprefix("a ") for wish in wishes}
        if over:
            assert names == (single or names)
            assert all((" and a " in wish) <= (not single) for wish in wishes)


def test_nothing_chosen_says_which_limit_failed_and_what_to_allow() -> None:
    text = flat(RECORDS["nothing"])
    assert "nothing keeps the limits" in text
    assert (
        "nearest: 17 % of the parameters, int8, biases corrected its file is 271.0 KiB, 100.0 KiB allowed"
        in text
    )
    assert "its drop may be 0.75 points, 0.50 points allowed" in text
    assert (
        "a file of 271.0 KiB (277,504 bytes) and a gzip of 235.8 KiB (241,428 bytes) and a drop of 0.75"
        in text
    )
    assert "Certificate: not certified" in text and "> chosen" not in text
    single = replace(RECORDS["nothing"], limits=Limits(file=200 * 1024, max_drop=0.01))
    assert compressed_rows.needed(single) == [
        "a file of 271.0 KiB (277,504 bytes), with 17 % of the parameters, int8, biases corrected",
        "or a drop of 1.53 points, with 9 % of the parameters, int8, ranges by entropy, "
        "fine-tuned under rounding",
    ]
    assert compressed_rows.needed(RECORDS["chosen"]) == compressed_rows.why_nothing(RECORDS["chosen"]) == []
    assert compressed_rows.why_nothing(RECORDS["alone"]) == ["no candidate was made"]


def test_an_undecided_certificate_says_how_many_samples_it_needs() -> None:
    text = flat(RECORDS["undecided"])
    assert "What would have to be allowed 2,609 samples that certify or a drop of 2.80 points" in text
    assert "refused: certificate: undecidable" in text
    held = (
        "the certificate of 17 % of the parameters, int8, biases corrected: undecidable: needs 2,609 samples"
    )
    assert held in text


def test_a_limit_that_was_not_measured_is_said_to_be_so() -> None:
    base = RECORDS["nothing"]
    refused = tuple(replace(each, ram_bytes=0) for each in base.candidates[:2])
    record = replace(base, candidates=refused, limits=Limits(ram=10**6, max_drop=0.01))
    assert compressed_rows.needed(record) == [
        "a drop of 61.43 points, with per-tensor int8 (peak RAM not measured)"
    ]


# -- text ------------------------------------------------------------------------------------------------


@each_record
@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(record: Compressed, width: int) -> None:
    lines = to_text(record, width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    for row in compressed_rows.candidates(record, limit=12):
        name = row.name.split()[0]
        wanted = f"{format_bytes(row.candidate.file_bytes)}  "
        assert any(name in line and wanted in f"{line}  " for line in lines), row.name
        assert width < 60 or any(name in line and row.metric in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_columns_are_shown_or_said_to_be_left_out(width: int) -> None:
    text = to_text(RECORDS["chosen"], width=width)
    head = next(line for line in text.splitlines() if line.lstrip().startswith("candidate"))
    flat = " ".join(text.split())
    said = re.search(r"left out at this width: (.*?) What was asked for", flat)
    missing = said[1] if said else ""
    for name in ("params", "file", "gzip", "peak RAM", "latency", "top-1", "drop", "at most", "covered"):
        # "drop" is no part of another head, "latency" may stand for its quartiles
        shown = name in head
        assert shown != (name in missing.replace("quartiles of the latency", "")), (name, head, missing)
    quartiles = "(0.30–0.32)" in text.split("What was asked for")[0]
    assert quartiles != ("latency" in missing)


def test_the_card_at_eighty_columns_is_the_golden_one() -> None:
    golden = Path(__file__).parent / "golden" / "compressed.txt"
    assert to_text(RECORDS["chosen"], width=80) == golden.read_text(encoding="utf-8")


def test_what_was_measured_of_nothing_has_no_column() -> None:
    text = to_text(RECORDS["scored"], width=160)
    head = next(line for line in text.splitlines() if line.lstrip().startswith("candidate"))
    assert "peak RAM" not in head and "latency" not in head
    assert "not measured  peak RAM, latency" in text and "median of paired" not in text
    assert "points" not in text and "0.01" in text  # in the metric's own units
    partly = to_text(RECORDS["chosen"], width=160)
    assert "—" in next(line for line in partly.splitlines() if "per-tensor int8" in line)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (None, "original"),
        (made(1.0, Recipe(default=Scheme.FLOAT32)), "32 bits"),
        (made(1.0, Recipe(default=Scheme.WEIGHT4, block_size=64)), "4-bit weights, blocks of 64"),
        (made(0.999, Recipe(reduce_range=True)), "99.9 % of the parameters, int8 (weights in 7 bits)"),
        (made(1.0, compressed_samples.ENTROPY), "int8, ranges by entropy"),
        (
            made(0.5, Recipe().with_override("a", Scheme.FLOAT16).with_override("b", Scheme.WEIGHT4)),
            "50 % of the parameters, int8, 1 layer in 16 bits, 1 layer in 4-bit weights",
        ),
        # the last override of a name holds, and one that says the default says nothing
        (made(1.0, Recipe().with_override("a", Scheme.FLOAT32).with_override("a", Scheme.STATIC8)), "int8"),
        (
            made(1.0, Recipe(default=Scheme.DYNAMIC8), Repair.EQUALISE, Repair.CORRECT),
            "dynamic int8, equalised, biases corrected",
        ),
    ],
)
def test_settings_in_words(settings: compressed_samples.Settings | None, name: str) -> None:
    assert compressed_rows.name_settings(settings) == name


def test_every_scheme_has_its_own_name() -> None:
    names = [compressed_rows.name_settings(made(1.0, Recipe(default=scheme))) for scheme in Scheme]
    assert len(set(names)) == len(Scheme)


def test_a_ratio_needs_two_measured_sizes() -> None:
    assert compressed_rows.smaller(2048, 0) == compressed_rows.smaller(2048, -1) == ""
    assert compressed_rows.smaller(1000, 400) == "2.5× smaller"


def test_latency_is_a_multiple_with_its_quartiles() -> None:
    assert compressed_rows.times_text(None) == "—"
    assert compressed_rows.times_text(Quartiles(lower=1.0, median=1.125, upper=2.0, runs=3)) == "×1.12"
    first = compressed_rows.candidates(RECORDS["chosen"])[0]
    assert first.latency == "×1.00"  # the original is what the others are a multiple of
    assert compressed_rows.candidates(RECORDS["scored"])[0].latency == "—"


def test_the_drop_is_the_certificates_where_there_is_one() -> None:
    row = compressed_rows.limits(RECORDS["chosen"])[-1]
    assert (row.after, row.ratio, row.kept) == ("0.67 points", "certified", True)
    row = compressed_rows.limits(RECORDS["plain_file"])[-1]
    assert (row.after, row.ratio, row.kept) == ("0.75 points", "not certified", None)


def test_bytes_of_a_file_add_up() -> None:
    for part, each in zip(
        compressed_rows.file_parts(RECORDS["chosen"]),
        (RECORDS["chosen"].original, RECORDS["chosen"].artefact),
        strict=True,
    ):
        assert each is not None and part.weights + part.rest == each.file_bytes


def test_text_from_a_model_stays_text() -> None:
    text = to_text(RECORDS["hostile"], width=200)
    assert samples.MARKUP in text and samples.SCRIPT in text and "\x1b" not in text


@each_record
def test_json_gives_the_record_back(record: Compressed) -> None:
    assert from_json(render(record, "json"), expect=Compressed) == record


@each_record
def test_a_notebooks_card_is_inert_and_its_numbers_are_the_records(record: Compressed) -> None:
    html = record._repr_html_()
    assert html is not None and html == display.html(record)
    assert not re.search(r"<(script|style|link|img|b|i)\b|src=\"|href=|url\(", html)
    assert "\x1b" not in html
    shown = compressed_rows.candidates(record, limit=8)
    numbers = [int(n) for n in re.findall(r'data-bytes="(\d+)"', html)]
    assert numbers == [
        nbytes
        for row in shown
        for nbytes in (row.candidate.file_bytes, row.candidate.gzip_bytes, row.candidate.ram_bytes)
        if nbytes
    ]
    assert ("← chosen" in html) == (record.chosen >= 0)


@each_record
def test_the_command_shows_a_saved_record(record: Compressed, tmp_path: Path) -> None:
    saved, page = tmp_path / "record.json", tmp_path / "record.html"
    write(record, saved)
    shown = CliRunner().invoke(app, ["report", str(saved), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "<!doctype html>" in page.read_text(encoding="utf-8")[:20]
