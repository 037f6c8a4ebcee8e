"""Bytes as text and text as bytes: the only place that knows KiB, MiB, GiB and "8 GB"."""

from __future__ import annotations

import re

from .errors import UsageError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def format_bytes(nbytes: int) -> str:
    """Write bytes with a binary unit and at most four digits.

    >>> format_bytes(0), format_bytes(1536), format_bytes(5 * 2**30), format_bytes(-(2**20))
    ('0 B', '1.5 KiB', '5.0 GiB', '-1.0 MiB')
    """
    sign, size = ("-", -nbytes) if nbytes < 0 else ("", nbytes)
    if size < 1024:
        return f"{sign}{size} B"
    power = min((size.bit_length() - 1) // 10, len(_BINARY) - 1)
    value = size / 1024**power
    if value >= 1023.95 and power + 1 < len(_BINARY):  # would print as 1024.0 of the smaller unit
        power, value = power + 1, value / 1024
    return f"{sign}{value:.1f} {_BINARY[power]}"


def format_signed_bytes(nbytes: int) -> str:
    """Write a difference in bytes, its sign always shown.

    >>> format_signed_bytes(2048), format_signed_bytes(-2048), format_signed_bytes(0)
    ('+2.0 KiB', '-2.0 KiB', '0 B')
    """
    return ("+" if nbytes > 0 else "") + format_bytes(nbytes)


def parse_bytes(text: str | int) -> int:
    """Read a size: "8 GB" is 8·10⁹ bytes, "8 GiB" is 8·2³⁰, a plain number is bytes.

    Raises:
        UsageError: the text is no positive size.

    >>> parse_bytes("1.5 GiB"), parse_bytes("8GB"), parse_bytes(4096)
    (1610612736, 8000000000, 4096)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text <= 0:
            raise UsageError(f"a size must be positive, not {text}")
        return text
    match = _SIZE.fullmatch(str(text))
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is no size; write for instance 2GiB (2·2³⁰ bytes), 8GB or 500MiB")
    nbytes = int(float(match[1]) * factor)
    if nbytes <= 0:
        raise UsageError(f"a size must be positive, not {text!r}")
    return nbytes


def format_count(number: float) -> str:
    """Write a large count with a decimal suffix.

    >>> format_count(950), format_count(4_089_000_000)
    ('950', '4.09 G')
    """
    for factor, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {suffix}"
    return f"{number:.0f}"
