"""Findings about data: what is wrong, how serious it is, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""``error``: figures measured on the data would be wrong, or the data cannot be read as they are.
``warning``: worth a look. ``note``: good to know."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
CHECKS: Mapping[str, tuple[Severity, str, str]] = {
    "unreadable": ("error", "file that cannot be used", "files that cannot be used"),
    "same-image-across-splits": ("error", "image in two splits", "images in two splits"),
    "near-duplicate-across-splits": (
        "error",
        "near-duplicate across splits",
        "near-duplicates across splits",
    ),
    "object-across-splits": (
        "error",
        "image of an object in two splits",
        "images of objects in two splits",
    ),
    "contradictory-labels": (
        "error",
        "image with the label of another class than its copy",
        "images with the label of another class than their copies",
    ),
    "class-missing-in-training": (
        "error",
        "class of another split without a training image",
        "classes of another split without a training image",
    ),
    "names-across-splits": (
        "warning",
        "object, by the names of files, with images in two splits",
        "objects, by the names of files, with images in two splits",
    ),
    "possible-duplicate-across-splits": (
        "warning",
        "possible duplicate across splits",
        "possible duplicates across splits",
    ),
    "likely-wrong-label": ("warning", "likely wrong label", "likely wrong labels"),
    "same-image": ("warning", "image twice in a split", "images twice in a split"),
    "near-duplicate": ("warning", "near-duplicate in a split", "near-duplicates in a split"),
    "blank-image": ("warning", "image of one color", "images of one color"),
    "extreme-shape": ("warning", "very long or very small image", "very long or very small images"),
    "empty-class": ("warning", "class without images", "classes without images"),
    "class-missing-in-test": (
        "warning",
        "class missing in a split",
        "classes missing in a split",
    ),
    "similar-class-names": (
        "warning",
        "pair of class names that differ in case or spaces only",
        "pairs of class names that differ in case or spaces only",
    ),
    "few-images": ("warning", "class with few images", "classes with few images"),
    "imbalance": ("warning", "split with unbalanced classes", "splits with unbalanced classes"),
    "conversion": ("note", "conversion on reading", "conversions on reading"),
    "sizes": ("note", "split with images of many sizes", "splits with images of many sizes"),
    "not-checked": ("note", "check that was not possible", "checks that were not possible"),
}
"""Name of each check, in the order of reports: its severity, and its noun in singular and plural."""


@dataclass(frozen=True, kw_only=True)
class DataFinding:
    """One finding.

    Attributes:
        check: A key of ``CHECKS``.
        detail: What is wrong, as a phrase.
        split: Split of the image or class.
        image: Id of the image, as in a data set; empty for a finding about a class or a split.
        label: Name of its class.
        other_split: Split of the image that is the evidence.
        other_image: Its id.
        other_label: Name of its class.
        likelier_label: The class that the image looks like.
        probability: Out-of-sample probability of that class, in [0, 1].
        given_probability: The same of the class that the data give.
        likeness: Correlation of two images at their best alignment, at most 1; 1 for identical pixels.
        is_exclusion_suggested: Whether leaving out this image would mend it.
    """

    check: str
    detail: str
    split: str = ""
    image: str = ""
    label: str = ""
    other_split: str = ""
    other_image: str = ""
    other_label: str = ""
    likelier_label: str = ""
    probability: float | None = None
    given_probability: float | None = None
    likeness: float | None = None
    is_exclusion_suggested: bool = False

    @property
    def severity(self) -> Severity:
        """How serious it is."""
        return CHECKS[self.check][0]
