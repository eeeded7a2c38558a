"""The pilot of a plan: a few images of a cell are run and thrown away, to measure what the cell will cost.

It runs in a process of its own where that is possible and writes nothing. An attack that would take too long
is cut short after a number of passes; its images that are still searched then count with all their passes,
since an image that survives the first steps mostly survives the last one too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from robustbench_local.classifier.pass_watch import PassLimitReachedError, UnfinishedImages, watch_passes
from robustbench_local.evaluation.execution.batch_size import use_threads
from robustbench_local.evaluation.execution.spent_resources import read_own_peak_bytes
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.batches import IsolationSettings, prepare_models
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch
from robustbench_local.evaluation.harness.worker_pool import can_be_isolated
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit

MAX_PILOT_IMAGES = 64
"""Maximum number of images of a cell in the pilot of a plan."""
MIN_PILOT_IMAGES = 4
"""Minimum number of images: fewer say too little about the share that falls early."""
MIN_PASSES_PER_IMAGE = 40
"""Passes for each image that a pilot should afford: most images that fall at all fall within them."""
FOLLOW_UP_SHARE = 0.5
"""Share of the passes of a pilot that may follow unfinished images to the end, where whole images fit in."""
MAX_FOLLOWED_IMAGES = 4
"""Maximum number of images that are followed: what survives takes nearly the same number of passes."""
DEADLINE_FACTOR = 6.0
"""A pilot ends after this many times its seconds, since its process may share the machine with others."""
_GOLDEN_SECTION = 0.6180339887
"""Multiples of it modulo 1 are evenly spread however many there are."""
DEADLINE_SECONDS = 5.0
"""Seconds that it may take in any case, to start its process and to verify candidates."""


@dataclass(frozen=True, kw_only=True)
class PilotMeasurement:
    """What a pilot measured on some images of a cell."""

    images: int
    """Number of images; 0 if not even the adaptation of the attack to the model came to its end."""
    passes: int
    """Forward and backward passes that they took."""
    seconds: float
    """Seconds that they took: CPU time of one thread, or time of the accelerator."""
    unfinished: int = 0
    """Number of them that were still searched when the attack was cut short."""
    unfinished_passes: int = 0
    """Passes that these had taken."""
    followed: int = 0
    """Number of the unfinished images that were then attacked to the end."""
    followed_passes: int = 0
    """Passes that these took from start to end."""
    survived: int = 0
    """Number of the followed images that no adversarial example was found for."""
    survived_passes: int = 0
    """Passes that these took."""
    max_passes_per_image: float = 0.0
    """Maximum number of passes of one image, of the attack as adapted to the model."""
    peak_bytes: int = 0
    """Peak memory of the process, or of the accelerator, in bytes; 0 if unknown."""
    total_seconds: float = 0.0
    """Seconds of the whole pilot, with everything around the images."""
    image_seconds: float = 0.0
    """Seconds of the images alone, with those that were followed."""
    certified: frozenset[str] = frozenset()
    """Ids of the images that a certificate proved."""

    @property
    def full_passes(self) -> float:
        """Passes of an image that survives to the end: measured if one did, or the most."""
        return self.survived_passes / self.survived if self.survived else self.max_passes_per_image

    @property
    def survivor_passes(self) -> float:
        """Passes of an image that is still searched when the attack is cut short.

        It is the mean over those that were followed and one more that survives to the end: the few that were
        followed may have fallen soon after, and others may not.
        """
        return (self.followed_passes + self.full_passes) / (self.followed + 1)

    @property
    def expected_passes(self) -> float:
        """Passes of an image: of those that were finished, and of those that were not in full."""
        whole = self.passes - self.unfinished_passes + self.unfinished * self.survivor_passes
        return whole / self.images


def choose_images(job: Job, max_passes: int, own_positions: Sequence[int] | None = None) -> list[int]:
    """Choose the positions of a pilot, evenly spread over a cell because data are often sorted by class.

    Args:
        job: The work of the cell.
        max_passes: Number of passes that the pilot can afford.
        own_positions: The ascending positions that are run; None: all.

    Returns:
        Ascending positions; empty if the pilot can afford no image.
    """
    per_image = sum(job.work_passes) / job.image_count if job.image_count else 0
    wanted = max_passes / max(min(per_image, MIN_PASSES_PER_IMAGE * job.images_per_position), 1)
    own = range(job.image_count) if own_positions is None else own_positions
    count = min(max(int(wanted), MIN_PILOT_IMAGES), MAX_PILOT_IMAGES, len(own))
    if max_passes < count:
        return []
    return [own[index * len(own) // count] for index in range(count)]


def measure_pilot(
    job: Job,
    positions: Sequence[int],
    *,
    batch_size: int,
    max_passes: int,
    seconds: float,
    timeout: float | None,
) -> PilotMeasurement:
    """Run some images of a cell in a process of its own where possible; nothing of it stays.

    Args:
        job: The work of the cell.
        positions: Positions in the cell, at least one.
        batch_size: Images per pass, as in the run.
        max_passes: Number of passes after which an attack is cut short.
        seconds: Seconds that the pilot is meant to take.
        timeout: Seconds within which a pass has to finish; None for no limit.

    Raises:
        ModelTimeoutError: If it takes far longer than it is meant to.
        Exception: The exception of the model or the attack.
    """
    if isinstance(job, CertificateJob):
        work = partial(_measure_certificates, job, list(positions), batch_size, seconds)
    else:
        work = partial(_measure_job, job, list(positions), batch_size, max_passes)
    if can_be_isolated(job):
        deadline = time.monotonic() + _count_waiting_processes() * (
            DEADLINE_FACTOR * seconds + DEADLINE_SECONDS
        )
        return call_isolated(work, timeout=timeout, name=job.model_names, deadline=deadline, threads=1)
    with use_threads(torch.get_num_threads()), catch_process_exit(job.model_names):
        return work()


def _count_waiting_processes() -> float:
    """Return how many processes share a core now, at least 1: so much longer a pilot takes."""
    try:
        return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    except (AttributeError, OSError):  # not on Windows
        return 1.0


def _measure_job(job: Job, positions: list[int], batch_size: int, max_passes: int) -> PilotMeasurement:
    """Measure a job, see `measure_pilot`; a part of the passes follows survivors to the end if it can."""
    began = _read_clock(job)
    with watch_passes(max_passes) as watch:
        try:
            job, _ = adapt_job(job, batch_size=batch_size, isolation=IsolationSettings())
        except PassLimitReachedError:
            spent = _read_clock(job) - began
            return PilotMeasurement(images=0, passes=watch.passes, seconds=spent, total_seconds=spent)
    most = sum(job.max_passes) / job.image_count
    followed = min(int(FOLLOW_UP_SHARE * max_passes / most), MAX_FOLLOWED_IMAGES)
    # all images side by side, so that none waits for a place in the batch when the attack is cut short
    with prepare_models(job, max(batch_size, len(positions))):
        _pass_one_batch(job, positions, batch_size)
        measured = _run_images(job, positions, max_passes - int(followed * most))
        survivors = _find_survivors(job, positions, measured.left) if followed else []
        more = _run_images(job, survivors[:followed], None) if survivors else None
    seconds = measured.seconds + (more.seconds if more else 0.0)
    extra = more.passes if more else 0
    return PilotMeasurement(
        images=len(positions) - measured.left.waiting,  # of these nothing is known
        passes=measured.passes,
        # all passes tell what one of them takes
        seconds=seconds * measured.passes / max(measured.passes + extra, 1),
        unfinished=min(len(measured.left.rows), len(positions)),
        unfinished_passes=min(measured.left.passes, measured.passes),
        followed=len(survivors[:followed]),
        followed_passes=extra,
        survived=more.survived if more else 0,
        survived_passes=more.survived_passes if more else 0,
        max_passes_per_image=most,
        peak_bytes=_read_peak_bytes(job.queried_model.device),
        total_seconds=_read_clock(job) - began,
        image_seconds=seconds,
        certified=measured.certified,
    )


def _measure_certificates(
    job: CertificateJob, positions: list[int], batch_size: int, seconds: float
) -> PilotMeasurement:
    """Measure a certificate on whole images, for as long as the pilot is meant to take.

    It is not cut short after a number of passes: votes are taken image by image, so that the images after the
    last one would look as if they needed none, and bounds take no passes at all. The first parts are small.
    """
    began, part, parts = _read_clock(job), 1, list[_Spent]()
    waiting = sorted(positions, key=lambda position: positions.index(position) * _GOLDEN_SECTION % 1)
    done: list[int] = []
    with prepare_models(job, batch_size):
        _pass_one_batch(job, positions, batch_size)
        while waiting and (not parts or 2 * parts[-1].seconds <= seconds - (_read_clock(job) - began)):
            parts.append(_run_images(job, sorted(waiting[:part]), None))
            done, waiting, part = done + waiting[:part], waiting[part:], 2 * part
    passes, last = sum(spent.passes for spent in parts), parts[-1]
    return PilotMeasurement(
        images=len(done),
        passes=passes,
        seconds=last.seconds * passes / max(last.passes, 1),  # the largest part, as in the run
        max_passes_per_image=sum(job.max_passes) / job.image_count,
        peak_bytes=_read_peak_bytes(job.queried_model.device),
        total_seconds=_read_clock(job) - began,
        image_seconds=sum(spent.seconds for spent in parts),
        certified=frozenset(image for spent in parts for image in spent.certified),
    )


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """What running some images took."""

    passes: int
    seconds: float
    left: UnfinishedImages
    certified: frozenset[str] = frozenset()
    survived: int = 0
    survived_passes: int = 0


def _run_images(job: Job, positions: list[int], max_passes: int | None) -> _Spent:
    """Run some images, cut short after a number of passes; None: to the end."""
    batch: OutcomeBatch | None = None
    with watch_passes(sys.maxsize if max_passes is None else max_passes) as watch:
        started = _read_clock(job)
        with suppress(PassLimitReachedError):
            batch = job.run(positions)
        seconds = _read_clock(job) - started
    if batch is None:
        return _Spent(passes=watch.passes, seconds=seconds, left=watch.find_unfinished_images())
    survived = [row for row in batch.outcomes if row.clean_correct and not row.broken]
    return _Spent(
        passes=sum(row.forward_passes + row.backward_passes for row in batch.outcomes),
        survived=len(survived),
        survived_passes=sum(row.forward_passes + row.backward_passes for row in survived),
        seconds=seconds,
        left=UnfinishedImages(),
        certified=frozenset(row.image for row in batch.outcomes if row.certified),
    )


def _find_survivors(job: Job, positions: list[int], left: UnfinishedImages) -> list[int]:
    """Find the positions of unfinished images; empty if the counted images cannot be told apart."""
    data, model = job.select_images(positions), job.classifier
    with torch.no_grad():
        answers = model(data.images.to(model.device)).argmax(dim=1).cpu()
    attacked = [position for position, right in zip(positions, answers == data.labels, strict=True) if right]
    return [attacked[row] for row in left.rows] if len(attacked) == left.counted else []


def _pass_one_batch(job: Job, positions: list[int], batch_size: int) -> None:
    """Send one batch of the run's size through the model: its memory is that of the run, and it warms up."""
    model = job.queried_model
    images = job.select_images(positions).images
    batch = images[torch.arange(min(batch_size, job.image_count)) % len(images)].to(model.device)
    if model.access == "gradients":
        model.compute_gradient(batch, lambda logits: logits.sum(dim=1))
    else:
        model(batch)


def _read_clock(job: Job) -> float:
    """Return the seconds of CPU time of this process; on an accelerator of the wall, with its queue done."""
    device = job.queried_model.device
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _read_peak_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of this process, or of the tensors on a CUDA device."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return read_own_peak_bytes()
