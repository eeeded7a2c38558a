"""Robust accuracy over eps, as data: one panel a norm and family of attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustbench_local.reports.evidence import Evidence, Subject
from robustbench_local.reports.words import family
from robustbench_local.statistics import Estimate

Points = list[tuple[float, Estimate]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model's robust accuracy at each radius, from untouched images at 0 on."""

    subject: Subject
    """The model and defense."""
    points: tuple[tuple[float, Estimate], ...]
    """(eps, robust accuracy), ascending."""
    every: int = 1
    """A mark and a label stand at the first point and at each one that is this many further on."""
    told: str = ""
    """What the values are, where a panel shows more than one thing."""
    dotted: bool = False
    """Whether it is drawn beside another curve of its model, to compare."""

    @property
    def marked(self) -> tuple[tuple[float, Estimate], ...]:
        """The points that get a mark."""
        return self.points[:: self.every]

    def __str__(self) -> str:
        return f"{self.subject}, {self.told}" if self.told else str(self.subject)


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


def drawn(panels: Sequence[Panel]) -> list[Subject]:
    """The models that have a curve in some panel, each once: what a legend has to name."""
    return list(dict.fromkeys(curve.subject for panel in panels for curve in panel.curves))


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
            panels.append(_panel(evidence, norm, "worst case of all attacks", _worst_points))
        panels += [_panel(evidence, norm, name, _family_points) for name in families]
    return [panel for panel in panels if panel.curves]


def _panel(
    evidence: Evidence, norm: str, attack: str, measure: Callable[[Evidence, Subject, str, str], Points]
) -> Panel:
    curves = []
    for subject in evidence.subjects:
        points = sorted(measure(evidence, subject, norm, attack), key=lambda point: point[0])
        clean = evidence.clean_accuracy(subject)
        if len({eps for eps, _ in points}) >= 2:
            start = [(0.0, clean)] if clean.known and points[0][0] > 0 else []
            curves.append(Curve(subject=subject, points=(*start, *points)))
    return Panel(norm=norm, attack=attack, curves=tuple(curves))


def _worst_points(evidence: Evidence, subject: Subject, norm: str, _attack: str) -> Points:
    return [
        (worst.threat.eps, worst.robust_accuracy)
        for worst in evidence.worst_cases
        if worst.subject == subject
        and _whole(worst.threat.norm, norm, worst.threat.sources, worst.robust_accuracy)
    ]


def _family_points(evidence: Evidence, subject: Subject, norm: str, attack: str) -> Points:
    return [
        (cell.record.eps, cell.robust_accuracy)
        for cell in evidence.cells
        if cell.subject == subject
        and cell.in_worst_case
        and family(cell.record.attack) == attack
        and _whole(cell.record.norm, norm, cell.record.sources, cell.robust_accuracy)
    ]


def _whole(norm: str, wanted: str, sources: Sequence[int], estimate: Estimate) -> bool:
    """Whether a value belongs on the curve: right norm, all classes, measured."""
    return norm == wanted and not sources and estimate.known
