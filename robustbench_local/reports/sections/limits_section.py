"""How to read the report, and what it does not say."""

from __future__ import annotations

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore


class LimitsSection(Section[None]):
    """What no number of the report says; report.md says it in its last lines."""

    anchor = "limits"
    title = "Interpretation and limitations"
    link_text = "Limitations"
    template = "limits.html.j2"

    def build_content(self, evidence: Evidence, store: RunStore) -> None:
        """Nothing: the text is the same for every run."""

    def is_shown(self, content: None) -> bool:
        """Always."""
        return True


LIMITS = LimitsSection()
