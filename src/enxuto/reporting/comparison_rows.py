"""What a comparison says, as rows of text: the terminal, the page and the notebook say it alike."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import ComparedNet, Comparison, NetFigures, RuntimeFigures, Scenario
from ..units import format_bytes, format_count
from .wording import counted, plain

NONE = "–"
#: What each scenario sorts by, in words.
WANTED = {
    Scenario.FILE: "file",
    Scenario.INFERENCE_RAM: "memory of inference",
    Scenario.TRAINING: "memory of training",
    Scenario.LATENCY: "latency",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value of the table: its text, and the bytes behind it where it stands for bytes."""

    text: str = NONE
    nbytes: int | None = None


def title(comparison: Comparison) -> str:
    """What is compared and for what."""
    wanted = WANTED[comparison.scenario]
    if comparison.own:
        return f"Nets to take instead of {plain(comparison.own)}, by {wanted}"
    return f"{counted(len(comparison.nets), 'net')} by {wanted}"


def conditions(comparison: Comparison) -> str:
    """Under which conditions, in one line."""
    said = [f"training at batch {comparison.batch:,}", f"inference at batch {comparison.inference_batch:,}"]
    said += [f"{comparison.size} px"] if comparison.size else []
    said += [f"{comparison.classes:,} classes"] if comparison.classes else []
    said += [comparison.optimizer] if comparison.optimizer else []
    said += [f"budget {format_bytes(comparison.budget)}"] if comparison.budget else []
    return ", ".join(said)


def marks(comparison: Comparison, net: ComparedNet) -> str:
    """`*` where no other net dominates, `>` for the user's own, `!` beyond the budget."""
    own = ">" if comparison.own and net.target == comparison.own else " "
    beyond = "!" if comparison.fits(net) is False else " "
    return f"{own}{'*' if net.figures and not net.dominated_by else ' '}{beyond}"


def cells(comparison: Comparison, net: ComparedNet) -> dict[str, Cell]:
    """Every value of a row by the head of its column; all are there, known or not."""
    figures = net.figures
    if figures is None:
        return dict.fromkeys(_HEADS, Cell())
    values = {
        "params": Cell(text=format_count(figures.parameters)),
        "file": _bytes(figures.file_bytes),
        "int8": _bytes(figures.int8_bytes),
        "MACs": Cell(text=format_count(figures.macs)),
        "inference": _bytes(figures.inference_peak),
        "folded": _bytes(figures.folded_peak),
        "training": _bytes(figures.training_peak),
        "saved/sample": _bytes(figures.saved_per_item),
        "largest batch": Cell(text=_count(figures.largest_batch)),
        "latency": Cell(text=ratio(net.latency_ratio)),
        "top-1": Cell(text=f"{net.published.top1:.1f} %" if net.published else NONE),
    }
    return values | _measured(net.measured)


_HEADS = (
    "params",
    "file",
    "int8",
    "MACs",
    "inference",
    "folded",
    "training",
    "saved/sample",
    "largest batch",
    "latency",
    "top-1",
    "RAM in ORT",
    "latency in ORT",
)


def heads(comparison: Comparison) -> tuple[str, ...]:
    """The columns that hold anything."""
    rows = [cells(comparison, net) for net in comparison.nets]
    return tuple(head for head in _HEADS if any(row[head].text != NONE for row in rows))


def wanted_head(comparison: Comparison) -> str:
    """The column that the rows are sorted by."""
    if comparison.scenario is Scenario.LATENCY and any(net.measured for net in comparison.nets):
        return "latency in ORT"
    return {
        Scenario.FILE: "file",
        Scenario.INFERENCE_RAM: "inference",
        Scenario.TRAINING: "training",
        Scenario.LATENCY: "latency",
    }[comparison.scenario]


def why_behind(comparison: Comparison, net: ComparedNet) -> str:
    """Why a net is not to be taken: it failed, or which net is at least as good in all that was compared."""
    if net.failed:
        return f"not compared: {plain(net.failed)}"
    return f"behind {plain(net.dominated_by)}" if net.dominated_by else ""


