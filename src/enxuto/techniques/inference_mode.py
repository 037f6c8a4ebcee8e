"""Inference without gradient recording: nothing is saved for a backward that never comes.

Outputs are equal to the bit. Source: `torch.inference_mode`.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import torch

from ..records import Timeline
from .edits import NOTHING, Edit
from .regions import Refused


def simulate(timeline: Timeline) -> Edit:
    """The edit that drops every save.

    Raises:
        Refused: this is no inference, or nothing is saved in it.
    """
    if timeline.facts.training:
        raise Refused("a training step needs its gradients")
    if not len(timeline.saves):
        raise Refused("gradients are not recorded already")
    return replace(NOTHING, dropped=np.arange(len(timeline.saves)))


def apply() -> contextlib.AbstractContextManager[object]:
    """No gradients are recorded while the context lasts."""
    return torch.inference_mode()
