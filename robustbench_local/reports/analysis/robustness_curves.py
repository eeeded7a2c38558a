"""Robust accuracy over eps as data: one panel per norm and family of attacks.

All values of a panel are shares of the same images, so that curves differ because of the models and
not because an attack with an image limit was run on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.formatting.text import get_attack_family
from robustbench_local.statistics import Estimate, compute_clopper_pearson

ImageMarks = Mapping[str, bool]
"""Image id -> whether it is robust or certified."""
MarksByRadius = Sequence[tuple[float, ImageMarks]]
"""(eps, marks), in any order."""


@dataclass(frozen=True, kw_only=True)
class RobustnessCurve:
    """One model's robust accuracy by radius, starting with clean accuracy at 0."""

    subject: EvaluatedModel
    """The model and defense."""
    points: tuple[tuple[float, Estimate], ...]
    """(eps, robust accuracy) by ascending eps, all over the same images."""
    mark_interval: int = 1
    """Every how many points, from the first on, the curve has a mark and a label."""
    value_name: str = ""
    """Name of the values, if a panel shows several quantities."""
    dotted: bool = False
    """Whether it is drawn for comparison with another curve of its model."""

    @property
    def n(self) -> int:
        """Number of images of each point."""
        return self.points[0][1].n

    @property
    def marked_points(self) -> tuple[tuple[float, Estimate], ...]:
        """The points with a mark."""
        return self.points[:: self.mark_interval]

    def __str__(self) -> str:
        return f"{self.subject}, {self.value_name}" if self.value_name else str(self.subject)


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """The data of a curve, image by image."""

    subject: EvaluatedModel
    """The model and defense."""
    marks_by_radius: MarksByRadius
    """Marks at each radius; radii may have different images."""
    mark_interval: int = 1
    """As in ``RobustnessCurve``."""
    value_name: str = ""
    """As in ``RobustnessCurve``."""
    dotted: bool = False
    """As in ``RobustnessCurve``."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image; empty if the images are independent."""

    @property
    def common_images(self) -> list[str]:
        """The images common to all radii, in the order of the first."""
        first, *others = (marks for _, marks in self.marks_by_radius)
        if all(marks.keys() == first.keys() for marks in others):
            return list(first)
        return [image for image in first if all(image in marks for marks in others)]

    def build_curve(self, images: Sequence[str]) -> RobustnessCurve:
        """Build the curve over these images, which all radii have."""
        ordered = sorted(self.marks_by_radius, key=lambda level: level[0])
        return RobustnessCurve(
            subject=self.subject,
            points=tuple((eps, self._estimate_share(marks, images)) for eps, marks in ordered),
            mark_interval=self.mark_interval,
            value_name=self.value_name,
            dotted=self.dotted,
        )

    def _estimate_share(self, marks: Mapping[str, bool], images: Sequence[str]) -> Estimate:
        if self.groups:
            return estimate_image_share({image: marks[image] for image in images}, self.groups)
        return compute_clopper_pearson(sum(map(marks.__getitem__, images)), len(images))


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """The curves of all models under one norm and one kind of attack."""

    norm: str
    """``Linf``, ``L2``, ``L1`` or ``spatial``."""
    attack: str
    """Family of the attack, or the worst case."""
    curves: tuple[RobustnessCurve, ...]
    """One per model that was evaluated at two radii or more."""
    value_name: str = "robust accuracy"
    """Name of the values."""

    @property
    def radii(self) -> list[float]:
        """Radii at which a curve has a mark, ascending, 0 included."""
        return sorted({eps for curve in self.curves for eps, _ in curve.marked_points})

    @property
    def rows(self) -> tuple[tuple[float, tuple[Estimate | None, ...]], ...]:
        """The numbers of the chart: each radius with the value of each curve that has a mark there."""
        marked = [dict(curve.marked_points) for curve in self.curves]
        return tuple((eps, tuple(points.get(eps) for points in marked)) for eps in self.radii)

    @property
    def title(self) -> str:
        """Title: the attack and the number of images."""
        sizes = sorted({curve.n for curve in self.curves})
        several = "other images each, " if len(sizes) > 1 else ""
        numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
        return f"{self.attack} ({several}n = {numbers})"


