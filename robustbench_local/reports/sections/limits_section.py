"""How to read the report, and the limits of its numbers."""

from __future__ import annotations

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore


class LimitsSection(Section[None]):
    """The limits of the report; report.md states them in its last lines."""

    anchor = "limits"
    title = "Interpretation and limitations"
    link_text = "Limitations"
    template = "limits.html.j2"

    def build_content(self, evidence: Evidence, store: RunStore) -> None:
        """Return nothing: the text is the same for every run."""

    def is_shown(self, content: None) -> bool:
        """Return True: the section is always shown."""
        return True


LIMITS = LimitsSection()
