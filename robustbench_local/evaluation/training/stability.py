"""Accuracy and stability of a network on held-out images: clean, corrupted, and under a weak attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from robustbench_local.attacks.corruption import Corruption
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.mean_intervals import estimate_group_mean
from robustbench_local.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog", "brightness", "contrast", "jpeg_compression")
"""One of each kind: sensor, camera, weather, light, processing."""
SEVERITY = 3
"""Severity of the corruptions, of 1 to 5."""
ATTACK_EPS, ATTACK_STEPS = 1 / 255, 5
"""Linf radius and steps of PGD: a weak attack, which networks without a defense survive in part."""
MAX_STABILITY_IMAGES = 300
"""Most images for corruptions and attack, chosen evenly over the classes and equal for all networks."""

ImageScores = Mapping[str, float]
"""Image id -> share, in [0, 1], of the cases in which the image is classified correctly."""
_BATCH_SIZE = 64
FIGURES = ("clean", "corruption", "attack")
"""The figures of a network."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """The results of a network, or of several trainings of it, image by image.

    Attributes:
        clean: Every image: 1 if it is classified correctly; over several trainings, the share of them.
        corruption: The share of `CORRUPTIONS` under which it is, for at most `MAX_STABILITY_IMAGES` images.
        attack: 1 if it is under PGD with `ATTACK_STEPS` steps at Linf `ATTACK_EPS`, for the same images.
        groups: Group of each image; empty if the images are independent.
    """

    clean: ImageScores
    corruption: ImageScores
    attack: ImageScores
    groups: Groups

    def estimate_figures(self) -> dict[str, Estimate]:
        """Return each figure's mean over the images, with its 95% interval."""
        return {name: estimate_mean(getattr(self, name), self.groups) for name in FIGURES}


def measure_stability(classifier: Classifier, data: Dataset) -> Stability:
    """Measure a network on held-out images with the harness.

    An image counts under a corruption or an attack if it is classified correctly without and with it.

    Args:
        classifier: The network.
        data: Held-out images.
    """
    some = data.select_images(
        choose_images(data.ids, data.labels.tolist(), limit=MAX_STABILITY_IMAGES, seed=0)
    )
    outcomes = [
        evaluate(
            classifier,
            some,
            attack=Corruption(),
            norm="corruption",
            eps=SEVERITY,
            transformation=name,
            diagnostics=False,
        ).outcomes
        for name in CORRUPTIONS
    ]
    attacked = evaluate(
        classifier, some, attack=PGD(steps=ATTACK_STEPS), norm="Linf", eps=ATTACK_EPS, diagnostics=False
    ).outcomes
    return Stability(
        clean=_measure_clean(classifier, data),
        corruption=average_scores([_read_robust(table) for table in outcomes]),
        attack=_read_robust(attacked),
        groups=data.group_by_image,
    )


def average_scores(scores: Sequence[ImageScores]) -> dict[str, float]:
    """Return the mean of each image's scores, which are over the same images."""
    return {image: sum(one[image] for one in scores) / len(scores) for image in scores[0]}


def average_stability(results: Sequence[Stability]) -> Stability:
    """Return the mean over trainings of one network, image by image."""
    means = {name: average_scores([getattr(result, name) for result in results]) for name in FIGURES}
    return Stability(**means, groups=results[0].groups)


def estimate_mean(scores: ImageScores, groups: Groups, level: float = 0.95) -> Estimate:
    """Estimate the mean of images' scores in [0, 1]; a share, where each is 0 or 1.

    Args:
        scores: Image id -> score.
        groups: Group of each image; empty if the images are independent.
        level: Confidence, in (0, 1).
    """
    if all(score in (0, 1) for score in scores.values()):
        return estimate_image_share({image: score == 1 for image, score in scores.items()}, groups, level)
    estimate = estimate_group_mean(
        list(scores.values()), [groups.get(image, image) for image in scores], level=level
    )
    return estimate if groups else Estimate(**{**vars(estimate), "groups": 0})


def _measure_clean(classifier: Classifier, data: Dataset) -> dict[str, float]:
    right: list[bool] = []
    with classifier.evaluation_mode(), torch.no_grad():
        for first in range(0, len(data), _BATCH_SIZE):
            part = slice(first, first + _BATCH_SIZE)
            right += (classifier(data.images[part]).argmax(dim=1).cpu() == data.labels[part]).tolist()
    return {image: float(is_right) for image, is_right in zip(data.ids, right, strict=True)}


def _read_robust(outcomes: pd.DataFrame) -> dict[str, float]:
    robust = outcomes["clean_correct"] & ~outcomes["broken"] & (outcomes["status"] != "error")
    return dict(zip(outcomes["image"].tolist(), robust.astype(float).tolist(), strict=True))
