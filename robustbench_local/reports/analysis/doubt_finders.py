"""All doubts about a run: images that are not shown to be robust although no attack succeeded.

A finder lives in a module of its own and takes ``Doubt`` from ``analysis/doubt.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.disagreements import find_disagreement_doubts
from robustbench_local.reports.analysis.doubt import Doubt, doubt_answers, list_threats, select_doubts
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gradient_health import find_gradient_doubts
from robustbench_local.reports.analysis.inconsistent_models import find_inconsistency_doubts

__all__ = ["Doubt", "DoubtFinder", "doubt_answers", "find_doubts", "list_threats", "select_doubts"]

DoubtFinder = Callable[[Evidence], Iterable[Doubt]]

DOUBT_FINDERS: tuple[DoubtFinder, ...] = (
    find_inconsistency_doubts,
    find_gradient_doubts,
    find_disagreement_doubts,
)
"""All finders of doubts, in the order of the report."""


@collect_once
def find_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """Find all doubts about a run's images; doubts without images are dropped."""
    return (doubt for find in DOUBT_FINDERS for doubt in find(evidence) if doubt.images)
