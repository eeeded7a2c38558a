"""Attacks of one threat model as phases: cheap ones on many images, expensive ones on a part of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from robustbench_local.cluster_statistics import Marks
from robustbench_local.counted_nouns import format_count
from robustbench_local.phased_estimates import Phase
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.formatting.text import join_in_sentence

MAX_CLASS_SHIFT = 0.05
"""Largest share of a part that would have to be of other classes for it to have the classes of all images.

A limit draws images at random within the classes, as even over the classes as possible. Where the classes of
all images are much less even, the part is no random part of them."""


@dataclass(frozen=True, kw_only=True)
class AttackPhase:
    """Attacks that were run on the same images."""

    attacks: tuple[str, ...]
    """The attacks."""
    attack_labels: tuple[str, ...]
    """Their labels in tables."""
    verdicts: Mapping[str, ImageVerdict] = field(repr=False)
    """Image id -> verdict over the attacks of this phase and of all earlier ones."""


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """Cells of done attacks in phases, the largest number of images first."""

    cells: tuple[tuple[CellResult, ...], ...] = ()
    """The cells of each phase; empty if all have the same images, or if they are no phases."""
    obstacle: str = ""
    """Why attacks with different images are no phases; empty if they are, or all have the same images."""


def plan_phases(cells: Sequence[CellResult]) -> PhasePlan:
    """Arrange done attacks under one threat model in phases, if each has a random part of the images before.

    Args:
        cells: Done cells of one subject and threat model.
    """
    by_images: dict[frozenset[str], list[CellResult]] = {}
    for cell in cells:
        by_images.setdefault(frozenset(cell.verdicts), []).append(cell)
    if len(by_images) < 2:
        return PhasePlan()
    ordered = sorted(by_images, key=len, reverse=True)
    obstacle = _find_obstacle(ordered, by_images)
    if obstacle:
        return PhasePlan(obstacle=obstacle)
    return PhasePlan(cells=tuple(tuple(by_images[images]) for images in ordered))


def has_image_limit(cell: CellResult) -> bool:
    """Return whether the entry of a cell has a limit, so that its images were drawn at random."""
    return cell.record.identity.get("limit", "None") != "None"


def count_phases(marks: Sequence[Marks]) -> list[Phase]:
    """Count images by phase.

    Args:
        marks: For each phase, image id -> whether the image is robust to it and to all earlier ones; each on
            a part of the images of the one before.
    """
    first = Phase(len(marks[0]), len(marks[0]), sum(marks[0].values()))
    later = [
        Phase(len(part), sum(before[image] for image in part), sum(part.values()))
        for before, part in pairwise(marks)
    ]
    return [first, *later]


def describe_phases(phases: Sequence[AttackPhase]) -> str:
    """Describe phases: ``two phases: pgd20 on 600 images, autoattack on 20 of them``."""
    return format_phases([(phase.attack_labels, len(phase.verdicts)) for phase in phases])


def format_phases(phases: Sequence[tuple[Sequence[str], int]]) -> str:
    """Format phases, given the labels of the attacks of each and the number of their images."""
    number = {2: "two", 3: "three"}.get(len(phases), str(len(phases)))
    first, *later = [(join_in_sentence(labels), count) for labels, count in phases]
    parts = [f"{first[0]} on {format_count(first[1], 'image')}"]
    parts += [f"{name} on {count:,} of them" for name, count in later]
    return f"{number} phases: {', '.join(parts)}"


def _find_obstacle(
    ordered: Sequence[frozenset[str]], by_images: Mapping[frozenset[str], Sequence[CellResult]]
) -> str:
    """Say why sets of images, the largest first, are no random parts of each other; empty if they are."""
    if next(iter(by_images.values()))[0].groups:
        return "the images are in groups"
    for larger, smaller in pairwise(ordered):
        names = join_in_sentence([cell.label for cell in by_images[smaller]])
        if not smaller <= larger:
            return f"{names} ran on images that the others did not"
        if not all(has_image_limit(cell) for cell in by_images[smaller]):
            return f"the images of {names} were not drawn at random"
    labels = {image: row.label for image, row in by_images[ordered[0]][0].predictions.items()}
    sizes = Counter(labels[image] for image in ordered[0])
    for part in ordered[1:]:
        if compute_class_shift(sizes, len(part)) > MAX_CLASS_SHIFT:
            names = join_in_sentence([cell.label for cell in by_images[part]])
            count = format_count(len(part), "image")
            return f"the {count} of {names} are even over the classes, and all images are not"
    return ""


def compute_class_shift(sizes: Mapping[int, int], limit: int) -> float:
    """Compute how far the classes of an even choice lie from those of all images: total variation, in [0, 1].

    The choice takes one image of each class in turn, and of the last, incomplete turn random classes.

    Args:
        sizes: Class -> number of images.
        limit: Number of chosen images, at most all.
    """
    left, turn = limit, 0
    while left >= (open_classes := sum(size > turn for size in sizes.values())) > 0:
        left, turn = left - open_classes, turn + 1
    share_of_last_turn = left / open_classes if open_classes else 0.0
    chosen = [min(size, turn) + (share_of_last_turn if size > turn else 0.0) for size in sizes.values()]
    total = sum(sizes.values())
    return sum(abs(a / limit - b / total) for a, b in zip(chosen, sizes.values(), strict=True)) / 2
