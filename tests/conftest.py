"""For every test: one thread, and a cache folder of its own."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile

_CACHE = tempfile.mkdtemp(prefix="enxuto-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["ENXUTO_CACHE"] = _CACHE  # before anything of enxuto is imported: the user's cache stays as it is
# Parallel workers share none: what is traced without calibration counts what the table knows, and must not change.

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """A trace collects garbage several times: not through every object of PyTorch and of earlier tests again."""
    gc.collect()
    gc.freeze()
