"""Success of adversarial examples that may be submitted again, against models with random answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.resubmission_statistics import MAX_TRIES, ResubmissionPoint, estimate_resubmission
from robustbench_local.statistics import Estimate

CURVE_TRIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, MAX_TRIES)
"""The numbers of submissions of a curve."""
TABLE_TRIES = (1, 10, 100, MAX_TRIES)
"""Those of a table."""
RANDOM_NOTES = ("draws random numbers", "answers differ from call to call", "answers at random")
"""Beginnings of the notes about models whose answers are random."""

DrawCounts = Mapping[str, tuple[int, int]]
"""Image id -> (successful draws, draws)."""


@dataclass(frozen=True, kw_only=True)
class ResubmissionCurve:
    """An attack on a model with random answers, whose adversarial examples are submitted again and again."""

    cell: CellResult
    """The cell."""
    points: tuple[ResubmissionPoint, ...]
    """One for each of `CURVE_TRIES`."""
    draws: int
    """Smallest number of draws of an image; beyond it only bounds are known."""
    unknown_count: int
    """Correctly classified images without draws, because the model raised; they are left out."""
    fixed_draw_accuracy: Estimate
    """Robust accuracy if attacker and harness see one fixed draw; unknown if the draw was not fixed."""

    @property
    def subject(self) -> EvaluatedModel:
        """The model and defense."""
        return self.cell.subject

    @property
    def table_points(self) -> tuple[ResubmissionPoint, ...]:
        """The points of a table."""
        return tuple(point for point in self.points if point.tries in TABLE_TRIES)


@collect_once
def build_resubmission_curves(evidence: Evidence) -> Iterator[ResubmissionCurve]:
    """Build one curve for each finished attack on a model with random answers."""
    for cell in evidence.cells:
        if cell.is_done and any(draws for _, draws in cell.draw_counts.values()):
            yield _build_curve(cell)


def estimate_success(
    counts: DrawCounts, tries: Sequence[int], groups: Groups
) -> tuple[ResubmissionPoint, ...]:
    """Estimate the success of N submissions over images with draws; the interval is over their groups."""
    known = {image: (k, m) for image, (k, m) in counts.items() if m}
    names = [groups.get(image, image) for image in known] if groups else None
    return estimate_resubmission(
        [k for k, _ in known.values()], [m for _, m in known.values()], tries, groups=names
    )


def find_worst_counts(
    cells: Sequence[CellResult], broken_elsewhere: Collection[str] = ()
) -> tuple[dict[str, tuple[int, int]], int]:
    """Find, for each image, the counts of the attack whose candidate succeeds most often.

    An attack without any draws is one on a model whose answers are not random: its candidates succeed always
    or never. The choice of the best candidate by its counts can only raise the estimate.

    Args:
        cells: Finished cells on one model.
        broken_elsewhere: Ids of images on which another attack of the run succeeded inside the ball: they
            count as successes in every draw.

    Returns:
        The counts of the images that are correctly classified clean, and the number of those images that are
        left out because some attack has no draws of them.
    """
    worst: dict[str, tuple[int, int]] = {}
    unknown: set[str] = set()
    for cell in cells:
        is_random = any(draws for _, draws in cell.draw_counts.values())
        for image, verdict in cell.verdicts.items():
            if not verdict.clean_correct:
                continue
            k, m = cell.draw_counts.get(image, (0, 0))
            if not m and (is_random or not verdict.is_known):
                unknown.add(image)
                continue
            counts = (k, m) if m else (MAX_TRIES * verdict.broken, MAX_TRIES)
            before = worst.get(image, (0, 1))
            if image not in worst or counts[0] * before[1] > before[0] * counts[1]:
                worst[image] = counts
    worst |= {image: (MAX_TRIES, MAX_TRIES) for image in broken_elsewhere if image in worst}
    return {image: counts for image, counts in worst.items() if image not in unknown}, len(unknown)


def has_random_answers(evidence: Evidence, subject: EvaluatedModel) -> bool:
    """Return whether the run knows that a model's answers are random, by its diagnostics or its notes."""
    for result in evidence.diagnostics.results:
        is_own = (result.model, result.defense) == (subject.model, subject.defense)
        if result.id == "D4" and is_own and result.status not in {"ok", "not run"}:
            return True
    return any(
        str(note).startswith(RANDOM_NOTES)
        for about in evidence.models
        if (about.get("id"), about.get("defense")) == (subject.model, subject.defense)
        for note in about.get("notes") or ()
    )


def group_by_attack(curves: Sequence[ResubmissionCurve]) -> list[tuple[str, list[ResubmissionCurve]]]:
    """Group curves by their attack: its label and its curves, one for each model."""
    labels = dict.fromkeys(curve.cell.label for curve in curves)
    return [(label, [curve for curve in curves if curve.cell.label == label]) for label in labels]


def _build_curve(cell: CellResult) -> ResubmissionCurve:
    known = [draws for _, draws in cell.draw_counts.values() if draws]
    fixed = {
        image: cell.verdicts[image].clean_correct and not broken
        for image, broken in cell.fixed_draw_successes.items()
    }
    wrong = {image: False for image, verdict in cell.verdicts.items() if not verdict.clean_correct}
    return ResubmissionCurve(
        cell=cell,
        points=estimate_success(cell.draw_counts, CURVE_TRIES, cell.groups),
        draws=min(known),
        unknown_count=cell.tally.clean_correct - len(known),
        fixed_draw_accuracy=estimate_image_share(wrong | fixed if fixed else {}, cell.groups),
    )
