"""Findings made of diagnostics that block, fail or warn: each fact once for all models that share it."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding, FindingLevel
from robustbench_local.reports.analysis.trust import list_diagnostics
from robustbench_local.reports.formatting.text import format_cells, isolate_direction
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticStatus

_LEVELS: dict[DiagnosticStatus, FindingLevel] = {"block": "void", "fail": "untrusted", "warn": "warning"}


def find_diagnostic_findings(evidence: Evidence) -> Iterator[Finding]:
    """Find the diagnostics that a reader has to know before the numbers."""
    groups: dict[tuple[str, str, str, DiagnosticStatus], list[DiagnosticResult]] = {}
    for result in list_diagnostics(evidence):
        if result.status in _LEVELS:
            key = (result.id, result.sentence, result.action, result.status)
            groups.setdefault(key, []).append(result)
    for (identifier, sentence, action, status), results in groups.items():
        who = format_cells([format_concern(evidence, result) for result in results])
        text = f"{identifier}, {who}: {sentence} {action}".rstrip()
        yield Finding(level=_LEVELS[status], text=text)


def format_concern(evidence: Evidence, result: DiagnosticResult) -> str:
    """Format what a result is about: the model, and the threat model if it is about one."""
    subject = isolate_direction(str(evidence.get_subject(result.model, result.defense)))
    threats = {threat.name: threat for threat in evidence.threats}
    if result.threat is None:
        return subject
    return f"{subject} under {threats.get(result.threat, result.threat)}"
