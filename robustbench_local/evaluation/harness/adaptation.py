"""The adaptation of a cell's attack: made once, on a fixed sample of the cell's images, before any batch.

All batches then run the same adapted attack, so that verdicts depend neither on the batches nor on their
order. A resumed cell uses the stored adaptation.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.errors import ModelTimeoutError, UnreachableError
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, Notifier, prepare_models
from robustbench_local.evaluation.harness.job import Job, format_error_line
from robustbench_local.evaluation.harness.outside_checks import keep_model_unchanged
from robustbench_local.evaluation.harness.verify import predict
from robustbench_local.evaluation.harness.worker_pool import can_be_isolated
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit
from robustbench_local.evaluation.isolation.watchdog import Watchdog
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import AdaptationRecord

MIN_SAMPLE_IMAGES = 4
MAX_SAMPLE_IMAGES = 16
SAMPLE_SHARE = 0.1
"""Share of a cell's images in the sample, between these limits: where AutoAttack succeeds at once, in 7.5
passes per image, the look takes 9.3 for each image of the sample."""
MAX_BLACK_BOX_SAMPLE_IMAGES = 64
"""Images in the sample of a model without gradients: a student is distilled from its answers to them."""
CELL_TIME_SHARE = 0.5
"""Largest share of the time limit of a cell that its adaptation may take."""
MAX_CANDIDATE_FACTOR = 4
"""Images that are classified to fill the sample, as a multiple of its size."""


def adapt_job(
    job: Job,
    *,
    batch_size: int,
    isolation: IsolationSettings,
    notify: Notifier = lambda _: None,
    known: AdaptationRecord | None = None,
) -> tuple[Job, AdaptationRecord | None]:
    """Adapt the attack of a job to its model.

    Args:
        job: The work of the cell.
        batch_size: Images per pass.
        isolation: The process in which the model runs, and its time limits.
        notify: Receives a note if the attack runs unadapted.
        known: The stored adaptation of an earlier run of this cell, which is used as it is.

    Returns:
        The job with the adapted attack, and the record to store; the same job and None if the attack does not
        adapt. Where the model hangs, ends its process or raises, the attack stays unadapted.

    Raises:
        UnreachableError: If the model is a service that cannot be reached.
    """
    if not isinstance(job, AttackJob) or not job.attack.adapts:
        return job, None
    if known is None:
        known = _adapt_safely(job, batch_size, isolation)
        if known.problem:
            notify(f"the attack is not adapted to the model, and runs its standard stages: {known.problem}")
    if not known.description:
        return job, known
    adapted = replace(job, attack=job.attack.restore_adaptation(known.description))
    planned, possible = sum(job.max_passes), sum(adapted.max_passes)
    if possible > planned:
        notify(
            f"the steps added for this model may take {possible:,} passes in all, {planned:,} were planned"
        )
    return adapted, known


def _adapt_safely(job: AttackJob, batch_size: int, isolation: IsolationSettings) -> AdaptationRecord:
    """Adapt in a process of its own where possible; an error becomes the reason of an unadapted attack."""
    work = partial(_adapt_attack, job, batch_size)
    seconds = CELL_TIME_SHARE * isolation.cell_timeout if isolation.cell_timeout else None
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        if isolation.isolated and can_be_isolated(job):
            return call_isolated(work, timeout=isolation.timeout, name=job.model_names, deadline=deadline)
        watchdog = Watchdog(isolation.timeout, deadline, isolation.abort_hung_model)
        with catch_process_exit(job.model_names), watchdog:
            return work()
    except UnreachableError as failure:
        if not isinstance(failure, ModelTimeoutError):
            raise
        return AdaptationRecord(
            problem=format_error_line(failure)
        )  # its images meet the time limit themselves
    except Exception as failure:  # noqa: BLE001 - the model's failure is noted, and met again by its images
        return AdaptationRecord(problem=format_error_line(failure))


def _adapt_attack(job: AttackJob, batch_size: int) -> AdaptationRecord:
    """Choose the sample, adapt the attack on it, and count the passes."""
    model = job.adapted_model
    with prepare_models(job, batch_size):
        sample, spent = _choose_sample(job, batch_size)
        if not sample:
            problem = "none of the first images is classified correctly"
            return AdaptationRecord(problem=problem, forward_passes=spent)
        data = job.select_images(sample)
        images, labels = data.images.to(model.device), data.labels.to(model.device)
        masks = None if data.masks is None else data.masks.to(model.device)
        stream = RandomStream(job.seed, data.ids, repr(job.attack))

        def adapt() -> tuple[Attack, PassCounter]:
            with model.count_passes(len(sample)) as passes, keep_model_unchanged(job.attack, model):
                return job.attack.adapt(model, images, labels, job.threat, stream, masks), passes

        adapted, counter = model.memory_limit.repeat_with_less(adapt, len(sample))
    return AdaptationRecord(
        description=adapted.describe_adaptation(),
        images=len(sample),
        forward_passes=spent + int(counter.forward_passes.sum()),
        backward_passes=int(counter.backward_passes.sum()),
    )


def _choose_sample(job: AttackJob, batch_size: int) -> tuple[list[int], int]:
    """Return the positions of the first correctly classified images, and the passes that took."""
    model, spent = job.adapted_model, 0
    sample: list[int] = []
    wanted = count_sample_images(job.image_count, has_gradients=model.access == "gradients")
    last = min(job.image_count, MAX_CANDIDATE_FACTOR * wanted)
    with model.open_fresh_copy() as judge:
        start = 0
        while start < last and len(sample) < wanted:
            positions = list(range(start, min(last, start + min(batch_size, wanted - len(sample)))))
            data = job.select_images(positions)
            stream = RandomStream(job.seed, data.ids, repr(job.attack))
            correct = predict(judge, data.images.to(model.device), data.labels, stream=stream).correct
            sample += [position for position, right in zip(positions, correct.tolist(), strict=True) if right]
            spent += len(positions) * passes_per_query(model)[1]
            start += len(positions)
    return sample, spent


def count_sample_images(image_count: int, *, has_gradients: bool = True) -> int:
    """Return the number of images that an attack adapts on, for a cell of so many images."""
    if not has_gradients:
        return min(image_count, MAX_BLACK_BOX_SAMPLE_IMAGES)
    share = int(SAMPLE_SHARE * image_count)
    return min(image_count, max(MIN_SAMPLE_IMAGES, min(MAX_SAMPLE_IMAGES, share)))
