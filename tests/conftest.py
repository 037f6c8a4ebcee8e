"""For every test: one thread, and a cache folder that is not the user's; parallel workers share one."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has its parent's
    _CACHE = tempfile.mkdtemp(prefix="enxuto-tests-")
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
    os.environ["ENXUTO_CACHE"] = _CACHE  # before anything of enxuto is imported

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """A trace collects garbage several times: not through every object of PyTorch and of earlier tests again."""
    gc.collect()
    gc.freeze()
