"""Robust accuracy over eps, as data: one panel a norm and family of attacks.

All values of a panel are shares of the same images, so that lines that fall apart, or touch, do so because of
the models and not because an attack with a limit met other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import Evidence, Subject, Verdict
from robustbench_local.reports.formatting.text import family
from robustbench_local.statistics import Estimate, clopper_pearson

Marks = Mapping[str, bool]
"""Image id -> whether it counts: it holds, or a proof was found."""
Levels = Sequence[tuple[float, Marks]]
"""(eps, marks), in any order."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model's robust accuracy at each radius, from untouched images at 0 on."""

    subject: Subject
    """The model and defense."""
    points: tuple[tuple[float, Estimate], ...]
    """(eps, robust accuracy), ascending, all over the same images."""
    every: int = 1
    """A mark and a label stand at the first point and at each one that is this many further on."""
    told: str = ""
    """What the values are, where a panel shows more than one thing."""
    dotted: bool = False
    """Whether it is drawn beside another curve of its model, to compare."""

    @property
    def n(self) -> int:
        """Images behind each point."""
        return self.points[0][1].n

    @property
    def marked(self) -> tuple[tuple[float, Estimate], ...]:
        """The points that get a mark."""
        return self.points[:: self.every]

    def __str__(self) -> str:
        return f"{self.subject}, {self.told}" if self.told else str(self.subject)


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a curve is to be drawn from, image by image."""

    subject: Subject
    """The model and defense."""
    levels: Levels
    """What is known at each radius; each may be about other images."""
    every: int = 1
    """As in ``Curve``."""
    told: str = ""
    """As in ``Curve``."""
    dotted: bool = False
    """As in ``Curve``."""

    @property
    def images(self) -> list[str]:
        """The images that every level knows, in the order of the first."""
        first, *others = (marks for _, marks in self.levels)
        return [image for image in first if all(image in marks for marks in others)]

    def draw(self, images: Sequence[str]) -> Curve:
        """The curve over these images, which every level knows."""
        ordered = sorted(self.levels, key=lambda level: level[0])
        return Curve(
            subject=self.subject,
            points=tuple((eps, _share(marks, images)) for eps, marks in ordered),
            every=self.every,
            told=self.told,
            dotted=self.dotted,
        )


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The curves of all models under one norm and one kind of attack."""

    norm: str
    """``Linf``, ``L2``, ``L1`` or ``spatial``."""
    attack: str
    """Family of the attack, or the worst case."""
    curves: tuple[Curve, ...]
    """One a model that was measured at two radii at least."""
    measure: str = "robust accuracy"
    """What the values are."""

    @property
    def radii(self) -> list[float]:
        """Every radius at which some curve has a mark, ascending, 0 included."""
        return sorted({eps for curve in self.curves for eps, _ in curve.marked})

    @property
    def title(self) -> str:
        """What is shown, and of how many images."""
        sizes = sorted({curve.n for curve in self.curves})
        several = "other images each, " if len(sizes) > 1 else ""
        numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
        return f"{self.attack} ({several}n = {numbers})"


def drawn(panels: Sequence[Panel]) -> list[Subject]:
    """The models that have a curve in some panel, each once: what a legend has to name."""
    return list(dict.fromkeys(curve.subject for panel in panels for curve in panel.curves))


def draw_together(outlines: Sequence[Outline]) -> tuple[Curve, ...]:
    """Curves that are compared, over the images that all of them know.

    Where there are none, each is drawn over the images that its own levels share, and one without any not at
    all; the panel's title says that they are of other images.
    """
    each = [outline.images for outline in outlines]
    if not each:
        return ()
    shared = set(each[0]).intersection(*each[1:])
    common = [image for image in each[0] if image in shared]
    chosen = [common or images for images in each]
    return tuple(outline.draw(images) for outline, images in zip(outlines, chosen, strict=True) if images)


def levels_of(verdicts: Sequence[tuple[float, Mapping[str, Verdict]]]) -> Levels:
    """What held at each radius, and at 0, unless that was measured, what is correctly classified."""
    held = [(eps, {image: one.robust for image, one in known.items()}) for eps, known in verdicts]
    if any(eps == 0 for eps, _ in verdicts):
        return held
    clean = {image: one.clean_correct for _, known in verdicts for image, one in known.items()}
    return [(0.0, clean), *held]


def make_panels(evidence: Evidence) -> list[Panel]:
    """The panels worth drawing: those with two radii or more.

    For each norm the per-image worst case comes first, if any radius saw more than one attack; then
    each family of attacks that was run at several radii.
    """
    panels = []
    for norm in dict.fromkeys(threat.norm for threat in evidence.threats):
        several = any(len(worst.attacks) > 1 for worst in evidence.worst_cases if worst.threat.norm == norm)
        families = dict.fromkeys(
            family(cell.record.attack)
            for cell in evidence.cells
            if cell.record.norm == norm and cell.in_worst_case
        )
        if several:
            panels.append(_panel(evidence, norm, "worst case of all attacks", _worst_verdicts))
        panels += [_panel(evidence, norm, name, _family_verdicts) for name in families]
    return [panel for panel in panels if panel.curves]


_Verdicts = list[tuple[float, Mapping[str, Verdict]]]


def _panel(
    evidence: Evidence, norm: str, attack: str, read: Callable[[Evidence, Subject, str, str], _Verdicts]
) -> Panel:
    outlines = []
    for subject in evidence.subjects:
        verdicts = read(evidence, subject, norm, attack)
        if len({eps for eps, _ in verdicts}) >= 2:
            outlines.append(Outline(subject=subject, levels=levels_of(verdicts)))
    return Panel(norm=norm, attack=attack, curves=draw_together(outlines))


def _worst_verdicts(evidence: Evidence, subject: Subject, norm: str, _attack: str) -> _Verdicts:
    return [
        (worst.threat.eps, worst.verdicts)
        for worst in evidence.worst_cases
        if worst.subject == subject
        and _whole(worst.threat.norm, norm, worst.threat.sources)
        and worst.verdicts
    ]


def _family_verdicts(evidence: Evidence, subject: Subject, norm: str, attack: str) -> _Verdicts:
    return [
        (cell.record.eps, cell.verdicts)
        for cell in evidence.cells
        if cell.subject == subject
        and cell.in_worst_case
        and family(cell.record.attack) == attack
        and _whole(cell.record.norm, norm, cell.record.sources)
        and cell.verdicts
    ]


def _whole(norm: str, wanted: str, sources: Sequence[int]) -> bool:
    """Whether verdicts belong on the curve: of the right norm, and about all classes."""
    return norm == wanted and not sources


def _share(marks: Marks, images: Sequence[str]) -> Estimate:
    return clopper_pearson(sum(marks[image] for image in images), len(images))
