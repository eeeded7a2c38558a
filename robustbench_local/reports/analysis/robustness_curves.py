"""Robust accuracy over eps, as data: one panel a norm and family of attacks.

All values of a panel are shares of the same images, so that lines that fall apart, or touch, do so because of
the models and not because an attack with a limit met other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import EvaluatedModel, Evidence, ImageVerdict
from robustbench_local.reports.formatting.text import get_attack_family
from robustbench_local.statistics import Estimate, compute_clopper_pearson

ImageMarks = Mapping[str, bool]
"""Image id -> whether it counts: it holds, or a proof was found."""
MarksByRadius = Sequence[tuple[float, ImageMarks]]
"""(eps, marks), in any order."""


@dataclass(frozen=True, kw_only=True)
class RobustnessCurve:
    """One model's robust accuracy at each radius, from clean images at 0 on."""

    subject: EvaluatedModel
    """The model and defense."""
    points: tuple[tuple[float, Estimate], ...]
    """(eps, robust accuracy), ascending, all over the same images."""
    mark_interval: int = 1
    """A mark and a label stand at the first point and at each one that is this many further on."""
    value_name: str = ""
    """What the values are, where a panel shows more than one thing."""
    dotted: bool = False
    """Whether it is drawn beside another curve of its model, to compare."""

    @property
    def n(self) -> int:
        """Images behind each point."""
        return self.points[0][1].n

    @property
    def marked_points(self) -> tuple[tuple[float, Estimate], ...]:
        """The points that get a mark."""
        return self.points[:: self.mark_interval]

    def __str__(self) -> str:
        return f"{self.subject}, {self.value_name}" if self.value_name else str(self.subject)


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """What a curve is to be drawn from, image by image."""

    subject: EvaluatedModel
    """The model and defense."""
    marks_by_radius: MarksByRadius
    """What is known at each radius; each may be about other images."""
    mark_interval: int = 1
    """As in ``RobustnessCurve``."""
    value_name: str = ""
    """As in ``RobustnessCurve``."""
    dotted: bool = False
    """As in ``RobustnessCurve``."""

    @property
    def common_images(self) -> list[str]:
        """The images that every level knows, in the order of the first."""
        first, *others = (marks for _, marks in self.marks_by_radius)
        return [image for image in first if all(image in marks for marks in others)]

    def build_curve(self, images: Sequence[str]) -> RobustnessCurve:
        """The curve over these images, which every level knows."""
        ordered = sorted(self.marks_by_radius, key=lambda level: level[0])
        return RobustnessCurve(
            subject=self.subject,
            points=tuple((eps, _estimate_share(marks, images)) for eps, marks in ordered),
            mark_interval=self.mark_interval,
            value_name=self.value_name,
            dotted=self.dotted,
        )


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """The curves of all models under one norm and one kind of attack."""

    norm: str
    """``Linf``, ``L2``, ``L1`` or ``spatial``."""
    attack: str
    """Family of the attack, or the worst case."""
    curves: tuple[RobustnessCurve, ...]
    """One a model that was measured at two radii at least."""
    value_name: str = "robust accuracy"
    """What the values are."""

    @property
    def radii(self) -> list[float]:
        """Every radius at which some curve has a mark, ascending, 0 included."""
        return sorted({eps for curve in self.curves for eps, _ in curve.marked_points})

    @property
    def title(self) -> str:
        """What is shown, and of how many images."""
        sizes = sorted({curve.n for curve in self.curves})
        several = "other images each, " if len(sizes) > 1 else ""
        numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
        return f"{self.attack} ({several}n = {numbers})"


def list_drawn_models(panels: Sequence[CurvePanel]) -> list[EvaluatedModel]:
    """The models that have a curve in some panel, each once: what a legend has to name."""
    return list(dict.fromkeys(curve.subject for panel in panels for curve in panel.curves))


def build_common_curves(outlines: Sequence[CurveData]) -> tuple[RobustnessCurve, ...]:
    """Curves that are compared, over the images that all of them know.

    Where there are none, each is drawn over the images that its own levels share, and one without any not at
    all; the panel's title says that they are of other images.
    """
    each = [outline.common_images for outline in outlines]
    if not each:
        return ()
    shared = set(each[0]).intersection(*each[1:])
    common = [image for image in each[0] if image in shared]
    chosen = [common or images for images in each]
    return tuple(
        outline.build_curve(images) for outline, images in zip(outlines, chosen, strict=True) if images
    )


def collect_marks(verdicts: Sequence[tuple[float, Mapping[str, ImageVerdict]]]) -> MarksByRadius:
    """What held at each radius, and at 0, unless that was measured, what is correctly classified."""
    held = [(eps, {image: one.robust for image, one in known.items()}) for eps, known in verdicts]
    if any(eps == 0 for eps, _ in verdicts):
        return held
    clean = {image: one.clean_correct for _, known in verdicts for image, one in known.items()}
    return [(0.0, clean), *held]


@collect_once
def build_curve_panels(evidence: Evidence) -> list[CurvePanel]:
    """The panels worth drawing: those with two radii or more.

    For each norm the per-image worst case comes first, if any radius saw more than one attack; then
    each family of attacks that was run at several radii.
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
            outlines.append(CurveData(subject=subject, marks_by_radius=collect_marks(verdicts)))
    return CurvePanel(norm=norm, attack=attack, curves=build_common_curves(outlines))


def _list_attack_families(evidence: Evidence, norm: str) -> list[tuple[str, str]]:
    """Families of attacks in a norm, in the order of the grid, each with its label."""
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
        and cell.verdicts
    ]


def _covers_all_classes(norm: str, wanted: str, sources: Sequence[int]) -> bool:
    """Whether verdicts belong on the curve: of the right norm, and about all classes."""
    return norm == wanted and not sources


def _estimate_share(marks: ImageMarks, images: Sequence[str]) -> Estimate:
    return compute_clopper_pearson(sum(marks[image] for image in images), len(images))
