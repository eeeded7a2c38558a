"""The check of a batch that another machine returns: that its records are about the images that were sent.

The harness verified every candidate there. Here the records are held against this process's own images, so
that damage on the way, other data on the node, or a candidate outside its ball cannot become a verdict.
"""

from __future__ import annotations

from collections.abc import Collection

from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, format_error_line
from robustbench_local.evaluation.harness.outcome import build_error_outcome, hash_image
from robustbench_local.evaluation.harness.sticker_job import StickerJob
from robustbench_local.evaluation.harness.verify import find_ball_violations


class ReturnedBatchError(Exception):
    """A returned batch is not about the images that were sent; its one argument says why."""


def check_returned_batch(job: Job, batch: OutcomeBatch, positions: Collection[int]) -> None:
    """Check a batch against the images of this process.

    Args:
        job: The job here, with all its images.
        batch: The batch.
        positions: The positions that were sent.

    Raises:
        ReturnedBatchError: If a record is about another cell, image or label, a candidate is not the one that
            was verified, or the candidate of a success is outside its ball.
    """
    found = [row.position for row in batch.outcomes]
    if len(set(found)) < len(found) or not set(found) <= set(positions):
        raise ReturnedBatchError("outcomes of other images than those sent")
    data = job.select_images(found)
    if batch.candidates.shape != data.images.shape:
        raise ReturnedBatchError("candidates of another shape than the images")
    for row, record in enumerate(batch.outcomes):
        own = (job.key, data.ids[row], int(data.labels[row]), hash_image(data.images[row]))
        if (record.cell, record.image, record.label, record.original_hash) != own:
            raise ReturnedBatchError(f"another image than {data.ids[row]}")
    if isinstance(job, StickerJob):  # its records are about views of the signs
        return
    for row, record in enumerate(batch.outcomes):
        if hash_image(batch.candidates[row]) != record.adversarial_hash:
            raise ReturnedBatchError(f"another candidate of {data.ids[row]} than the verified one")
    if isinstance(job, CertificateJob) or not job.threat.is_ball:
        return
    reasons = find_ball_violations(batch.candidates, data.images, job.threat, data.masks)
    for record, reason in zip(batch.outcomes, reasons, strict=True):
        if record.broken and reason is not None:
            raise ReturnedBatchError(f"a candidate of {record.image} that is no success: {reason}")


def build_failed_batch(job: Job, position: int, failure: Exception) -> OutcomeBatch:
    """Build the error outcome of an image that has no verdict; it is not robust.

    Args:
        job: The job.
        position: Position of the image in the cell.
        failure: Why there is no verdict.
    """
    image = job.select_images([position])
    outcome = build_error_outcome(job.key, position, image, format_error_line(failure))
    return OutcomeBatch(outcomes=(outcome,), candidates=image.images.clone())
