"""The batch sizes that a run keeps: measured once on each model, reduced where memory ran out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.evaluation.execution.job_runner import JobRunner
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject, Plan
from robustbench_local.store.run_costs import REASONS_KEY, REDUCED_KEY, SIZES_KEY
from robustbench_local.store.run_store import RunStore

Notify = Callable[[str], None]
MIN_FULL_BATCH = 64
"""Rows with which a batch of few images may still be filled: searches look ahead, several steps at once."""


def find_batch_size(
    plan: Plan,
    store: RunStore,
    cell: CellSpec,
    *,
    workers: int,
    tell: Notify,
    warn: Notify,
    runner: JobRunner,
) -> int:
    """Return the batch size of a cell: the user's or a measured one, or less where memory ran out before.

    A resumed run keeps it, for bit-equal results.

    Args:
        plan: The plan.
        store: The run's store, open for writing.
        cell: The cell.
        workers: Processes that share its images.
        tell: Receives the size and its reason in one line, when it is measured.
        warn: Receives the reason why it could not be measured.
        runner: Measures it.
    """
    size = plan.batch_size
    if size is None:
        size = _find_measured_size(plan, store, cell, workers, tell, warn, runner)
    return min(size, int(store.read_meta(REDUCED_KEY, {}).get(_get_memory_key(cell), size)))


def keep_reduced_size(store: RunStore, cell: CellSpec, size: int) -> None:
    """Store a batch size that was reduced because memory ran out, for the next cells of the same model.

    The memory of a certificate is its own: attacks on the model keep their batch size.
    """
    known = store.read_meta(REDUCED_KEY, {})
    store.update_meta({REDUCED_KEY: known | {_get_memory_key(cell): size}})


def forget_batch_sizes(store: RunStore) -> None:
    """Forget all sizes, so that they are measured again."""
    store.update_meta({SIZES_KEY: {}, REASONS_KEY: {}, REDUCED_KEY: {}})


def describe_kept_sizes(plan: Plan, store: RunStore) -> str:
    """Describe in one line the sizes that an earlier call measured or reduced; empty if there are none."""
    names = dict.fromkeys(str(cell.queried_subject) for cell in plan.cells if cell.problem is None)
    measured = {} if plan.batch_size else store.read_meta(SIZES_KEY, {})
    reduced = store.read_meta(REDUCED_KEY, {})
    parts = [
        f"{name} {reduced.get(name, measured.get(name))}" for name in names if name in reduced | measured
    ]
    how = "as measured before" if not reduced else "as measured, or reduced for lack of memory, before"
    return f"batch sizes {how}: {', '.join(parts)}; --measure-batch-size measures again" if parts else ""


def _find_measured_size(
    plan: Plan,
    store: RunStore,
    cell: CellSpec,
    workers: int,
    tell: Notify,
    warn: Notify,
    runner: JobRunner,
) -> int:
    subject, known = cell.queried_subject, store.read_meta(SIZES_KEY, {})
    name = str(subject)
    if name not in known:
        choice, problem = runner.tune_batch_size(cell, plan.timeout, workers, find_most_images(plan, subject))
        changes: dict[str, Any] = {}
        if problem is not None:
            warn(problem)
        else:
            kept = "kept for this run, --measure-batch-size measures again"
            tell(f"{name}: batch size {choice.size} ({choice.reason}; {kept})")
            changes = dict.fromkeys(_list_alike(plan, subject), choice.size)
        known = changes | known | {name: choice.size}
        reasons = dict.fromkeys([*changes, name], choice.reason) | store.read_meta(REASONS_KEY, {})
        store.update_meta({SIZES_KEY: known, REASONS_KEY: reasons})
    return int(known[name])


def find_most_images(plan: Plan, subject: EvaluationSubject) -> int | None:
    """Find the largest number of images that a batch of a model, or of one with the same network, can have.

    Returns:
        That of its largest cell, but at least ``MIN_FULL_BATCH``; None if some cell computes several rows of
        a batch for each image, such as draws of noise or views of a sign.
    """
    cells = [cell for cell in plan.cells if cell.problem is None and _is_alike(cell.queried_subject, subject)]
    if any(map(_has_several_rows, cells)):
        return None
    return max([MIN_FULL_BATCH, *(cell.image_count for cell in cells)])


def _has_several_rows(cell: CellSpec) -> bool:
    """Return whether a cell computes several rows of a batch for each image."""
    is_sampling = cell.record.concerns != "model" or "samples" in cell.record.parameters
    draws = passes_per_query(cell.queried_subject.classifier)
    return is_sampling or cell.record.measure == "views" or max(draws) > 1


def _list_alike(plan: Plan, subject: EvaluationSubject) -> list[str]:
    """Return the names of the models of the plan with the same network, which passes take as long in."""
    queried = (cell.queried_subject for cell in plan.cells if cell.problem is None)
    return [str(other) for other in queried if subject.network and _is_alike(other, subject)]


def _is_alike(other: EvaluationSubject, subject: EvaluationSubject) -> bool:
    return other.network == subject.network if subject.network else str(other) == str(subject)


def _get_memory_key(cell: CellSpec) -> str:
    name = str(cell.queried_subject)
    return f"{name}, {cell.record.attack}" if cell.is_certificate else name
