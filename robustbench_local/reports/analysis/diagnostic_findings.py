"""Findings made of diagnostics that block, fail or warn: each fact once for all models that share it."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding, FindingLevel
from robustbench_local.reports.analysis.trust import (
    lacks_gradient_check,
    list_diagnostics,
    list_unasked,
)
from robustbench_local.reports.formatting.text import (
    format_cells,
    format_count,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticStatus

UNCHECKED_SENTENCE = (
    "Whether attacks can follow the model's gradients is not known: run more images or more steps."
)
"""What to do about a model whose gradients were not looked at."""
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


def find_unasked_findings(evidence: Evidence) -> Iterator[Finding]:
    """Find the questions that models were not asked: one line for all models with the same."""
    groups: dict[str, list[str]] = {}
    unchecked = {}
    for subject in evidence.subjects:
        unasked = list_unasked(evidence, subject)
        if not unasked:
            continue
        named = join_in_sentence([f"{one.id} ({one.name})" for one in unasked])
        reason = unasked[0].sentence.removeprefix("Not checked: ").rstrip(".")
        text = f"{format_count(len(unasked), 'question')} not asked, because {reason}: {named}."
        groups.setdefault(text, []).append(isolate_direction(str(subject)))
        unchecked[text] = lacks_gradient_check(evidence, subject)
    for text, subjects in groups.items():
        caveat = f" {UNCHECKED_SENTENCE}" if unchecked[text] else ""
        level: FindingLevel = "warning" if unchecked[text] else "note"
        yield Finding(level=level, text=f"{format_cells(subjects)}: {text}{caveat}")


def format_concern(evidence: Evidence, result: DiagnosticResult) -> str:
    """Format what a result is about: the model, and the threat model if it is about one."""
    subject = isolate_direction(str(evidence.get_subject(result.model, result.defense)))
    threats = {threat.name: threat for threat in evidence.threats}
    if result.threat is None:
        return subject
    return f"{subject} under {threats.get(result.threat, result.threat)}"
