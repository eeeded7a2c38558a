"""Speed measurement in a child process, so that the model stays as it was loaded."""

from __future__ import annotations

from functools import partial

import torch

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.evaluation.execution.batch_size import (
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
    subject: EvaluationSubject, timeout: float | None, *, thread_count: int | None = None
) -> tuple[int, str | None]:
    """Return a good batch size, and the reason why it could not be measured, if any.

    Args:
        subject: The model, and images to evaluate.
        timeout: Time limit in seconds; None for no limit.
        thread_count: Number of threads of the run; None for torch's current number.
    """
    images = subject.data.images
    tune = partial(tune_batch_size, subject.classifier, images)
    try:
        if subject.classifier.settings.is_fork_safe and can_fork(subject.classifier.device):
            return call_isolated(tune, timeout=timeout, name=subject.id, threads=thread_count), None
        with use_threads(thread_count or torch.get_num_threads()), catch_process_exit(subject.id):
            return tune(), None
    except Exception as problem:  # noqa: BLE001 - the work itself finds out which image it is about
        return compute_default_batch_size(images), f"batch size not measured: {format_error_line(problem)}"
