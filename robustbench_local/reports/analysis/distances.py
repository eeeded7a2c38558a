"""How far: robustness radii, one an image, from attacks that seek the nearest adversarial image."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat, attack_labels
from robustbench_local.reports.analysis.robustness_curves import Outline, Panel, draw_together
from robustbench_local.statistics import Estimate, Quartiles, clopper_pearson, quartiles

STEPS = 32
"""Radii at which a curve is read, from 0 to eps, 0 not counted."""
NEAREST = "nearest of all"
_MARKS = 8
"""Steps from one mark in a drawing to the next."""
_ROUNDING = 1e-4
"""Share of a radius by which a distance may exceed it and still be inside: x + eps is rounded, too."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far one attack had to go on one model, or the nearest of several attacks on the same images."""

    subject: Subject
    """The model and defense."""
    attack: str | None
    """Attack name; None for the nearest of all."""
    label: str
    """What the attack is called under its threat."""
    distances: Quartiles
    """Over the images that are read correctly untouched; infinite where the image held."""
    unbroken: int
    """Images that held at every distance up to eps. Counted as farther, never dropped."""
    points: tuple[tuple[float, Estimate], ...]
    """(radius, robust accuracy over all images), ascending from 0; never rises."""
    excess: float | None = None
    """Median of this attack's distance over the nearest of all, image by image; None where only one
    attack is compared, infinite if it missed half of the images that others broke."""

    radii: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Image id -> the distance at which it broke, as in ``CellResult``."""

    @property
    def nearest(self) -> bool:
        """Whether this is the nearest of several attacks."""
        return self.attack is None


@dataclass(frozen=True, kw_only=True)
class DistanceGroup:
    """All attacks that sought the nearest adversarial images under one threat."""

    threat: Threat
    """Norm, and the largest distance that counted."""
    targeted: bool
    """Whether only certain classes counted as success."""
    reaches: tuple[Reach, ...]
    """Model by model; after a model's attacks the nearest of all, if there are several."""
    problems: tuple[str, ...] = ()
    """Attacks that have no result, and why, a line each."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Curves over the radius: one panel an attack, the nearest of all first; none over no radius."""
        if not self.threat.eps:
            return ()
        labels = dict.fromkeys(one.label for one in sorted(self.reaches, key=lambda one: not one.nearest))
        panels = (self._panel(label) for label in labels)
        return tuple(panel for panel in panels if panel.curves)

    def _panel(self, label: str) -> Panel:
        shown = (one for one in self.reaches if one.label == label and one.radii)
        outlines = [
            Outline(
                subject=one.subject,
                levels=[(step, _held(step, one.radii)) for step in _steps(self.threat.eps)],
                every=_MARKS,
            )
            for one in shown
        ]
        title = f"{label}, targeted" if self.targeted else label
        return Panel(norm=self.threat.norm, attack=title, curves=draw_together(outlines))


def make_groups(evidence: Evidence) -> list[DistanceGroup]:
    """The attacks that measure distances, a group for each threat and kind of goal."""
    cells = [cell for cell in evidence.cells if measures_distance(cell)]
    keys = dict.fromkeys((cell.threat, cell.targeted) for cell in cells)
    return [
        _group(*key, [cell for cell in cells if (cell.threat, cell.targeted) == key], evidence.subjects)
        for key in keys
    ]


def measures_distance(cell: CellResult) -> bool:
    """Whether a cell's distances are radii of robustness: not those of candidates made for another model."""
    return cell.record.measure == "distance" and not cell.transferred


def reach(cell: CellResult) -> Reach:
    """How far the attack of a done cell had to go."""
    return _reach(cell.subject, cell.record.attack, cell.record.attack, cell.radii, cell.record.eps)


def nearest_radii(cells: Sequence[CellResult]) -> dict[str, float]:
    """The least radius of each image that every one of these done cells was run on."""
    common = [image for image in cells[0].radii if all(image in cell.radii for cell in cells)]
    return {image: min(cell.radii[image] for cell in cells) for image in common}


