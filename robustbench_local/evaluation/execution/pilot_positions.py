"""The pilot of a run: the first images of each large cell, from which the time of the run is estimated.

How long an attack takes depends on how many images it breaks early, which no plan knows. So a few images of
each large cell are attacked before the rest of any. Their outcomes are ordinary ones and are kept.
"""

from __future__ import annotations

from robustbench_local.evaluation.harness.job import Job

MAX_PILOT_IMAGES = 8
"""Maximum number of images of a cell in the pilot on a CPU; elsewhere a batch, which takes no longer."""
MAX_PILOT_SHARE = 0.25
"""Maximum share of the images of a cell in the pilot."""
MIN_PILOT_IMAGES = 3
"""Minimum number of images of a cell in the pilot: as many failures as show that the model is their cause."""
MIN_PASSES_FOR_PILOT = 400_000
"""Maximum number of passes of a cell from which on it has a pilot. A pass over its few images takes nearly as
long as one over a batch, so that it would make smaller cells, which are few batches, clearly slower."""


def choose_pilot_positions(job: Job, batch_size: int) -> list[int]:
    """Choose the images of a cell for the pilot, evenly spread because data are often sorted by class.

    Args:
        job: The work of the cell.
        batch_size: Images per pass.

    Returns:
        Ascending positions in the cell; the first group for an attack that draws for groups of images. Empty
        for a cell without a pilot.
    """
    if sum(job.max_passes) < MIN_PASSES_FOR_PILOT:
        return []
    most = MAX_PILOT_IMAGES if job.queried_model.device.type == "cpu" else max(batch_size, MAX_PILOT_IMAGES)
    count = min(most, int(MAX_PILOT_SHARE * job.image_count))
    if count < MIN_PILOT_IMAGES:
        return []
    if not job.is_divisible:
        return [0]
    return [index * job.image_count // count for index in range(count)]
