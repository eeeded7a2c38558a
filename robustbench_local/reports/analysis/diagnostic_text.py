"""The form of diagnostics that compare stored results: who they are about, and how shares are written."""

from __future__ import annotations

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import format_count
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticStatus

ATTACKS_SOURCE = "comparison of the run's attacks; limits from sound networks"


def build_diagnostic(
    identifier: str,
    name: str,
    subject: EvaluatedModel,
    threat: Threat | None,
    status: DiagnosticStatus,
    sentence: str,
    *,
    value: float | None = None,
    limit: float | None = None,
    n: int = 0,
    source: str = ATTACKS_SOURCE,
    action: str = "",
) -> DiagnosticResult:
    """Build the result of a diagnostic about a subject; see `DiagnosticResult`."""
    return DiagnosticResult(
        id=identifier,
        name=name,
        model=subject.model,
        defense=subject.defense,
        threat=threat.name if threat else None,
        status=status,
        sentence=sentence,
        value=value,
        limit=limit,
        n=n,
        source=source,
        action=action,
    )


def build_sentence(text: str) -> str:
    """Make a sentence of a phrase: a capital letter at its start, one full stop at its end."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def format_part(count: int, n: int) -> str:
    """Format ``3 of 100 images``."""
    return f"{count:,} of {format_count(n, 'image')}"
