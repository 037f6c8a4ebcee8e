"""Silence around other people's exporters and quantizers, which print, log and warn of what users cannot change."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing printed, logged or warned, and the random generator as it was."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
