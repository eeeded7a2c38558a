"""The pilot of a run: the first images of each large cell, from which the time of the run is estimated.

How long an attack takes depends on how many images it breaks early, which no plan knows. So a few images of
each large cell are attacked before the rest of any. Their outcomes are ordinary ones and are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def choose_pilot_positions(
    job: Job, batch_size: int, own_positions: Sequence[int] | None = None
) -> list[int]:
    """Choose the images of a cell for the pilot, evenly spread because data are often sorted by class.

    Args:
        job: The work of the cell.
        batch_size: Images per pass.
        own_positions: The ascending positions that are run; None: all.

    Returns:
        Ascending positions in the cell; the first group for an attack that draws for groups of images. Empty
        for a cell without a pilot.
    """
    own = range(job.image_count) if own_positions is None else own_positions
    if not own or sum(job.work_passes) * len(own) < MIN_PASSES_FOR_PILOT * job.image_count:
        return []
    most = MAX_PILOT_IMAGES if job.queried_model.device.type == "cpu" else max(batch_size, MAX_PILOT_IMAGES)
    count = min(most, int(MAX_PILOT_SHARE * len(own)))
    if count < MIN_PILOT_IMAGES:
        return []
    if not job.is_divisible:
        return [own[0]]
    return [own[index * len(own) // count] for index in range(count)]
