"""Check labelled images before anything is trained or measured on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.checks.class_checks import check_classes
from robustbench_local.data.checks.copy_checks import check_copies, check_objects
from robustbench_local.data.checks.data_finding import CHECKS, SEVERITIES, DataFinding, Severity
from robustbench_local.data.checks.image_survey import ImageEmbedding, survey_images
from robustbench_local.data.checks.label_checks import check_labels
from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import Dataset, build_class_names
from robustbench_local.data.decode import DecodedImage
from robustbench_local.errors import ConfigError
from robustbench_local.statistics import Estimate

ProgressReport = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """The result of a check.

    Attributes:
        findings: Everything found, errors first.
        images: Split -> number of images that can be read.
        classes: Number of classes with images.
        label_accuracy: Share of labels that the features predict out of sample; None if labels were not
            checked.
    """

    findings: tuple[DataFinding, ...]
    images: Mapping[str, int]
    classes: int
    label_accuracy: Estimate | None

    def count_checks(self, severity: Severity | None = None) -> dict[str, int]:
        """Return check -> number of its findings, in the order of reports, of one severity or of all."""
        counts = Counter(finding.check for finding in self.findings)
        return {
            check: counts[check] for check in CHECKS if counts[check] and severity in (None, CHECKS[check][0])
        }

    @property
    def summary(self) -> str:
        """One line: the number of images, and of errors and warnings by kind."""
        images = format_count(sum(self.images.values()), "image")
        kinds = [
            format_count(count, *CHECKS[check][1:])
            for severity in SEVERITIES[:2]
            for check, count in self.count_checks(severity).items()
        ]
        return (
            f"checked {images} in {format_count(self.classes, 'class')}: {'; '.join(kinds) or 'no findings'}"
        )


def check_dataset(
    parts: Mapping[str, Listing | Dataset],
    *,
    seed: int = 0,
    embed: ImageEmbedding | None = None,
    features: str = "",
    splits_of_groups: Sequence[str] | None = None,
    are_labels_checked: bool = True,
    progress: ProgressReport | None = None,
) -> DataCheck:
    """Check images and labels: copies within and across splits, wrong labels, classes, files.

    Args:
        parts: Split -> its images: a listing, of which every file is tried, or a loaded data set. The first
            is the one to train on.
        seed: Seed of the cross-validation.
        embed: Features of a network for the check of labels; by default oriented gradients and colors.
        features: Name of that network, for messages.
        splits_of_groups: Splits of which a group of the same name is the same object; by default all.
        are_labels_checked: Whether labels are checked, which takes most of the time.
        progress: Called with (what is done, images done, images in total).

    Raises:
        ConfigError: If there is no part.
        DataError: If no image can be read.
    """
    if not parts:
        raise ConfigError("there is nothing to check")
    listings = _name_classes_alike({name: _as_listing(part) for name, part in parts.items()})
    surveyed, findings = survey_images(
        listings, embed=embed, progress=None if progress is None else lambda *at: progress("reading", *at)
    )
    names = {split: _list_known_classes(listing) for split, listing in listings.items()}
    findings += check_classes(surveyed, names)
    findings += check_copies(
        surveyed, None if progress is None else lambda *at: progress("comparing images", *at)
    )
    findings += check_objects(surveyed, list(parts) if splits_of_groups is None else splits_of_groups)
    accuracy = None
    if are_labels_checked:
        if progress is not None:
            progress("checking labels", 0, len(surveyed))
        label_findings, accuracy = check_labels(surveyed, seed=seed, features=features)
        findings += label_findings
    order = list(CHECKS)
    counts = Counter(surveyed.splits)
    return DataCheck(
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.check))),
        images={split: counts[split] for split in parts},
        classes=len(set(surveyed.labels)),
        label_accuracy=accuracy,
    )


def _as_listing(part: Listing | Dataset) -> Listing:
    if isinstance(part, Listing):
        return part
    images = part.images

    def read(position: int) -> DecodedImage:
        image = images[position : position + 1][0]  # large images may be on the disk
        return DecodedImage(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))

    present = torch.bincount(part.labels, minlength=part.num_classes).nonzero().flatten().tolist()
    return Listing(
        name=part.name,
        where=part.name,
        ids=part.ids,
        labels=part.labels.numpy(),
        class_names=part.class_names,
        label_map=part.label_map or {part.class_names[label]: label for label in present},
        read_image=read,
        groups=part.groups,
    )


def _name_classes_alike(listings: dict[str, Listing]) -> dict[str, Listing]:
    """Give numbered classes the names that another split has for them."""
    named = [part.class_names for part in listings.values() if not _is_numbered(part)]
    if not named:
        return listings
    return {
        split: replace(part, class_names=named[0])
        if _is_numbered(part) and len(part.class_names) <= len(named[0])
        else part
        for split, part in listings.items()
    }


def _is_numbered(part: Listing) -> bool:
    return part.class_names == build_class_names(len(part.class_names))


def _list_known_classes(part: Listing) -> tuple[str, ...]:
    """Return the names of the classes that a source has, without gaps in their numbers."""
    return tuple(part.class_names[label] for label in sorted(set(part.label_map.values())))
