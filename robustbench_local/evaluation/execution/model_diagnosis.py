"""The diagnostics of a run's models, asked before the first attack in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustbench_local.evaluation.diagnostics.diagnose import MAX_SAMPLE_IMAGES
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.pass_budget import MAX_PASSES_SHARE, PassBudget
from robustbench_local.evaluation.job_diagnosis import merge_twin_diagnostics, run_diagnostics
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject, Plan
from robustbench_local.store.diagnostic_records import (
    DIAGNOSTICS_KEY,
    DiagnosticResult,
    DiagnosticsRecord,
)
from robustbench_local.store.preprocessing_record import PREPROCESSING_CHECK_KEY, PreprocessingCheck
from robustbench_local.store.records import CellRecord
from robustbench_local.store.run_store import RunStore
from robustbench_local.threats.threat_model import BALL_NORMS, ThreatModel


def diagnose_plan(plan: Plan, store: RunStore, records: dict[str, CellRecord]) -> DiagnosticsRecord | None:
    """Run the diagnostics of every model that the run still attacks, and store them; known ones are kept.

    Args:
        plan: The plan.
        store: The store, open for writing.
        records: The stored record of each cell, by its key in the plan.

    Returns:
        All diagnostics of the run; None if nothing was asked.
    """
    known = store.read_meta(DIAGNOSTICS_KEY)
    record = DiagnosticsRecord() if known is None else DiagnosticsRecord.from_json(known)
    asked = {(result.model, result.defense) for result in record.results}
    waiting = [cell for cell in plan.cells if records[cell.record.key].status not in {"done", "skipped"}]
    subjects = dict.fromkeys(
        (cell.subject.id, cell.subject.defense) for cell in waiting if cell.problem is None
    )
    changed = False
    for subject in plan.subjects:
        key = (subject.id, subject.defense)
        if key in asked or key not in subjects:
            continue
        cells = [cell for cell in plan.cells if (cell.subject.id, cell.subject.defense) == key]
        planned = sum(sum(cell.max_cell_passes) for cell in cells if cell.problem is None)
        results, passes = diagnose_subject(subject, cells, planned, plan)
        record = DiagnosticsRecord(
            results=(*record.results, *results),
            passes=record.passes + passes,
            planned_passes=record.planned_passes + planned,
        )
        store.update_meta({DIAGNOSTICS_KEY: record.to_json()})
        changed = True
    return record if changed else None


def diagnose_subject(
    subject: EvaluationSubject, cells: Sequence[CellSpec], planned: int, plan: Plan
) -> tuple[tuple[DiagnosticResult, ...], int]:
    """Run the diagnostics of one model with its defense, in a child process where possible.

    Args:
        subject: The model.
        cells: Its cells.
        planned: Largest number of passes that they may take.
        plan: The plan.

    Returns:
        The results, and the passes that they took.
    """
    threats = list(_select_threats(cells))
    if subject.twin is None:
        return _ask_subject(subject, threats, planned, plan)
    own, passes = _ask_subject(subject, threats, planned // 2, plan)
    twin, more = _ask_subject(subject.twin, threats, planned // 2, plan)
    return merge_twin_diagnostics(own, twin), passes + more


def _ask_subject(
    subject: EvaluationSubject, threats: Sequence[ThreatModel], planned: int, plan: Plan
) -> tuple[tuple[DiagnosticResult, ...], int]:
    budget = PassBudget(limit=int(MAX_PASSES_SHARE * planned))
    model = _build_model(subject, budget, plan.seed)
    return run_diagnostics(model, threats, isolated=True, timeout=plan.timeout, name=str(subject))


def _build_model(subject: EvaluationSubject, budget: PassBudget, seed: int) -> DiagnosedModel:
    """Build the model under diagnosis, on the first images of the run."""
    data, wrapper = subject.data, subject.description.get("wrapper") or {}
    check = subject.description.get(PREPROCESSING_CHECK_KEY)
    return DiagnosedModel(
        id=subject.id,
        defense=subject.defense,
        classifier=subject.classifier,
        images=data.images[:MAX_SAMPLE_IMAGES],
        labels=data.labels[:MAX_SAMPLE_IMAGES],
        ids=data.ids[:MAX_SAMPLE_IMAGES],
        budget=budget,
        seed=seed,
        declares_surrogate=wrapper.get("surrogate") == "bpda",
        lacks_surrogate=bool(wrapper) and wrapper.get("surrogate") is None,
        is_wrapped=bool(wrapper),
        preprocessing_check=None if check is None else PreprocessingCheck.from_json(check),
        class_names=data.class_names,
    )


def _select_threats(cells: Sequence[CellSpec]) -> Iterator[ThreatModel]:
    """Select the largest untargeted ball of each norm, in the order of the cells."""
    largest: dict[str, ThreatModel] = {}
    for cell in cells:
        threat = cell.threat
        attacked = threat.norm in BALL_NORMS and not (cell.is_certificate or threat.targets)
        if attacked and threat.eps > largest.get(threat.norm, ThreatModel(norm=threat.norm, eps=0)).eps:
            largest[threat.norm] = ThreatModel(norm=threat.norm, eps=threat.eps)
    yield from largest.values()
