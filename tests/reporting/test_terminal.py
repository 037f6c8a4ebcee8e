"""The card: its numbers add up, it fits its width, and text from a model stays text."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from enxuto.records import Difference, Explanation, Timeline, World
from enxuto.reporting import print_record, to_text
from enxuto.units import format_bytes
from tests.reporting import samples

GOLDEN = Path(__file__).parent / "golden"
RECORDS = {
    "explanation": samples.explanation(unexplained=4096),
    "generation": samples.generation(),
    "hostile": samples.hostile(),
    "empty": samples.empty(),
    "difference": samples.difference(),
    "timeline": samples.timeline(),
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def receipt_lines(text: str) -> list[str]:
    """The lines of a card from the receipt's title down to its total."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Receipt"))
    stop = next(index for index, line in enumerate(lines) if line.startswith("total = peak"))
    return lines[start + 1 : stop + 1]


@pytest.mark.parametrize("name", ["explanation", "generation", "hostile", "empty"])
def test_the_receipt_adds_up_to_the_peak(name: str) -> None:
    record = RECORDS[name]
    assert isinstance(record, Explanation)
    lines = receipt_lines(to_text(record, width=100))
    *parts, total = (int(re.findall(r"([\d,]+) B\b", line)[-1].replace(",", "")) for line in lines)
    assert sum(parts) == total == record.peak
    assert parts[-1] == record.unexplained
    assert len(parts) == len(record.shares) + 1


def test_the_card_is_the_golden_one() -> None:
    text = to_text(RECORDS["explanation"], width=100)
    assert text == (GOLDEN / "card.txt").read_text(encoding="utf-8")


def test_the_golden_cards_numbers_are_the_records() -> None:
    record = samples.explanation(unexplained=4096)
    text = (GOLDEN / "card.txt").read_text(encoding="utf-8")
    for line, share in zip(receipt_lines(text), record.shares, strict=False):
        assert line.startswith(share.category.value)
        assert f"{share.nbytes:,} B" in line
        assert format_bytes(share.nbytes) in line
    exact = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) B\b", "\n".join(receipt_lines(text)))]
    assert sum(exact[:-1]) == exact[-1] == record.peak


