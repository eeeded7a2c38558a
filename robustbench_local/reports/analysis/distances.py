"""Distances: robustness radii per image, from minimum-norm attacks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from robustbench_local.cluster_statistics import Groups, compute_image_quartiles, estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.family_labels import build_family_labels
from robustbench_local.reports.analysis.robustness_curves import CurveData, CurvePanel, build_common_curves
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import Estimate, Quartiles, compute_clopper_pearson, compute_quartiles

CURVE_STEPS = 32
"""Number of radii of a curve above 0, up to eps."""
NEAREST_LABEL = "nearest of all"
_STEPS_PER_MARK = 8
"""Radii from one mark of a curve to the next."""
_RADIUS_SLACK_SHARE = 1e-4
"""Relative tolerance of a distance beyond a radius, since x + eps is rounded as well."""


@dataclass(frozen=True, kw_only=True)
class AttackDistances:
    """Distances of one attack on one model, or the nearest over several attacks on the same images."""

    subject: EvaluatedModel
    """The model and defense."""
    attack: str | None
    """Attack name; None for the nearest over all attacks."""
    label: str
    """Label of the attack under its threat model."""
    quartiles: Quartiles
    """Quartiles over the correctly classified images; infinite without success."""
    unbroken_count: int
    """Images without success at any distance up to eps. They count as farther and are never dropped."""
    points: tuple[tuple[float, Estimate], ...]
    """(radius, robust accuracy over all images), ascending from 0; the accuracy never rises."""
    distance_ratio: float | None = None
    """Median ratio per image of this attack's distance to the nearest over all attacks; None for a single
    attack, infinite if it failed on half of the images on which others succeeded."""

    radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> distance of the adversarial example, as in ``CellResult``."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image; empty if the images are independent."""

    @property
    def is_nearest(self) -> bool:
        """Whether this is the nearest over several attacks."""
        return self.attack is None


@dataclass(frozen=True, kw_only=True)
class DistanceGroup:
    """All minimum-norm attacks under one threat model."""

    threat: Threat
    """Norm, and the largest distance that counts."""
    targeted: bool
    """Whether only certain classes counted as success."""
    attack_distances: tuple[AttackDistances, ...]
    """Ordered by model; a model's attacks are followed by the nearest over all of them, if several."""
    problems: tuple[str, ...] = ()
    """Attacks without a result and the reason, one line each."""

    @property
    def panels(self) -> tuple[CurvePanel, ...]:
        """Curves over the radius: one panel per attack, the nearest over all first; empty for radius 0."""
        if not self.threat.eps:
            return ()
        labels = dict.fromkeys(
            distances.label
            for distances in sorted(self.attack_distances, key=lambda distances: not distances.is_nearest)
        )
        panels = (self._build_panel(label) for label in labels)
        return tuple(panel for panel in panels if panel.curves)

    def _build_panel(self, label: str) -> CurvePanel:
        shown = (one for one in self.attack_distances if one.label == label and one.radii)
        outlines = [
            CurveData(
                subject=one.subject,
                marks_by_radius=[
                    (step, _mark_robust_images(step, one.radii)) for step in _compute_radii(self.threat.eps)
                ],
                mark_interval=_STEPS_PER_MARK,
                groups=one.groups,
            )
            for one in shown
        ]
        title = f"{label}, targeted" if self.targeted else label
        return CurvePanel(norm=self.threat.norm, attack=title, curves=build_common_curves(outlines))


@collect_once
def build_distance_groups(evidence: Evidence) -> list[DistanceGroup]:
    """Group the attacks that measure distances by threat model and kind of goal."""
    cells = [cell for cell in evidence.cells if measures_distance(cell)]
    keys = dict.fromkeys((cell.threat, cell.targeted) for cell in cells)
    return [
        _build_group(*key, [cell for cell in cells if (cell.threat, cell.targeted) == key], evidence.subjects)
        for key in keys
    ]


def measures_distance(cell: CellResult) -> bool:
    """Return whether a cell's distances are robustness radii; distances of transferred candidates are not."""
    return cell.record.measure == "distance" and not cell.transferred


def compute_attack_distances(cell: CellResult) -> AttackDistances:
    """Compute the distances of the attack of a done cell."""
    return _build_attack_distances(cell, cell.record.attack, cell.label, cell.radii)


def compute_nearest_radii(cells: Sequence[CellResult]) -> dict[str, float]:
    """Compute the smallest radius of each image common to all of these done cells."""
    common = [image for image in cells[0].radii if all(image in cell.radii for cell in cells)]
    return {image: min(cell.radii[image] for cell in cells) for image in common}


