"""Models with inconsistent answers, run with the user's permission: their numbers are unreliable."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.doubt import Doubt, doubt_answers
from robustbench_local.reports.analysis.evidence import Evidence

_HINT = "let its forward treat each image by itself and keep nothing"


@collect_once
def find_inconsistency_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """Find doubts about every image of each inconsistent model, clean images included."""
    for about in evidence.models:
        if known := about.get("consistency"):
            subject = evidence.get_subject(about["id"], about["defense"])
            yield from doubt_answers(evidence, subject, known["mark"], _HINT)
