"""The content shared by all forms of the report: evidence, findings, gates and sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding
from robustbench_local.reports.analysis.gates import GateReport, judge_evidence
from robustbench_local.reports.analysis.read_run import CellObserver, read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.sections import SECTIONS
from robustbench_local.reports.sections.section import Content, Section, ShownSection
from robustbench_local.store import RunStore


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The content of a report."""

    evidence: Evidence
    """Results of the run."""
    findings: tuple[Finding, ...]
    """Findings about the results, the most serious first."""
    gate_report: GateReport
    """The verdicts of the grid's gates."""
    sections: tuple[Section[Any], ...]
    """In the order of the report."""
    contents: Mapping[str, Any]
    """Content of each section by its anchor."""

    def add_remark(self, text: str) -> ReportData:
        """Return the same report with a remark about itself, after all findings about the results."""
        return replace(self, findings=(*self.findings, Finding(level="note", text=text)))

    def get_content(self, section: Section[Content]) -> Content:
        """Return the content of a section."""
        content: Content = self.contents[section.anchor]
        return content

    def list_shown_sections(self) -> list[ShownSection]:
        """List the sections with content to show, in the order of the report."""
        parts = (ShownSection(section, self.get_content(section)) for section in self.sections)
        return [part for part in parts if part.section.is_shown(part.content)]

    def has_section(self, anchor: str) -> bool:
        """Return whether the section with this anchor is shown."""
        return any(part.section.anchor == anchor for part in self.list_shown_sections())


def read_report_data(store: RunStore, observe_cell: CellObserver | None = None) -> ReportData:
    """Read everything a report needs from an open run; ``observe_cell`` as for ``read_evidence``."""
    evidence = replace(read_evidence(store, observe_cell), damaged_images=store.find_damaged_arrays())
    return ReportData(
        evidence=evidence,
        findings=list_findings(evidence),
        gate_report=judge_evidence(evidence),
        sections=SECTIONS,
        contents={section.anchor: section.build_content(evidence, store) for section in SECTIONS},
    )
