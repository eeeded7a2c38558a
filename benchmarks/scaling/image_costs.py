"""What images cost: passes of each image under AutoAttack, and the time of a worker with some of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

STEP_OVERHEAD = 3.0
"""Time of a step that does not depend on the number of images, in image-passes: 2.8 on a network of 300,000
parameters at 32 px and one thread, 1.5 on a ResNet-18."""
REQUEST_OVERHEAD = 100.0
"""Time of a request to a worker besides its passes, in image-passes: 30 ms of such a network."""
REFILL_SHARE = 0.75
"""The engine's: a batch is filled up once it is smaller than this share of its size."""
CLEAN_PASSES, EARLY_PASSES, ALL_PASSES = 6, 40, 8000
"""Passes of an image that is misclassified without an attack, of one that falls early, and of a survivor."""
MISCLASSIFIED_SHARE, LATE_SHARE = 0.05, 0.05
"""Share of all images that is misclassified without an attack, and that falls at some later stage."""


def draw_image_passes(count: int, robust: float, seed: int = 0) -> np.ndarray:
    """Draw the passes of images under AutoAttack: most either fall early or take all passes.

    Args:
        count: Number of images.
        robust: Share that survives, in [0, 0.9].
        seed: Decides the draw.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.random(count)
    passes = 10 + rng.exponential(EARLY_PASSES, count)
    passes[kinds < MISCLASSIFIED_SHARE + LATE_SHARE] = rng.uniform(100, ALL_PASSES, count)[
        kinds < MISCLASSIFIED_SHARE + LATE_SHARE
    ]
    passes[kinds < MISCLASSIFIED_SHARE] = CLEAN_PASSES
    passes[kinds > 1 - robust] = ALL_PASSES
    return passes


def compute_request_time(passes: Sequence[float], batch_size: int) -> float:
    """Return the time of a worker for some images, in image-passes, with the engine's refilled batch.

    Args:
        passes: Passes of each image, in the order of the queue.
        batch_size: Images per pass.
    """
    time, done, waiting = REQUEST_OVERHEAD, 0.0, list(reversed(passes))
    active: list[float] = []  # the step at which each image leaves
    while active or waiting:
        if len(active) <= REFILL_SHARE * batch_size:
            while waiting and len(active) < batch_size:
                heapq.heappush(active, done + waiting.pop())
        steps = active[0] - done
        time += steps * (STEP_OVERHEAD + len(active))
        done = heapq.heappop(active)
    return time
