"""How thinner and wider nets get their channel counts."""

from __future__ import annotations


def round_channels(channels: float, multiple: int = 8) -> int:
    """Nearest multiple of eight, never more than 10 % below what was asked.

    Source: `_make_divisible` of the MobileNet authors' code, which torchvision and timm follow.

    >>> round_channels(0.35 * 24), round_channels(0.75 * 40), round_channels(1.0)
    (8, 32, 8)
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded if rounded >= 0.9 * channels else rounded + multiple