def compute_nearest_quartiles(cells: Sequence[CellResult]) -> Quartiles:
    """Compute quartiles of the nearest distances over these done cells, whose images may differ.

    The common images give one median. All images together give a median that may be too large but never
    too small, since an attack might be nearer on images it was not run on. As for shares (see
    ``estimate_partial_share``), the result is the lower of the two, and each upper end has half the error
    probability.
    """
    common = compute_nearest_radii(cells)
    all_radii = {
        image: min(other.radii[image] for other in cells if image in other.radii)
        for cell in cells
        for image in cell.radii
    }
    groups = cells[0].groups
    whole, met = compute_radius_quartiles(all_radii, groups), compute_radius_quartiles(common, groups)
    if all(image in common or not radius for image, radius in all_radii.items()):
        return whole
    if not met.is_known:
        return replace(whole, low=0.0)
    half = [compute_radius_quartiles(radii, groups, level=0.975).high for radii in (common, all_radii)]
    stated = min(met, whole, key=lambda quartiles: quartiles.median)
    return replace(stated, low=min(met.low, whole.low), high=min(half))


def compute_radius_quartiles(radii: Mapping[str, float], groups: Groups, *, level: float = 0.95) -> Quartiles:
    """Compute quartiles of the distance over the correctly classified images."""
    return compute_image_quartiles(
        {image: radius for image, radius in radii.items() if radius > 0}, groups, level
    )


def compute_accuracy_curve(
    radii: Mapping[str, float], eps: float, groups: Groups
) -> tuple[tuple[float, Estimate], ...]:
    """Compute robust accuracy at radii from 0 to eps; an image is robust below its own radius.

    Args:
        radii: One per image: 0 if it is misclassified clean, infinite without success.
        eps: The largest radius, above 0.
        groups: Group of each image; empty if the images are independent.
    """
    steps = _compute_radii(eps)
    if groups:
        return tuple((step, estimate_image_share(_mark_robust_images(step, radii), groups)) for step in steps)
    ordered = sorted(radii.values())
    counts = [len(ordered) - bisect_right(ordered, _compute_limit(step)) for step in steps]
    return tuple(
        (step, compute_clopper_pearson(count, len(ordered)))
        for step, count in zip(steps, counts, strict=True)
    )


def _compute_radii(eps: float) -> list[float]:
    return [eps * step / CURVE_STEPS for step in range(CURVE_STEPS + 1)]


def _mark_robust_images(step: float, radii: Mapping[str, float]) -> dict[str, bool]:
    return dict(zip(radii, map(_compute_limit(step).__lt__, radii.values()), strict=True))


def _compute_limit(step: float) -> float:
    """Return the radius above which an image is robust at a distance, with tolerance for rounding."""
    return step * (1 + _RADIUS_SLACK_SHARE)


def _build_group(
    threat: Threat, targeted: bool, cells: Sequence[CellResult], subjects: Sequence[EvaluatedModel]
) -> DistanceGroup:
    labels = build_family_labels(cells)
    done = [cell for cell in cells if cell.is_done]
    found = (
        _compute_model_distances([cell for cell in done if cell.subject == one], labels) for one in subjects
    )
    problems = [
        f"{labels[cell.record.attack]} on {cell.subject}: {cell.problem or cell.reported_status}"
        for cell in cells
        if not cell.is_done
    ]
    reaches = tuple(one for reaches in found for one in reaches)
    return DistanceGroup(threat=threat, targeted=targeted, attack_distances=reaches, problems=tuple(problems))


def _compute_model_distances(cells: Sequence[CellResult], labels: Mapping[str, str]) -> list[AttackDistances]:
    single = [replace(compute_attack_distances(cell), label=labels[cell.record.attack]) for cell in cells]
    if len(single) < 2:
        return single
    nearest = compute_nearest_radii(cells)
    compared = [
        replace(one, distance_ratio=_compute_distance_ratio(cell.radii, nearest))
        for one, cell in zip(single, cells, strict=True)
    ]
    return [
        *compared,
        _build_attack_distances(cells[0], None, NEAREST_LABEL, nearest),
    ]


def _build_attack_distances(
    cell: CellResult, attack: str | None, label: str, radii: Mapping[str, float]
) -> AttackDistances:
    """Build the distances of one attack, or the nearest over several, of which ``cell`` is one."""
    return AttackDistances(
        subject=cell.subject,
        attack=attack,
        label=label,
        quartiles=compute_radius_quartiles(radii, cell.groups),
        unbroken_count=sum(math.isinf(radius) for radius in radii.values()),
        points=compute_accuracy_curve(radii, cell.record.eps, cell.groups),
        radii=radii,
        groups=cell.groups,
    )


def _compute_distance_ratio(radii: Mapping[str, float], nearest: Mapping[str, float]) -> float | None:
    """Compute the median ratio over the images on which some attack succeeded."""
    ratios = [radii[image] / least for image, least in nearest.items() if 0 < least < math.inf]
    return compute_quartiles(ratios).median if ratios else None
