"""Speed measurement in a child process, so that the model stays as it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.errors import ProcessEndedError
from robustbench_local.evaluation.execution.batch_size import (
    MIN_BATCH_SIZE,
    BatchSizeChoice,
    ModelSpeed,
    measure_speed,
    tune_batch_size,
    use_threads,
)
from robustbench_local.evaluation.harness.job import format_error_line
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject, Plan


def measure_model_speeds(plan: Plan) -> dict[str, ModelSpeed]:
    """Measure the speed of the model that each cell of a plan queries.

    Args:
        plan: The plan.

    Returns:
        The speed by key of the cell, where it could be measured; models of one network share it.
    """
    cells = [cell for cell in plan.cells if cell.problem is None]
    attacked = {_name_network(cell): cell.queried_subject for cell in cells}
    speeds = {name: try_measure_speed(subject, plan.timeout) for name, subject in attacked.items()}
    known = ((cell.record.key, speeds[_name_network(cell)]) for cell in cells)
    return {key: speed for key, speed in known if speed is not None}


def estimate_max_seconds(plan: Plan, speeds: Mapping[str, ModelSpeed]) -> dict[str, float]:
    """Return an upper bound in seconds for each cell, by its key, where the speed of its model is known.

    Args:
        plan: The plan.
        speeds: The speed of the model that each cell queries, by key of the cell.
    """
    return {
        cell.record.key: speeds[cell.record.key].estimate_seconds(cell.work_passes)
        for cell in plan.cells
        if cell.record.key in speeds
    }


def _name_network(cell: CellSpec) -> str:
    """Return a name that models of the same network share, because their passes take the same time."""
    return cell.queried_subject.network or str(cell.queried_subject)


def try_measure_speed(subject: EvaluationSubject, timeout: float | None) -> ModelSpeed | None:
    """Measure the speed of a model; None if that fails, because the error will show during the run.

    Args:
        subject: The model, and images to evaluate.
        timeout: Time limit in seconds; None for no limit.
    """
    measure = partial(measure_speed, subject.classifier, subject.data.images)
    try:
        if subject.classifier.settings.is_fork_safe and can_fork(subject.classifier.device):
            return call_isolated(measure, timeout=timeout, name=subject.id)
        with catch_process_exit(subject.id):
            return measure()
    except Exception:  # noqa: BLE001 - the work itself finds out which image it is about
        return None


def try_tune_batch_size(
    subject: EvaluationSubject, timeout: float | None, *, workers: int = 1, most_images: int | None = None
) -> tuple[BatchSizeChoice, str | None]:
    """Return a good batch size, and the reason why it could not be measured, if any.

    It is measured in one thread, as a worker has: threads of a busy machine wait for each other, and that
    waiting counts as their work.

    Args:
        subject: The model, and images to evaluate.
        timeout: Time limit in seconds; None for no limit.
        workers: Number of processes of the run.
        most_images: The largest number of images that a batch can have; None: any.
    """
    images = subject.data.images
    tune = partial(tune_batch_size, subject.classifier, images, workers=workers, most_images=most_images)
    try:
        if subject.classifier.settings.is_fork_safe and can_fork(subject.classifier.device):
            return call_isolated(tune, timeout=timeout, name=subject.id, threads=1), None
        with use_threads(1), catch_process_exit(subject.id):
            return tune(), None
    except Exception as problem:  # noqa: BLE001 - the work itself finds out which image it is about
        size = compute_default_batch_size(images)
        if isinstance(problem, ProcessEndedError) or is_out_of_memory(problem):
            size = min(size, MIN_BATCH_SIZE)  # the system may have ended it because memory ran out
        line = f"batch size not measured: {format_error_line(problem)}"
        return BatchSizeChoice(size=size, reason="not measured"), line
