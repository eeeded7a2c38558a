"""D5 and D18: does any attack of a run cope with outputs that weaken the cross-entropy?"""

from __future__ import annotations

from robustbench_local.reports.analysis.attempts import index_attempts
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.store.diagnostic_revisions import SCALE_DIAGNOSTICS, fail_cross_entropy


def weigh_losses(evidence: Evidence, subject: EvaluatedModel, result: DiagnosticResult) -> DiagnosticResult:
    """Let D5 and D18 fail where every attack of the run follows the cross-entropy."""
    if result.id not in SCALE_DIAGNOSTICS:
        return result
    index = index_attempts(evidence)
    attempts = [attempt for (who, _), found in index.items() if who == subject for attempt in found]
    if not attempts or any(attempt.loss != "ce" for attempt in attempts):
        return result
    return fail_cross_entropy(result)
