"""The scripts are data: run under a watch, never collected. What other tests left in memory is not of their runs."""

from __future__ import annotations

import gc

import pytest

collect_ignore_glob = ["scripts/*"]


@pytest.fixture(autouse=True)
def _alone() -> None:
    """A watch looks for the models and optimizers that are in memory: none of earlier tests are to be found."""
    gc.collect()
    gc.freeze()
