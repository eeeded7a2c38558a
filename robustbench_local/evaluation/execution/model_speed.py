"""Speed measurement in a child process, so that the model stays as it was loaded."""

from __future__ import annotations

from functools import partial

import torch

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
from robustbench_local.evaluation.planning.plan import EvaluationSubject


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
    subject: EvaluationSubject, timeout: float | None, *, workers: int = 1
) -> tuple[BatchSizeChoice, str | None]:
    """Return a good batch size, and the reason why it could not be measured, if any.

    Args:
        subject: The model, and images to evaluate.
        timeout: Time limit in seconds; None for no limit.
        workers: Number of processes of the run, which have one thread each if there are several.
    """
    images = subject.data.images
    tune = partial(tune_batch_size, subject.classifier, images, workers=workers)
    threads = torch.get_num_threads() if workers == 1 else 1
    try:
        if subject.classifier.settings.is_fork_safe and can_fork(subject.classifier.device):
            return call_isolated(tune, timeout=timeout, name=subject.id, threads=threads), None
        with use_threads(threads), catch_process_exit(subject.id):
            return tune(), None
    except Exception as problem:  # noqa: BLE001 - the work itself finds out which image it is about
        size = compute_default_batch_size(images)
        if isinstance(problem, ProcessEndedError) or is_out_of_memory(problem):
            size = min(size, MIN_BATCH_SIZE)  # the system may have ended it because memory ran out
        line = f"batch size not measured: {format_error_line(problem)}"
        return BatchSizeChoice(size=size, reason="not measured"), line
