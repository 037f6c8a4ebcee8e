"""Workload + plan -> the same training, applied: reversible, with the user's own loop or ours."""

from .apply import Applied, applied_workload, apply
from .export import export

__all__ = ["Applied", "applied_workload", "apply", "export"]
