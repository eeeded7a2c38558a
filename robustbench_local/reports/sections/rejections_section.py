"""Images that models reject."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.rejections import RejectionResult, build_rejections
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore


class RejectionsSection(Section[tuple[RejectionResult, ...]]):
    """One table; shown if a model may reject images."""

    anchor = "rejections"
    title = "Rejected images"
    link_text = "Rejected images"
    template = "rejections.html.j2"
    is_folded = True
    explanation = (
        "These models may reject an image. An attack succeeds only if its example is misclassified and "
        "accepted. A clean image that is rejected counts as misclassified: it lowers clean and robust "
        "accuracy."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[RejectionResult, ...]:
        """Build one row for each attack."""
        return build_rejections(evidence)

    def to_markdown(self, content: tuple[RejectionResult, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        yield from (f"## {self.title}", "", self.explanation, "")
        rows = [
            [
                escape_markdown(str(result.cell.subject)),
                escape_markdown(result.cell.label),
                format_estimate(result.rejected_clean),
                format_estimate(result.rejected_adversarial),
                format_estimate(result.cell.attack_success),
            ]
            for result in content
        ]
        head = ["model", "attack", "rejected clean", "rejected under attack", "attack success"]
        yield from (*render_table(head, rows), "")

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``rejections``."""
        return {"rejections": [_encode_result(result) for result in build_rejections(evidence)]}


REJECTIONS = RejectionsSection()


def _encode_result(result: RejectionResult) -> JsonDict:
    record = result.cell.record
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "threat": record.threat,
        "rejected_clean": result.rejected_clean.to_json(),
        "rejected_adversarial": result.rejected_adversarial.to_json(),
        "attack_success": result.cell.attack_success.to_json(),
    }
