"""What reports say in words, so that the terminal, the page and the notebook say it alike."""

from __future__ import annotations

from ..records import Explanation, Facts, Instant, Site, World
from ..units import format_bytes, format_signed_bytes

_BASES = {
    World.DRY: "predicted (dry trace)",
    World.CPU: "recorded on real CPU tensors",
    World.CUDA: "recorded on real CUDA tensors",
}
_DEATHS = {
    "natural": "seen apart from saved tensors",
    "last": "a block's last reference of any kind (what only backward keeps cannot be told apart)",
}


def basis(world: World) -> str:
    """Where the numbers of a trace come from."""
    return _BASES[world]


def basis_word(world: World) -> str:
    """`basis` in one word, for headings.

    >>> basis_word(World.DRY), basis_word(World.CPU)
    ('predicted', 'recorded')
    """
    return _BASES[world].split()[0]


def plain(text: str) -> str:
    """Text from a model or a file name, made safe to show: no escape codes, line ends or invisible marks.

    >>> plain("a\\x1b[31m\\nb")
    'a�[31m b'
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def module_name(path: str) -> str:
    """A module path, or what stands for code outside every module."""
    return plain(path) or "(outside modules)"


def place(site: Site) -> str:
    """A source line with the end of its path, long enough to find the file.

    >>> place(Site(file="/home/ana/lab/nets/train.py", line=31, function="step"))
    '…/nets/train.py:31'
    >>> place(Site(file="train.py", line=31, function="step"))
    'train.py:31'
    """
    parts = plain(site.file).replace("\\", "/").split("/")
    return f"{'/'.join(parts) if len(parts) < 4 else '/'.join(['…', *parts[-2:]])}:{site.line}"


def percent(part: int, whole: int) -> str:
    """A share in percent with one decimal.

    >>> percent(1, 8), percent(1, 10**6), percent(0, 5), percent(3, 0)
    ('12.5 %', '<0.1 %', '0.0 %', '–')
    """
    if whole == 0:
        return "–"
    share = 100 * part / whole
    return "<0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"


def change(before: int, after: int) -> str:
    """A difference in bytes with its share of what was there before.

    >>> change(1024, 1536), change(0, 1024), change(1024, 1024)
    ('+512 B (+50.0 %)', '+1.0 KiB (new)', '0 B (0.0 %)')
    """
    signed = format_signed_bytes(after - before)
    if before == 0:
        return f"{signed} (new)" if after else signed
    share = 100 * (after - before) / before
    return f"{signed} ({share:+.1f} %)" if after != before else f"{signed} (0.0 %)"


def counted(number: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "block"), counted(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def mode(facts: Facts) -> str:
    """Whether the step trains."""
    if facts.training:
        return "training"
    return "inference with gradients on" if facts.grad_enabled else "inference"


def conditions(facts: Facts) -> str:
    """Batch size and mode in one phrase."""
    batch = f"batch size {facts.batch_size:,}" if facts.batch_size else "batch size not known"
    return f"{batch} · {mode(facts)}"


def step_peaks(facts: Facts) -> str:
    """The peaks of the first and of the steady step, or an empty text where none was recorded."""
    peaks = facts.step_peaks
    if not peaks:
        return ""
    if len(peaks) == 1:
        return f"step 1 {format_bytes(peaks[0])}; later steps were not traced"
    if len(set(peaks)) == 1:
        return f"the same in each of {len(peaks)} steps, {format_bytes(peaks[0])}"
    return f"step 1 {format_bytes(peaks[0])}, steady step {format_bytes(peaks[-1])} (step {len(peaks)})"


def reached(instant: Instant) -> str:
    """The instant of the peak as a phrase: phase, op, module, autograd node, source line."""
    if not instant.op:
        return "before the first op"
    at = f"in {instant.phase.value} at {plain(instant.op)}"
    module = f" in {plain(instant.module)}" if instant.module else " outside modules"
    node = f", for autograd node {plain(instant.node)}" if instant.node else ""
    line = f", {place(instant.site)}" if instant.site else ", no line of your source"
    return f"{at}{module}{line}{node}"


def scratch_note(facts: Facts) -> str:
    """How kernel scratch came to its number."""
    unknown = f", for {counted(facts.scratch_unknown, 'op call')}" if facts.scratch_unknown else ""
    return f"{plain(facts.scratch)}{unknown}"


def facts_rows(explanation: Explanation) -> list[tuple[str, str]]:
    """What was traced and how, as name and value; the notes come last, one row each."""
    facts = explanation.facts
    rows = [
        ("workload", plain(facts.workload)),
        ("conditions", conditions(facts)),
        ("numbers", basis(explanation.world)),
        ("dry trace by", plain(facts.dry) if facts.dry else ""),
        ("no dry trace", plain(facts.dry_refused)),
        ("torch", plain(facts.torch)),
        ("device", plain(facts.device)),
        ("step peaks", step_peaks(facts)),
        ("kernel scratch", scratch_note(facts)),
        ("outputs", _outputs(facts)),
        ("end of a block", _DEATHS.get(facts.deaths, plain(facts.deaths))),
        ("clock", counted(explanation.curve.total_ticks, "event")),
    ]
    return [row for row in rows if row[1]] + [("note", plain(note)) for note in facts.notes]


def _outputs(facts: Facts) -> str:
    if not facts.outputs_corrected:
        return ""
    return f"{counted(facts.outputs_corrected, 'op output')} resized to what the real kernel allocates"
