"""The check of the images before a training: one line, and the findings that matter."""

from __future__ import annotations

from collections.abc import Callable

from robustbench_local.data.checks.check_dataset import DataCheck, check_dataset
from robustbench_local.evaluation.training.train_and_save import TrainingImages

MAX_CHECKED_IMAGES = 20_000
"""Images above which labels are not checked before a training, because it would wait for minutes."""
MIN_CHECKED_IMAGES = 100
"""Images below which labels are not checked: too few to learn from."""


def check_training_images(images: TrainingImages) -> DataCheck:
    """Check the images of a training; labels only where it takes seconds.

    Args:
        images: The images; validation images held out of one source with the training images may show the
            same objects only if the groups are not declared.
    """
    parts = {"train": images.training, "val": images.validation}
    if images.test is not None:
        parts["test"] = images.test
    count = sum(len(part) for part in parts.values())
    return check_dataset(
        parts,
        splits_of_groups=("train", "val"),
        are_labels_checked=MIN_CHECKED_IMAGES <= count <= MAX_CHECKED_IMAGES,
    )


def report_check(images: TrainingImages, report: Callable[[str], None]) -> DataCheck:
    """Check the images of a training, and report one line; the training goes on whatever is found."""
    check = check_training_images(images)
    errors = check.count_checks("error")
    advice = "; look at them with rbl check-data, and leave them out with --exclude" if errors else ""
    report(f"{check.summary}{advice}")
    return check
