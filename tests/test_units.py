"""Bytes as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enxuto.errors import UsageError
from enxuto.units import format_bytes, format_count, format_signed_bytes, parse_bytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1023 * 1024, "1023.0 KiB"),
        (2**30, "1.0 GiB"),
        (2**40, "1.0 TiB"),
        (2**50, "1024.0 TiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_bytes_are_written_with_binary_units(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(("nbytes", "text"), [(1, "+1 B"), (0, "0 B"), (-2048, "-2.0 KiB")])
def test_a_difference_shows_its_sign(nbytes: int, text: str) -> None:
    assert format_signed_bytes(nbytes) == text


@given(st.integers(-(2**60), 2**60))
def test_a_negative_size_is_the_positive_one_with_a_minus(nbytes: int) -> None:
    assert format_bytes(-abs(nbytes)).lstrip("-") == format_bytes(abs(nbytes))


@given(st.integers(1, 2**43))
def test_reading_what_was_written_is_within_half_of_the_last_digit(nbytes: int) -> None:
    text = format_bytes(nbytes)
    unit = parse_bytes(f"1 {text.split()[1]}")
    assert abs(parse_bytes(text) - nbytes) <= unit * 0.05 + 1


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8 GB", 8 * 10**9),
        ("8GB", 8 * 10**9),
        ("8 GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        (" 500 MiB ", 500 * 2**20),
        ("1.5kb", 1500),
        ("2 TB", 2 * 10**12),
        ("4096", 4096),
        ("7 b", 7),
        (12, 12),
    ],
)
def test_gigabytes_and_gibibytes_are_told_apart(text: str | int, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "8 GX", "-1 GB", "0", "1e9", "8 G B", "eight", "0.1 b", True, 0, -5]
)
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1 k"), (4.089e9, "4.09 G"), (2e15, "2 P")]
)
def test_counts_are_written_with_decimal_suffixes(number: float, text: str) -> None:
    assert format_count(number) == text
