"""All diagnostics of a run, and whether its numbers are void, not trustworthy or neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.contradiction_diagnostics import check_contradictions
from robustbench_local.reports.analysis.convergence_diagnostics import check_convergence
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.loss_diagnostics import weigh_losses
from robustbench_local.reports.analysis.masking_diagnostics import check_masking, compare_noise
from robustbench_local.reports.analysis.run_diagnostics import (
    check_averaging,
    check_certificates,
    check_clean_accuracy,
    check_origin,
    check_sample_size,
    check_silent_success,
)
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.store.diagnostic_revisions import advise_after_adaptive, fail_without_adaptive

VOID_WORD = "void"
"""The word for a number that a diagnostic forbids."""
UNTRUSTED_PHRASE = "not trustworthy"
"""The words for a number with a failed diagnostic, in every form of the report."""
GRADIENT_QUESTIONS = frozenset({"D6a", "D6b", "D7"})
"""Without an answer to one of them a number rests on gradients that nobody has looked at."""
_OLDER_RUN = DiagnosticResult(
    id="D1-D7, D10, D11, D18-D20, D26-D31",
    name="questions to the model",
    model="",
    status="not run",
    sentence="Not checked (older run): this run was made before models were asked such questions.",
)
_MISLEADING_SENTENCE = (
    "The gradient, the direction that attacks follow, does not say how the answers change: measured at three "
    "points, no change of an answer matches it."
)


@collect_once
def list_diagnostics(evidence: Evidence) -> Iterator[DiagnosticResult]:
    """List every diagnostic of every model, by model, then by the number of the diagnostic."""
    for subject in evidence.subjects:
        revise = advise_after_adaptive if _has_adaptive(evidence, subject) else fail_without_adaptive
        yield from sorted(map(revise, _list_results(evidence, subject)), key=_get_order)


def _has_adaptive(evidence: Evidence, subject: EvaluatedModel) -> bool:
    """Return whether the attack that reads a model first has finished on this one."""
    return any(
        cell.subject == subject and cell.is_done and cell.record.parameters.get("method") == "adaptive"
        for cell in evidence.attack_cells
    )


def _list_results(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    stored = [
        result
        for result in evidence.diagnostics.results
        if (result.model, result.defense) == (subject.model, subject.defense)
    ]
    randomness = next((result for result in stored if result.id == "D4"), None)
    for result in stored:
        completed = compare_noise(evidence, subject, result) if result.id == "D10" else result
        yield weigh_losses(evidence, subject, _add_loading_probe(evidence, subject, completed))
    if not stored:
        yield replace(_OLDER_RUN, model=subject.model, defense=subject.defense)
    yield from check_masking(evidence, subject)
    yield from check_contradictions(evidence, subject)
    yield from check_convergence(evidence, subject)
    yield from check_silent_success(evidence, subject)
    yield from check_averaging(evidence, subject, randomness)
    yield from check_clean_accuracy(evidence, subject)
    yield from check_sample_size(evidence, subject)
    yield from check_origin(evidence, subject)
    yield from check_certificates(evidence, subject)


def _add_loading_probe(
    evidence: Evidence, subject: EvaluatedModel, result: DiagnosticResult
) -> DiagnosticResult:
    """Let D7 fail if the probe that ran when the model was loaded found misleading gradients."""
    if result.id != "D7" or not result.is_trusted or not has_misleading_gradients(evidence, subject):
        return result
    return replace(
        result,
        status="fail",
        sentence=_MISLEADING_SENTENCE,
        action="Run an attack that does not rely on it: adaptive, or square with 5,000 queries.",
    )


def has_misleading_gradients(evidence: Evidence, subject: EvaluatedModel) -> bool:
    """Return whether the probe at loading found that gradients do not describe the model's answers."""
    return any(
        about.get("misleading_gradients") and evidence.get_subject(about["id"], about["defense"]) == subject
        for about in evidence.models
    )


def _get_order(result: DiagnosticResult) -> tuple[int, str]:
    digits = "".join(letter for letter in result.id.split("-")[0] if letter.isdigit())
    return int(digits), result.id


