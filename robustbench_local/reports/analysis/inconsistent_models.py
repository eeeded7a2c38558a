"""Models whose answers are not the image's own, which the user allowed: no number of theirs is relied on."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.doubt import Doubt, doubt_answers
from robustbench_local.reports.analysis.evidence import Evidence

_HINT = "let its forward treat each image by itself and keep nothing"


@collect_once
def find_inconsistency_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """Doubts about every image of each marked model, clean ones included."""
    for about in evidence.models:
        if known := about.get("consistency"):
            subject = evidence.get_subject(about["id"], about["defense"])
            yield from doubt_answers(evidence, subject, known["mark"], _HINT)
