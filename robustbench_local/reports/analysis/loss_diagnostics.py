"""D5 and D18: does any attack of a run cope with outputs that weaken the cross-entropy?"""

from __future__ import annotations

from dataclasses import replace

from robustbench_local.reports.analysis.attempts import index_attempts
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.store.diagnostic_records import DiagnosticResult

_SCALE_DIAGNOSTICS = frozenset({"D5", "D18"})
"""Diagnostics of outputs that are probabilities, or on an extreme scale."""


def weigh_losses(evidence: Evidence, subject: EvaluatedModel, result: DiagnosticResult) -> DiagnosticResult:
    """Let D5 and D18 fail where every attack follows the cross-entropy, which such outputs weaken.

    Attacks on the margin or DLR loss, ensembles with them, and attacks without gradients do not depend on the
    scale of the outputs.
    """
    if result.id not in _SCALE_DIAGNOSTICS or result.status != "warn":
        return result
    index = index_attempts(evidence)
    attempts = [attempt for (who, _), found in index.items() if who == subject for attempt in found]
    if not attempts or any(attempt.loss != "ce" for attempt in attempts):
        return result
    return replace(
        result,
        status="fail",
        sentence=f"{result.sentence.rstrip('.')}, and every attack of the run follows the cross-entropy, "
        "which that weakens.",
        action="Add an attack on the margin loss, such as autoattack or adaptive.",
    )