def nearest_spread(cells: Sequence[CellResult]) -> Quartiles:
    """The distances to the nearest that any of these done cells found, where each may have met some images.

    The images that all of them met give the median; all images together one that is too large, never too
    small, since an attack that has not met an image might have come nearer. As for shares (see
    ``share_met_in_part``) the lower of the two is stated, and each upper end has half the probability of an
    error.
    """
    common = nearest_radii(cells)
    every = {
        image: min(one.radii[image] for one in cells if image in one.radii)
        for cell in cells
        for image in cell.radii
    }
    whole, met = spread(every.values()), spread(common.values())
    if all(image in common or not radius for image, radius in every.items()):
        return whole
    if not met.known:
        return replace(whole, low=0.0)
    half = [spread(radii, level=0.975).high for radii in (common.values(), every.values())]
    stated = min(met, whole, key=lambda one: one.median)
    return replace(stated, low=min(met.low, whole.low), high=min(half))


def spread(radii: Collection[float], *, level: float = 0.95) -> Quartiles:
    """Quartiles of the distance, over the images that are read correctly untouched."""
    return quartiles([radius for radius in radii if radius > 0], level)


def read_curve(radii: Collection[float], eps: float) -> tuple[tuple[float, Estimate], ...]:
    """Robust accuracy at radii from 0 to eps: an image holds at those below its own radius.

    Args:
        radii: One an image: 0 if it is read wrongly untouched, infinite if it was not broken.
        eps: The largest radius, above 0.
    """
    steps = _steps(eps)
    return tuple((step, _held_at(step, radii)) for step in steps)


def _steps(eps: float) -> list[float]:
    return [eps * step / STEPS for step in range(STEPS + 1)]


def _held_at(step: float, radii: Collection[float]) -> Estimate:
    return clopper_pearson(sum(_beyond(step, radius) for radius in radii), len(radii))


def _held(step: float, radii: Mapping[str, float]) -> dict[str, bool]:
    return {image: _beyond(step, radius) for image, radius in radii.items()}


def _beyond(step: float, radius: float) -> bool:
    """Whether an image with this radius holds at a distance; rounding may put it just outside."""
    return radius > step * (1 + _ROUNDING)


def _group(
    threat: Threat, targeted: bool, cells: Sequence[CellResult], subjects: Sequence[Subject]
) -> DistanceGroup:
    labels = attack_labels(cells)
    done = [cell for cell in cells if cell.done]
    found = (_of_subject([cell for cell in done if cell.subject == one], labels) for one in subjects)
    problems = [
        f"{labels[cell.record.attack]} on {cell.subject}: {cell.problem or cell.standing}"
        for cell in cells
        if not cell.done
    ]
    reaches = tuple(one for reaches in found for one in reaches)
    return DistanceGroup(threat=threat, targeted=targeted, reaches=reaches, problems=tuple(problems))


def _of_subject(cells: Sequence[CellResult], labels: Mapping[str, str]) -> list[Reach]:
    single = [replace(reach(cell), label=labels[cell.record.attack]) for cell in cells]
    if len(single) < 2:
        return single
    nearest = nearest_radii(cells)
    compared = [
        replace(one, excess=_excess(cell.radii, nearest)) for one, cell in zip(single, cells, strict=True)
    ]
    return [*compared, _reach(cells[0].subject, None, NEAREST, nearest, cells[0].record.eps)]


def _reach(subject: Subject, attack: str | None, label: str, radii: Mapping[str, float], eps: float) -> Reach:
    return Reach(
        subject=subject,
        attack=attack,
        label=label,
        distances=spread(radii.values()),
        unbroken=sum(math.isinf(radius) for radius in radii.values()),
        points=read_curve(radii.values(), eps),
        radii=radii,
    )


def _excess(radii: Mapping[str, float], nearest: Mapping[str, float]) -> float | None:
    """Median ratio over the images that some attack broke."""
    ratios = [radii[image] / least for image, least in nearest.items() if 0 < least < math.inf]
    return quartiles(ratios).median if ratios else None