def meanings(comparison: Comparison) -> list[tuple[str, str]]:
    """What the columns are, for those that are shown."""
    said = {
        "file": "state dict in float32",
        "int8": "batch norms folded, int8 weights with a scale per channel; without graph and names",
        "MACs": "multiply-adds of one sample",
        "inference": f"peak of eager inference at batch {comparison.inference_batch}, weights and scratch included",
        "folded": "the same with batch norms folded",
        "training": f"peak of a training step at batch {comparison.batch}, weights, optimizer and scratch included",
        "saved/sample": "kept for the backward, for each further sample",
        "largest batch": "the largest whose traced training peak is within the budget",
        "latency": f"predicted by a roofline, as a multiple of {plain(comparison.reference)}",
        "top-1": "published, of weights trained on ImageNet: sources below",
        "RAM in ORT": "measured above onnxruntime's own, norms folded (predicted in brackets)",
        "latency in ORT": "measured over interleaved pairs, norms folded",
    }
    shown = heads(comparison)
    return [(head, said[head]) for head in said if head in shown]


def sources(comparison: Comparison) -> list[tuple[str, str]]:
    """Where each published accuracy is from."""
    return [
        (plain(net.target), f"{net.published.top1} %, {net.published.weights}: {net.published.source}")
        for net in comparison.nets
        if net.published
    ]


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """How the figures were made."""
    speeds = "; ".join(
        f"{format_count(speed.value)} {speed.unit}, {speed.basis.value}" for speed in comparison.speeds
    )
    scratch = sorted({net.figures.scratch for net in comparison.nets if net.figures})
    return [
        ("figures", "predicted by dry traces; nothing was run, but for what says ORT"),
        ("kernel scratch", f"{', '.join(scratch) or NONE}, on {plain(comparison.machine)}"),
        ("time model", speeds or "assumed speeds"),
        ("torch", plain(comparison.torch)),
        ("dominated", "by a net at least as good in what is sorted by and in published accuracy, where both have one;"
         " else in file, inference, training and latency"),
    ]  # fmt: skip


def verdicts(comparison: Comparison) -> list[str]:
    """For suggestions, a sentence a net that fits: how far, and what is not known of it."""
    if not comparison.own or comparison.budget is None:
        return []
    own = next((net for net in comparison.nets if net.target == comparison.own), None)
    said = [
        f"{plain(comparison.own)} needs {_needs(comparison, own)}, and {format_bytes(comparison.budget)} are allowed."
    ]
    fitting = [net for net in comparison.front if comparison.fits(net) and net.target != comparison.own]
    if own is not None and comparison.fits(own):
        said.append("It fits as it is.")
    if not fitting:
        said.append("None of the zoo's nets fits either, at this size and batch.")
    return said + [_verdict(comparison, net) for net in fitting]


def _verdict(comparison: Comparison, net: ComparedNet) -> str:
    needed = comparison.needs(net) or 0
    room = format_bytes(int((comparison.budget or 0) - needed))
    known = (
        f"published with {net.published.top1:.1f} % on ImageNet" if net.published else "accuracy not known"
    )
    largest = net.figures.largest_batch if net.figures else None
    batch = f", up to batch {largest:,}" if largest else ""
    return (
        f"{plain(net.target)} needs {_needs(comparison, net)}, {room} below the budget{batch}; {known}, on your data "
        "not known."
    )


def _needs(comparison: Comparison, net: ComparedNet | None) -> str:
    needed = None if net is None else comparison.needs(net)
    return NONE if needed is None else format_bytes(int(needed))


def ratio(value: float | None) -> str:
    """A latency as a multiple."""
    return NONE if value is None else f"{value:.2f}×"


def _measured(measured: RuntimeFigures | None) -> dict[str, Cell]:
    if measured is None:
        return {"RAM in ORT": Cell(), "latency in ORT": Cell()}
    ram = f"{format_bytes(measured.ram)} ({format_bytes(measured.predicted_ram)})"
    return {
        "RAM in ORT": Cell(text=ram, nbytes=measured.ram),
        "latency in ORT": Cell(text=ratio(measured.latency_ratio.median)),
    }


def _bytes(nbytes: int | None) -> Cell:
    return Cell() if nbytes is None else Cell(text=format_bytes(nbytes), nbytes=nbytes)


def _count(number: int | None) -> str:
    return NONE if number is None else f"{number:,}"


def notes(comparison: Comparison) -> list[tuple[str, str]]:
    """What else has to be known of a net's figures."""
    return [
        (plain(net.target), plain(note))
        for net in comparison.nets
        for note in (net.figures or _NOTHING).notes
    ]


_NOTHING = NetFigures(
    parameters=0,
    file_bytes=0,
    int8_bytes=0,
    macs=0,
    inference_peak=0,
    folded_peak=None,
    inference_seconds=0.0,
)
