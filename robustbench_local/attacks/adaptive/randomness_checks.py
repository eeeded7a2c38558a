"""Differences between repeated forward passes, and the number of draws that a gradient has to average."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.findings import MAX_ROUNDING_DIFFERENCE, RandomnessFindings
from robustbench_local.attacks.adaptive.fixed_draws import PROBE_SEED, preserve_randomness
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import seed_everything
from robustbench_local.errors import ModelError

REPEATS = 5
"""Forward passes that are compared, and gradients whose variance is measured."""
MAX_DRAWS = 20
"""Largest number of draws of a gradient: what the package's own random defenses use."""
MIN_DRAWS = 10
"""Smallest number of draws of a random model: fewer do not tell a lead from luck."""
MAX_NOISE_SHARE = 0.5
"""Norm of a mean gradient's standard error, relative to the gradient: then its signs are mostly right."""


def check_randomness(classifier: Classifier, images: Tensor, labels: Tensor) -> RandomnessFindings:
    """Compare repeated passes on the same images.

    Args:
        classifier: In evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
    """
    with preserve_randomness(), torch.no_grad():
        logits = torch.stack([classifier(images) for _ in range(REPEATS)])
    unit = F.normalize(logits.double(), dim=2)
    difference = float(torch.nan_to_num((unit - unit[0]).norm(dim=2)).max())
    changed = int((logits.argmax(dim=2) != logits[0].argmax(dim=1)).any(dim=0).sum())
    if difference <= MAX_ROUNDING_DIFFERENCE:
        return RandomnessFindings(max_difference=difference, changed_labels=changed, is_repeated_by_seed=True)
    return RandomnessFindings(
        max_difference=difference,
        changed_labels=changed,
        is_repeated_by_seed=_is_repeated_by_seed(classifier, images),
        draws=max(MIN_DRAWS, _count_draws(classifier, images, labels)),
    )


def _is_repeated_by_seed(classifier: Classifier, images: Tensor) -> bool:
    answers = []
    with preserve_randomness(), torch.no_grad():
        for _ in range(2):
            seed_everything(PROBE_SEED)
            answers.append(classifier(images))
    return torch.equal(*answers)


def _count_draws(classifier: Classifier, images: Tensor, labels: Tensor) -> int:
    """Return the draws after which the mean gradient's error is `MAX_NOISE_SHARE` of it, on the median."""
    if classifier.access != "gradients":
        return 1
    gradients = []
    with preserve_randomness():
        try:
            for _ in range(REPEATS):
                gradient = classifier.compute_gradient(images, lambda logits: compute_margin(logits, labels))[
                    2
                ]
                gradients.append(gradient.flatten(1).double())
        except ModelError:
            return MAX_DRAWS
    several = torch.stack(gradients)
    noise = several.var(dim=0).sum(dim=1)
    signal = (several.mean(dim=0).square().sum(dim=1) - noise / REPEATS).clamp_min(0)
    ratio = float((noise / signal.clamp_min(torch.finfo(torch.float64).tiny)).median())
    if not math.isfinite(ratio):
        return MAX_DRAWS
    return min(MAX_DRAWS, max(1, math.ceil(ratio / MAX_NOISE_SHARE**2)))
