"""Measuring a model where its work will be done: in a child process, so that it stays as it was loaded."""

from __future__ import annotations

from functools import partial

import torch

from robustbench_local.attacks.core.engine import default_batch_size
from robustbench_local.evaluation.execution.batch_size import Speed, measure_speed, threads, tune_batch_size
from robustbench_local.evaluation.harness.attack_job import one_line
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, confined
from robustbench_local.evaluation.planning.plan import Subject


def try_measuring_speed(subject: Subject, timeout: float | None) -> Speed | None:
    """What a pass of a model costs; None if it fails, which will show at work.

    Args:
        subject: The model, and images that it will see.
        timeout: Seconds that it may take; None for any time.
    """
    measure = partial(measure_speed, subject.classifier, subject.data.images)
    try:
        if subject.classifier.can_be_copied and can_fork(subject.classifier.device):
            return call_isolated(measure, timeout=timeout, name=subject.id)
        with confined(subject.id):
            return measure()
    except Exception:  # noqa: BLE001 - the work itself finds out which image it is about
        return None


def try_tuning_batch_size(
    subject: Subject, timeout: float | None, *, thread_count: int | None = None
) -> tuple[int, str | None]:
    """A good number of images in a pass, and why it could not be measured, if so.

    Args:
        subject: The model, and images that it will see.
        timeout: Seconds that it may take; None for any time.
        thread_count: Threads that the work will have; None: as many as torch has here.
    """
    images = subject.data.images
    tune = partial(tune_batch_size, subject.classifier, images)
    try:
        if subject.classifier.can_be_copied and can_fork(subject.classifier.device):
            return call_isolated(tune, timeout=timeout, name=subject.id, threads=thread_count), None
        with threads(thread_count or torch.get_num_threads()), confined(subject.id):
            return tune(), None
    except Exception as problem:  # noqa: BLE001 - the work itself finds out which image it is about
        return default_batch_size(images), f"batch size not measured: {one_line(problem)}"
