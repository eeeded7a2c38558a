"""The steps of adaptive attacks, and what each was worth."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.reports.analysis.adaptive_steps import AdaptiveCell, build_adaptive_cells
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore


class AdaptiveStepsSection(Section[tuple[AdaptiveCell, ...]]):
    """One table per adaptive attack and model; shown if there is one."""

    anchor = "steps"
    title = "Steps of the adaptive attack"
    link_text = "Adaptive steps"
    template = "adaptive_steps.html.j2"
    is_folded = True
    explanation = (
        "An image counts for the first step that succeeds on it, and later steps do not see it. Steps marked "
        "with + are none of AutoAttack's; what they succeed on is not necessarily out of AutoAttack's reach, "
        "because some run before its stages."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[AdaptiveCell, ...]:
        """Count the first successes of each step."""
        return build_adaptive_cells(evidence)

    def to_markdown(self, content: tuple[AdaptiveCell, ...], evidence: Evidence) -> Iterable[str]:
        """Render a table for each cell."""
        yield from (f"## {self.title}", "", self.explanation, "")
        for entry in content:
            name = f"{entry.cell.label} on {entry.cell.subject}"
            yield from (f"**{escape_markdown(name)}.** {escape_markdown(entry.reason)}", "")
            rows = [
                [
                    f"{escape_markdown(step.name)}{' +' if step.is_extra else ''}",
                    format_estimate(step.first_successes),
                ]
                for step in entry.steps
            ]
            total = ["**all steps beyond AutoAttack's**", format_estimate(entry.extra_successes)]
            yield from (*render_table(["step", "first to succeed"], [*rows, total]), "")

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``adaptive_steps``."""
        return {"adaptive_steps": [_encode_cell(entry) for entry in build_adaptive_cells(evidence)]}


ADAPTIVE_STEPS = AdaptiveStepsSection()


def _encode_cell(entry: AdaptiveCell) -> JsonDict:
    return {
        "model": entry.cell.subject.model,
        "defense": entry.cell.subject.defense,
        "attack": entry.cell.record.attack,
        "threat": entry.cell.threat.name,
        "steps": [
            {
                "name": step.name,
                "first_successes": step.first_successes.to_json(),
                "is_extra": step.is_extra,
            }
            for step in entry.steps
        ],
        "extra_successes": entry.extra_successes.to_json(),
        "look_images": entry.look_images,
        "look_passes": list(entry.look_passes),
        "attack_passes": list(entry.attack_passes),
        "sentence": entry.reason,
    }
