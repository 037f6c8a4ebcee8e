"""enxuto shows where a neural network's memory goes, and predicts it before anything runs.

>>> import enxuto as ex
>>> ex.units.format_bytes(3 * 2**20)
'3.0 MiB'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import units

if TYPE_CHECKING:
    from .applying import apply as apply  # type: ignore[no-redef]
    from .applying import export as export  # type: ignore[no-redef]
    from .comparing import compare as compare  # type: ignore[no-redef]
    from .comparing import suggest
    from .compressing import compress
    from .compressing.distilling import distil
    from .errors import EnxutoError
    from .explaining import difference as difference  # type: ignore[no-redef]
    from .explaining import explain as explain  # type: ignore[no-redef]
    from .fitting import fit as fit  # type: ignore[no-redef]
    from .monitoring import integrations as integrations
    from .monitoring import watch as watch  # type: ignore[no-redef]
    from .predicting import largest_batch
    from .records import (
        Budget,
        Category,
        Certificate,
        Comparison,
        Compressed,
        Device,
        Difference,
        Explanation,
        Fitted,
        LargestBatch,
        Limits,
        Numerics,
        Phase,
        Plan,
        Recording,
        Scenario,
        Timeline,
        Verdict,
        World,
        read,
        write,
    )
    from .reporting import to_html, to_perfetto, to_text, write_html
    from .samples import Samples, Splits
    from .targets import resolve
    from .tracing import trace  # type: ignore[no-redef]
    from .verifying import certify
    from .workload import Workload

__version__ = "0.1.0"

#: Public names and the module that each is loaded from at first use: reading records must not need torch.
_HOMES = {
    "Budget": "records",
    "Category": "records",
    "Certificate": "records",
    "Comparison": "records",
    "Compressed": "records",
    "Device": "records",
    "Difference": "records",
    "EnxutoError": "errors",
    "Explanation": "records",
    "Fitted": "records",
    "LargestBatch": "records",
    "Limits": "records",
    "Numerics": "records",
    "Phase": "records",
    "Plan": "records",
    "Recording": "records",
    "Samples": "samples",
    "Scenario": "records",
    "Splits": "samples",
    "Timeline": "records",
    "Verdict": "records",
    "Workload": "workload",
    "World": "records",
    "apply": "applying",
    "certify": "verifying",
    "compare": "comparing",
    "compress": "compressing",
    "difference": "explaining",
    "distil": "compressing.distilling",
    "explain": "explaining",
    "export": "applying",
    "fit": "fitting",
    "integrations": "monitoring",
    "largest_batch": "predicting",
    "read": "records",
    "resolve": "targets",
    "suggest": "comparing",
    "to_html": "reporting",
    "to_perfetto": "reporting",
    "to_text": "reporting",
    "trace": "tracing",
    "units": "units",
    "watch": "monitoring",
    "write": "records",
    "write_html": "reporting",
}

__all__ = [
    "Budget",
    "Category",
    "Certificate",
    "Comparison",
    "Compressed",
    "Device",
    "Difference",
    "EnxutoError",
    "Explanation",
    "Fitted",
    "LargestBatch",
    "Limits",
    "Numerics",
    "Phase",
    "Plan",
    "Recording",
    "Samples",
    "Scenario",
    "Splits",
    "Timeline",
    "Verdict",
    "Workload",
    "World",
    "apply",
    "certify",
    "compare",
    "compress",
    "difference",
    "distil",
    "explain",
    "export",
    "fit",
    "integrations",
    "largest_batch",
    "read",
    "resolve",
    "suggest",
    "to_html",
    "to_perfetto",
    "to_text",
    "trace",
    "units",
    "watch",
    "write",
    "write_html",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'enxuto' has no attribute {name!r}")
    importlib.import_module(".reporting", __name__)  # notebooks draw records as soon as there are any
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
