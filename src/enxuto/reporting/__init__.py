"""Records as text, JSON and HTML. A renderer formats one kind of record and never measures.

Importing this package is cheap: rich is imported by the first card, plotly by the first page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..records import (
    Autopsy,
    Certificate,
    Comparison,
    Compressed,
    Diagnosis,
    Difference,
    Explanation,
    Fitted,
    LargestBatch,
    Plan,
    Recheck,
    Recording,
    Snapshot,
    Timeline,
    Verdict,
)
from . import fragment
from .compressed_card import model_card
from .compressed_rows import name_cut, name_settings
from .registry import FORMS, print_record, register, render, to_html, to_text, write_html
from .trace_events import to_perfetto

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "FORMS",
    "model_card",
    "name_cut",
    "name_settings",
    "print_record",
    "register",
    "render",
    "to_html",
    "to_perfetto",
    "to_text",
    "write_html",
]


def _explanation_card(explanation: Explanation) -> RenderableType:
    from .terminal import card

    return card(explanation)


def _difference_card(difference: Difference) -> RenderableType:
    from .terminal import difference_card

    return difference_card(difference)


def _timeline_card(timeline: Timeline) -> RenderableType:
    from .terminal import timeline_card

    return timeline_card(timeline)


def _largest_batch_card(found: LargestBatch) -> RenderableType:
    from .terminal import largest_batch_card

    return largest_batch_card(found)


def _plan_card(plan: Plan) -> RenderableType:
    from .plan_terminal import plan_card

    return plan_card(plan)


def _verdict_card(verdict: Verdict) -> RenderableType:
    from .plan_terminal import verdict_card

    return verdict_card(verdict)


def _fitted_card(fitted: Fitted) -> RenderableType:
    from .plan_terminal import fitted_card

    return fitted_card(fitted)


def _certificate_card(certificate: Certificate) -> RenderableType:
    from .certificate_terminal import certificate_card

    return certificate_card(certificate)


def _recheck_card(recheck: Recheck) -> RenderableType:
    from .certificate_terminal import recheck_card

    return recheck_card(recheck)


def _comparison_card(comparison: Comparison) -> RenderableType:
    from .comparison_terminal import comparison_card

    return comparison_card(comparison)


def _compressed_card(compressed: Compressed) -> RenderableType:
    from .compressed_terminal import compressed_card

    return compressed_card(compressed)


def _recording_card(recording: Recording) -> RenderableType:
    from .recording_terminal import recording_card

    return recording_card(recording)


def _diagnosis_card(diagnosis: Diagnosis) -> RenderableType:
    from .recording_terminal import diagnosis_card

    return diagnosis_card(diagnosis)


def _autopsy_card(autopsy: Autopsy) -> RenderableType:
    from .recording_terminal import autopsy_card

    return autopsy_card(autopsy)


def _snapshot_card(snapshot: Snapshot) -> RenderableType:
    from .snapshot_views import snapshot_card

    return snapshot_card(snapshot)


def _snapshot_page(snapshot: Snapshot) -> str:
    from .snapshot_views import snapshot_page

    return snapshot_page(snapshot)


def _explanation_page(explanation: Explanation) -> str:
    from .html import page

    return page(explanation)


def _recording_page(recording: Recording) -> str:
    from .recording_html import recording_page

    return recording_page(recording)


def _plan_page(plan: Plan) -> str:
    from .plan_html import plan_page

    return plan_page(plan)


def _verdict_page(verdict: Verdict) -> str:
    from .plan_html import verdict_page

    return verdict_page(verdict)


def _fitted_page(fitted: Fitted) -> str:
    from .plan_html import fitted_page

    return fitted_page(fitted)


def _comparison_page(comparison: Comparison) -> str:
    from .comparison_html import comparison_page

    return comparison_page(comparison)


def _compressed_page(compressed: Compressed) -> str:
    from .compressed_html import compressed_page

    return compressed_page(compressed)


register(
    Explanation.kind, card=_explanation_card, page=_explanation_page, fragment=fragment.explanation_fragment
)
register(Difference.kind, card=_difference_card, fragment=fragment.difference_fragment)
register(LargestBatch.kind, card=_largest_batch_card, fragment=fragment.largest_batch_fragment)
register(Timeline.kind, card=_timeline_card, fragment=fragment.timeline_fragment)
register(Plan.kind, card=_plan_card, page=_plan_page, fragment=fragment.plan_fragment)
register(Verdict.kind, card=_verdict_card, page=_verdict_page, fragment=fragment.verdict_fragment)
register(Fitted.kind, card=_fitted_card, page=_fitted_page, fragment=fragment.fitted_fragment)
register(Certificate.kind, card=_certificate_card, fragment=fragment.certificate_fragment)
register(Recheck.kind, card=_recheck_card, fragment=fragment.recheck_fragment)
register(
    Comparison.kind,
    card=_comparison_card,
    page=_comparison_page,
    fragment=fragment.comparison_fragment,
)
register(
    Compressed.kind,
    card=_compressed_card,
    page=_compressed_page,
    fragment=fragment.compressed_fragment,
)
register(Recording.kind, card=_recording_card, page=_recording_page)
register(Diagnosis.kind, card=_diagnosis_card)
register(Autopsy.kind, card=_autopsy_card)
register(Snapshot.kind, card=_snapshot_card, page=_snapshot_page, fragment=fragment.snapshot_fragment)