@each_record
@pytest.mark.parametrize("width", [40, 60, 87, 88, 140])
def test_no_line_is_wider_than_the_terminal(record: object, width: int) -> None:
    text = to_text(record, width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize(
    ("world", "label"),
    [
        (World.DRY, "predicted (dry trace)"),
        (World.CPU, "recorded on real CPU tensors"),
        (World.CUDA, "recorded on real CUDA tensors"),
    ],
)
def test_every_block_of_numbers_says_where_it_comes_from(world: World, label: str) -> None:
    text = to_text(samples.explanation(world=world))
    word, other = ("predicted", "recorded") if world is World.DRY else ("recorded", "predicted")
    titles = ("Receipt", "Memory over", "By part", "By line", "What is alive", "By phase", "The same work")
    for title in titles:
        assert re.search(rf"^{title}.*, {word}$", text, re.MULTILINE), title
    assert re.search(rf"^Peak +\S+ GiB {re.escape(label)}$", text, re.MULTILINE)
    assert other not in text


def test_what_the_card_says() -> None:
    record = samples.explanation()
    text = " ".join(to_text(record, width=120).split())
    peaks = record.facts.step_peaks
    for phrase in (
        "resnet50 batch size 32 · training",
        f"step 1 {format_bytes(peaks[0])}, steady step {format_bytes(peaks[-1])} (step 3)",
        "in backward at aten.convolution_backward in layer4.2.conv2, …/nets/resnet.py:32",
        "autograd node ConvolutionBackward0",
        "saved by ConvolutionBackward0 for its backward",
        "inference, under torch.no_grad() 327.0 MiB",
        "Kernel scratch is partly assumed, for 3 op calls.",
        "2 op outputs resized",
        "2.13.0+cpu",
        "cudnn.benchmark is off",
        "first-step",
    ):
        assert phrase in text
    generated = " ".join(to_text(samples.generation()).split())
    assert "h.0.attn 480.0 KiB 12.0 KiB per token" in generated
    assert "total 5.6 MiB 144.0 KiB per token" in generated


@each_record
def test_piped_text_holds_no_escape_codes(record: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    pipe = io.StringIO()
    print_record(record, file=pipe, width=80)
    assert "\x1b" not in pipe.getvalue()
    assert pipe.getvalue() == to_text(record, width=80)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_and_no_escape_code_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    print_record(samples.hostile(), file=screen, width=100)
    text = screen.getvalue()
    assert "\x1b[38;2;190;79;44m" in text  # saved activations, #be4f2c
    assert "\x1b[31m" not in text  # the model's own attempt
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= 100


def test_markup_in_names_is_shown_and_not_obeyed() -> None:
    text = to_text(samples.hostile(), width=160)
    assert samples.MARKUP in text
    assert samples.SCRIPT in text
    assert "�[31mred�[0m" in text


def test_a_card_in_someone_elses_console_obeys_no_markup_either() -> None:
    """A rich console reads str cells as markup unless told otherwise; the card's cells are no str."""
    from rich.console import Console

    from enxuto.reporting.terminal import card, difference_card

    stream = io.StringIO()
    console = Console(file=stream, width=160, markup=True, color_system=None)
    console.print(card(samples.hostile()))
    console.print(difference_card(samples.difference()))
    assert samples.MARKUP in stream.getvalue()
    assert "wide [b]head[/b] <i>" in stream.getvalue()


def test_a_stream_without_block_characters_still_gets_the_card() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_record(samples.explanation(), file=stream, width=80)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert re.search(r"^saved activation .*#####", text, re.MULTILINE)


def test_the_bars_are_as_long_as_their_share() -> None:
    lines = receipt_lines(to_text(samples.explanation(), width=120))
    bars = {line.split("  ")[0]: len(re.findall("█", line)) for line in lines}
    assert bars["saved activation"] == 34  # 86.7 % of 40 columns
    assert bars["unexplained"] == 0


def test_a_difference_shows_what_came_and_went() -> None:
    difference = RECORDS["difference"]
    assert isinstance(difference, Difference)
    text = " ".join(to_text(difference).split())
    assert "peak 100.0 MiB 140.0 MiB +40.0 MiB (+40.0 %)" in text
    assert "neck 20.0 MiB 0 B -20.0 MiB (-100.0 %)" in text
    assert "(outside modules) 60.0 MiB 59.0 MiB -1.0 MiB (-1.7 %)" in text


def test_a_timeline_shows_its_peak_by_category() -> None:
    timeline = RECORDS["timeline"]
    assert isinstance(timeline, Timeline)
    text = " ".join(to_text(timeline).split())
    assert "peak 7.0 KiB predicted (dry trace)" in text
    assert "in forward, at tick 2 of 4" in text
    for line in ("parameter 4.0 KiB 57.1 %", "saved activation 2.0 KiB 28.6 %"):
        assert line in text


@pytest.mark.parametrize(
    ("peaks", "said"),
    [
        ((), None),
        ((1024,), "step 1 1.0 KiB; later steps were not traced"),
        ((1024, 1024, 1024), "the same in each of 3 steps, 1.0 KiB"),
        ((1024, 2048, 2048), "step 1 1.0 KiB, steady step 2.0 KiB (step 3)"),
    ],
)
def test_step_peaks_never_pass_step_one_off_as_the_steady_one(
    peaks: tuple[int, ...], said: str | None
) -> None:
    from dataclasses import replace

    base = samples.empty()
    text = to_text(replace(base, facts=replace(base.facts, step_peaks=peaks)))
    assert (said in text) if said else ("Steps" not in text)
