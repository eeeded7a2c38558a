"""The strongest finding of targeted attacks: the source and target classes with the highest success."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustbench_local.cluster_statistics import Marks, build_share_estimator
from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import compute_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import format_mark, select_blocks, select_cell_distrust
from robustbench_local.reports.formatting.text import (
    format_budget,
    format_interval,
    format_percent,
    format_sample,
    isolate_direction,
)
from robustbench_local.smallest_share import estimate_smallest_share
from robustbench_local.statistics import Estimate, invert_share


@dataclass(frozen=True, kw_only=True)
class ClassPair:
    """A targeted attack, seen from one source class to one target class."""

    cell: CellResult
    """The attack on one model."""
    source: int
    """The correct class of the images."""
    target: int
    """The class that they are misclassified as."""
    missed: Marks
    """Image id -> whether the attack did not reach the target, over the correctly classified images."""


@dataclass(frozen=True, kw_only=True)
class StrongestPair:
    """The pair of the highest success over all targeted attacks and models of a run."""

    pair: ClassPair
    """The pair."""
    success: Estimate
    """Share of its images that are misclassified as the target, with an interval that accounts for the choice
    of the pair."""
    success_count: int
    """Number of these images."""
    pair_count: int
    """Number of pairs that it was chosen among."""


@compute_once
def find_strongest_pair(evidence: Evidence) -> StrongestPair | None:
    """Find the pair of classes with the highest success of a targeted attack.

    Transfers, stickers and models without a usable number are left out. The interval is that of the largest
    of several shares (see ``estimate_smallest_share``).

    Returns:
        The pair; of equal ones that of most images, then the first of the grid. None if no attack reached a
        target, or there is only one pair.
    """
    pairs = [pair for cell in evidence.cells if _is_counted(evidence, cell) for pair in _list_pairs(cell)]
    if len(pairs) < 2:
        return None
    estimators = [build_share_estimator(pair.missed, evidence.groups) for pair in pairs]
    best = min(pairs, key=lambda pair: (sum(pair.missed.values()) / len(pair.missed), -len(pair.missed)))
    count = sum(not is_missed for is_missed in best.missed.values())
    if not count:
        return None
    smallest = estimate_smallest_share(estimators, estimators[pairs.index(best)])
    return StrongestPair(
        pair=best, success=invert_share(smallest), success_count=count, pair_count=len(pairs)
    )


def describe_strongest_pair(evidence: Evidence) -> str:
    """Describe the strongest pair of classes of targeted attacks in a sentence; empty if there is none."""
    found = find_strongest_pair(evidence)
    if found is None:
        return ""
    cell, share = found.pair.cell, found.success
    record = cell.record
    source, target = (
        isolate_direction(evidence.get_class_name(record.model, index))
        for index in (found.pair.source, found.pair.target)
    )
    mark = format_mark(select_cell_distrust(evidence, cell))
    value = (
        f"{format_percent(share.value)} ({format_interval(share)}, corrected for the choice among "
        f"{found.pair_count:,} combinations of classes, attack and model, {format_sample(share)})"
    )
    return (
        f"Strongest pair of classes: under {format_budget(record.norm, record.eps)}, "
        f"{isolate_direction(str(cell.subject))} misclassifies {source} as {target} on "
        f"{found.success_count:,} of {format_count(len(found.pair.missed), 'image')}: {value}"
        f"{f', {mark}' if mark else ''}."
    )


def _is_counted(evidence: Evidence, cell: CellResult) -> bool:
    return (
        cell.targeted
        and cell.is_done
        and not (cell.has_external_candidates or cell.is_sticker)
        and not select_blocks(evidence, cell.subject)
    )


def _list_pairs(cell: CellResult) -> Iterator[ClassPair]:
    """List the pairs of one attack that have a correctly classified image."""
    by_source: dict[int, dict[str, int | None]] = {}
    for image, (prediction, label) in cell.final_predictions.items():
        reached = prediction if cell.verdicts[image].broken else None
        by_source.setdefault(label, {})[image] = reached
    for source, reached_by_image in sorted(by_source.items()):
        for target in cell.record.targets:
            if target != source:
                missed = {image: reached != target for image, reached in reached_by_image.items()}
                yield ClassPair(cell=cell, source=source, target=target, missed=missed)
