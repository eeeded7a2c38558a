"""Certified and empirical robust accuracy over the same images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_local.reports.analysis.certified_vs_empirical import (
    ACCURACY_BOUNDS_EXPLANATION,
    RobustAccuracyBounds,
    build_accuracy_bounds,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import mark_model
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_estimate,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore


class AccuracyBoundsSection(Section[tuple[RobustAccuracyBounds, ...]]):
    """Certified accuracy beside robust accuracy under attacks, over the same images."""

    anchor = "brackets"
    title = "Certified and empirical robust accuracy"
    link_text = "Certified and empirical"
    template = "accuracy_bounds.html.j2"
    is_folded = True
    explanation = ACCURACY_BOUNDS_EXPLANATION

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[RobustAccuracyBounds, ...]:
        """Build the bounds of each model and threat model with both certificates and attacks."""
        return build_accuracy_bounds(evidence)

    def to_markdown(self, content: tuple[RobustAccuracyBounds, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        return _render_accuracy_bounds(evidence, content)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``accuracy_bounds``."""
        return {
            "accuracy_bounds": [_encode_accuracy_bounds(bounds) for bounds in build_accuracy_bounds(evidence)]
        }


ACCURACY_BOUNDS = AccuracyBoundsSection()


def _render_accuracy_bounds(evidence: Evidence, all_bounds: Sequence[RobustAccuracyBounds]) -> list[str]:
    head = ["model", "threat model", "certified accuracy", "robust accuracy", "undecided"]
    rows = (
        [
            escape_markdown(str(bounds.subject)),
            escape_markdown(str(bounds.threat)),
            format_estimate(bounds.certified_accuracy),
            _format_empirical(evidence, bounds),
            str(bounds.undecided_count),
        ]
        for bounds in all_bounds
    )
    return [
        "## Certified and empirical robust accuracy",
        "",
        ACCURACY_BOUNDS_EXPLANATION,
        "",
        *render_table(head, rows),
        "",
    ]


def _format_empirical(evidence: Evidence, bounds: RobustAccuracyBounds) -> str:
    mark = mark_model(evidence, bounds.subject, bounds.threat)
    return f"{format_estimate(bounds.empirical_accuracy)}{f', {mark}' if mark else ''}"


def _encode_accuracy_bounds(bounds: RobustAccuracyBounds) -> JsonDict:
    return {
        "model": bounds.subject.model,
        "defense": bounds.subject.defense,
        "threat": bounds.threat.name,
        "certificates": list(bounds.certificates),
        "attacks": list(bounds.attacks),
        "certified_accuracy": bounds.certified_accuracy.to_json(),
        "empirical_accuracy": bounds.empirical_accuracy.to_json(),
        "undecided": bounds.undecided_count,
    }