def select_diagnostics(evidence: Evidence, subject: EvaluatedModel) -> list[DiagnosticResult]:
    """Select the diagnostics of one model with its defense."""
    return [
        result
        for result in list_diagnostics(evidence)
        if (result.model, result.defense) == (subject.model, subject.defense)
    ]


def select_blocks(evidence: Evidence, subject: EvaluatedModel) -> list[DiagnosticResult]:
    """Select the diagnostics that forbid any robustness number of a model."""
    return [result for result in select_diagnostics(evidence, subject) if result.status == "block"]


def select_distrust(evidence: Evidence, subject: EvaluatedModel, threat: Threat) -> list[DiagnosticResult]:
    """Select the diagnostics that make a number not trustworthy, or forbid it."""
    return [
        result
        for result in select_diagnostics(evidence, subject)
        if not result.is_trusted and (result.status == "block" or result.threat in {None, threat.name})
    ]


def list_unasked(evidence: Evidence, subject: EvaluatedModel) -> list[DiagnosticResult]:
    """List the questions that a model should have been asked, and was not."""
    return [result for result in select_diagnostics(evidence, subject) if result.is_unasked]


def lacks_gradient_check(evidence: Evidence, subject: EvaluatedModel) -> bool:
    """Return whether nothing is known about the gradients that attacks on a model follow."""
    unasked = {result.id for result in list_unasked(evidence, subject)}
    return bool(unasked & GRADIENT_QUESTIONS)


def select_cell_distrust(evidence: Evidence, cell: CellResult) -> list[DiagnosticResult]:
    """Select the diagnostics that make the numbers of a cell not trustworthy, or forbid them.

    A transfer, a corruption and a certificate do not depend on gradients, so only blocks concern them.
    """
    depends = is_gradient_dependent(cell)
    found = select_distrust(evidence, cell.subject, cell.threat)
    return [result for result in found if depends or result.status == "block"]


def is_gradient_dependent(cell: CellResult) -> bool:
    """Return whether the numbers of a cell depend on the gradients of its model."""
    return not (cell.has_external_candidates or cell.is_certificate or cell.is_corruption)


def list_cell_distrust(evidence: Evidence, cell: CellResult) -> list[str]:
    """List the ids of `select_cell_distrust`."""
    return list(dict.fromkeys(result.id for result in select_cell_distrust(evidence, cell)))


def format_mark(distrust: Iterable[DiagnosticResult]) -> str:
    """Format the mark of a number, such as ``not trustworthy (D6b, D11)``; empty if it needs none."""
    results = list(distrust)
    if not results:
        return ""
    word = VOID_WORD if any(result.status == "block" for result in results) else UNTRUSTED_PHRASE
    return f"{word} ({', '.join(dict.fromkeys(result.id for result in results))})"


def mark_model(evidence: Evidence, subject: EvaluatedModel, threat: Threat | None = None) -> str:
    """Format the mark of a model's numbers under a threat model, or under any."""
    found = select_diagnostics(evidence, subject) if threat is None else None
    return format_mark(
        select_distrust(evidence, subject, threat)
        if threat is not None
        else [result for result in found or () if not result.is_trusted]
    )


def select_gate_distrust(
    evidence: Evidence, subject: EvaluatedModel, gate: Gate, cells: Iterable[CellResult]
) -> list[DiagnosticResult]:
    """Select the diagnostics with which a gate on these cells does not pass.

    A clean accuracy, a corruption, a transfer and a certificate do not depend on gradients, so only blocks
    concern them. A gate that names its attack is about that attack alone: what other attacks contradict is
    then left to doubts about its images.
    """
    asked = {result.id for result in evidence.diagnostics.results}
    found: dict[DiagnosticResult, None] = {}
    for cell in cells:
        depends = gate.metric != "clean_accuracy" and is_gradient_dependent(cell)
        for result in select_distrust(evidence, subject, cell.threat):
            if result.status == "block" or (depends and (not gate.attack or result.id in asked)):
                found[result] = None
    return list(found)