def list_drawn_models(panels: Sequence[CurvePanel]) -> list[EvaluatedModel]:
    """List the models with a curve in some panel, each once, for the legend."""
    return list(dict.fromkeys(curve.subject for panel in panels for curve in panel.curves))


def build_common_curves(outlines: Sequence[CurveData]) -> tuple[RobustnessCurve, ...]:
    """Build curves over the images that all of them have.

    Without such images, each curve is over the images common to its own radii, and a curve without any
    is dropped; the title of the panel says that the images differ.
    """
    image_lists = [outline.common_images for outline in outlines]
    if not image_lists:
        return ()
    shared = set(image_lists[0]).intersection(*image_lists[1:])
    common = [image for image in image_lists[0] if image in shared]
    chosen = [common or images for images in image_lists]
    return tuple(
        outline.build_curve(images) for outline, images in zip(outlines, chosen, strict=True) if images
    )


def collect_marks(verdicts: Sequence[tuple[float, Mapping[str, ImageVerdict]]]) -> MarksByRadius:
    """Collect robust images by radius, and the correctly classified ones at 0 unless 0 was measured."""
    robust_marks = [
        (eps, {image: verdict.robust for image, verdict in known.items()}) for eps, known in verdicts
    ]
    if any(eps == 0 for eps, _ in verdicts):
        return robust_marks
    clean = {image: verdict.clean_correct for _, known in verdicts for image, verdict in known.items()}
    return [(0.0, clean), *robust_marks]


@collect_once
def build_curve_panels(evidence: Evidence) -> list[CurvePanel]:
    """Build the panels with two radii or more.

    Each norm starts with the worst case per image, if a radius has several attacks. The families of
    attacks with several radii follow.
    """
    panels = []
    for norm in dict.fromkeys(threat.norm for threat in evidence.threats):
        several = any(len(worst.attacks) > 1 for worst in evidence.worst_cases if worst.threat.norm == norm)
        if several:
            title = "worst case over all attacks"
            panels.append(_build_panel(evidence, norm, title, _collect_worst_verdicts))
        panels += [
            _build_panel(evidence, norm, label, partial(_collect_family_verdicts, family=family))
            for family, label in _list_attack_families(evidence, norm)
        ]
    return [panel for panel in panels if panel.curves]


_VerdictsByRadius = list[tuple[float, Mapping[str, ImageVerdict]]]


def _build_panel(
    evidence: Evidence,
    norm: str,
    attack: str,
    read: Callable[[Evidence, EvaluatedModel, str], _VerdictsByRadius],
) -> CurvePanel:
    outlines = []
    for subject in evidence.subjects:
        verdicts = read(evidence, subject, norm)
        if len({eps for eps, _ in verdicts}) >= 2:
            outlines.append(
                CurveData(subject=subject, marks_by_radius=collect_marks(verdicts), groups=evidence.groups)
            )
    return CurvePanel(norm=norm, attack=attack, curves=build_common_curves(outlines))


def _list_attack_families(evidence: Evidence, norm: str) -> list[tuple[str, str]]:
    """List the families of attacks in a norm with their labels, in the order of the grid."""
    labels: dict[str, str] = {}
    for cell in evidence.cells:
        if cell.record.norm == norm and cell.is_in_worst_case:
            labels.setdefault(get_attack_family(cell.record.attack), cell.family_label)
    return list(labels.items())


def _collect_worst_verdicts(evidence: Evidence, subject: EvaluatedModel, norm: str) -> _VerdictsByRadius:
    return [
        (worst.threat.eps, worst.verdicts)
        for worst in evidence.worst_cases
        if worst.subject == subject
        and _covers_all_classes(worst.threat.norm, norm, worst.threat.sources)
        and worst.verdicts
    ]


def _collect_family_verdicts(
    evidence: Evidence, subject: EvaluatedModel, norm: str, *, family: str
) -> _VerdictsByRadius:
    return [
        (cell.record.eps, cell.verdicts)
        for cell in evidence.cells
        if cell.subject == subject
        and cell.is_in_worst_case
        and get_attack_family(cell.record.attack) == family
        and _covers_all_classes(cell.record.norm, norm, cell.record.sources)
        and cell.is_done
        and cell.verdicts
    ]


def _covers_all_classes(norm: str, wanted: str, sources: Sequence[int]) -> bool:
    """Return whether verdicts belong on the curve: of the wanted norm, and over all classes."""
    return norm == wanted and not sources
