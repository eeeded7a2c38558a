"""Certified accuracy: classifier, guarantee, and curves over the radius beside robust accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.robustness_curves import (
    CurveData,
    CurvePanel,
    ImageMarks,
    MarksByRadius,
    build_common_curves,
    collect_marks,
)
from robustbench_local.reports.formatting.text import (
    format_percent,
    get_attack_family,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.statistics import Estimate

CURVE_STEPS_PER_MARK = 8
"""Steps of a curve from one mark to the next, if each image has its own certified radius."""
_MAX_MARKS = 8
_ROUND_MARKS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Leading digits of the first mark's radius."""
CERTIFIED_EXPLANATION = (
    "Certified accuracy at radius r is the share of all images that are provably classified correctly under "
    "every perturbation within r, whatever the attack. It is a lower bound on robust accuracy. An image "
    "without "
    "a certificate may still be robust."
)
"""How to read the numbers of this section."""
_SMOOTHED_VOTE_NOTE = (
    "these certificates are for the majority vote of the model under Gaussian noise. That is another "
    "classifier than the model itself, and attacks on the model do not test it"
)


@dataclass(frozen=True, kw_only=True)
class CertifiedCell:
    """One certificate of one model under one threat model."""

    cell: CellResult
    """The cell."""

    @property
    def certified_classifier(self) -> str:
        """The certified classifier."""
        if self.cell.record.concerns == "model":
            return "the model itself" if self.cell.subject.defense == "none" else "the defended model itself"
        return f"its majority vote under noise, sigma {self.cell.record.parameters.get('sigma', '?')}"

    @property
    def guarantee(self) -> str:
        """The guarantee of each verdict."""
        alpha = self.cell.record.alpha
        return f"with probability {format_percent(1 - alpha)} for each image" if alpha else "deterministic"

    @property
    def passes_per_image(self) -> float | None:
        """Forward and backward passes per image; None before any image is certified."""
        counts = self.cell.tally
        return (counts.forward_passes + counts.backward_passes) / counts.n if counts.n else None

    @property
    def marks_by_radius(self) -> MarksByRadius:
        """(radius, whether each image is certified at it), ascending from 0; empty unless done."""
        cell = self.cell
        if not cell.is_done:
            return ()
        radii, asked = cell.certified_radii, cell.record.eps
        own = any(radius != asked for radius in radii.values())
        ends = _compute_radii(max(radii.values())) if own else [asked] if asked else []
        start = (0.0, {image: verdict.clean_correct for image, verdict in cell.verdicts.items()})
        return (
            start,
            *((end, {image: radii.get(image, 0.0) >= end for image in cell.verdicts}) for end in ends),
        )

    @property
    def points(self) -> tuple[tuple[float, Estimate], ...]:
        """(radius, certified accuracy over all images), by ascending radius; the accuracy never rises."""
        return tuple(
            (end, estimate_image_share(marks, self.cell.groups)) for end, marks in self.marks_by_radius
        )


@dataclass(frozen=True, kw_only=True)
class CertifiedGroup:
    """All certificates in one norm."""

    norm: str
    """``Linf``, ``L2`` or ``L1``."""
    rows: tuple[CertifiedCell, ...]
    """In the order of the grid."""
    panels: tuple[CurvePanel, ...]
    """Certified accuracy over the radius, one panel per kind of certificate."""

    @property
    def subjects(self) -> frozenset[EvaluatedModel]:
        """The models and defenses that were certified."""
        return frozenset(row.cell.subject for row in self.rows)

    @property
    def has_attack_curves(self) -> bool:
        """Whether a panel shows empirical robust accuracy as well."""
        return any(curve.dotted for panel in self.panels for curve in panel.curves)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the certificates, one sentence each."""
        notes = []
        votes = [row.cell.subject for row in self.rows if row.cell.record.concerns != "model"]
        if votes:
            names = join_in_sentence([isolate_direction(str(subject)) for subject in dict.fromkeys(votes)])
            notes.append(f"Of {names}: {_SMOOTHED_VOTE_NOTE}.")
        if any(row.cell.tally.abstained for row in self.rows):
            notes.append(
                "Where a certificate abstains, it makes no prediction, or stopped before it was sure of one. "
                "Such an image counts as not certified."
            )
        if any(row.cell.record.alpha for row in self.rows):
            notes.append(
                "A probabilistic guarantee holds for each image on its own: among n images, alpha times n "
                "claims are expected to be wrong. The intervals only cover the sampling of images."
            )
        return tuple(notes)


@collect_once
def build_certified_groups(evidence: Evidence) -> list[CertifiedGroup]:
    """Group the certificates of a run by norm."""
    rows = [CertifiedCell(cell=cell) for cell in evidence.certificate_cells]
    norms = dict.fromkeys(row.cell.record.norm for row in rows)
    return [
        _build_group(evidence, norm, [row for row in rows if row.cell.record.norm == norm]) for norm in norms
    ]


def _build_group(evidence: Evidence, norm: str, rows: Sequence[CertifiedCell]) -> CertifiedGroup:
    kinds = dict.fromkeys(_get_certificate_kind(row) for row in rows)
    panels = [
        _build_panel(evidence, norm, [row for row in rows if _get_certificate_kind(row) == kind])
        for kind in kinds
    ]
    return CertifiedGroup(
        norm=norm, rows=tuple(rows), panels=tuple(panel for panel in panels if panel.curves)
    )


def _get_certificate_kind(row: CertifiedCell) -> str:
    """Return the kind of a certificate; certificates of one kind differ only in their radius."""
    return get_attack_family(row.cell.record.attack) + _format_sigma(row)


def _format_sigma(row: CertifiedCell) -> str:
    sigma = row.cell.record.parameters.get("sigma")
    return f", sigma {sigma}" if sigma is not None else ""


def _build_panel(evidence: Evidence, norm: str, rows: Sequence[CertifiedCell]) -> CurvePanel:
    outlines = []
    for subject in evidence.subjects:
        own = [row for row in rows if row.cell.subject == subject and row.marks_by_radius]
        levels = _merge_levels(own)
        if len(levels) < 2:
            continue
        every = CURVE_STEPS_PER_MARK if len(levels) > CURVE_STEPS_PER_MARK else 1
        outlines.append(
            CurveData(
                subject=subject,
                marks_by_radius=levels,
                mark_interval=every,
                value_name="certified",
                groups=evidence.groups,
            )
        )
        attacked = _collect_attacked_marks(evidence, subject, norm)
        if attacked and all(row.cell.record.concerns == "model" for row in own):
            outlines.append(
                CurveData(
                    subject=subject,
                    marks_by_radius=attacked,
                    value_name="under attack",
                    dotted=True,
                    groups=evidence.groups,
                )
            )
    label = rows[0].cell.family_label + _format_sigma(rows[0])
    return CurvePanel(
        norm=norm, attack=label, curves=build_common_curves(outlines), value_name="certified accuracy"
    )


def _merge_levels(rows: Sequence[CertifiedCell]) -> MarksByRadius:
    """Merge certificates into a curve: the one of largest radius, or the verdicts at several radii."""
    if not rows:
        return ()
    longest = max(rows, key=lambda row: (len(row.marks_by_radius), row.marks_by_radius[-1][0]))
    if len(longest.marks_by_radius) > 2:
        return longest.marks_by_radius
    answers = sorted(
        (level for row in rows for level in row.marks_by_radius), key=lambda level: _compute_mean(level[1])
    )
    # at 0 the certificate with fewest abstentions
    return tuple(sorted(dict(answers).items(), key=lambda level: level[0]))


def _collect_attacked_marks(evidence: Evidence, subject: EvaluatedModel, norm: str) -> MarksByRadius:
    """Collect the robust images of a subject under attacks at each radius, clean images at 0 included."""
    verdicts_by_radius = {
        worst.threat.eps: worst.verdicts
        for worst in evidence.worst_cases
        if worst.subject == subject
        and worst.threat.norm == norm
        and not worst.threat.sources
        and worst.verdicts
    }
    return (
        collect_marks(sorted(verdicts_by_radius.items(), key=lambda level: level[0]))
        if verdicts_by_radius
        else ()
    )


def _compute_mean(marks: ImageMarks) -> float:
    return sum(marks.values()) / max(1, len(marks))


def _compute_radii(largest: float) -> list[float]:
    """Compute radii above 0 up to the first mark at or above ``largest``; marks are round numbers."""
    coarse = largest / _MAX_MARKS
    size = 10.0 ** math.floor(math.log10(coarse))
    mark = next(size * head for head in _ROUND_MARKS if size * head >= coarse)
    return [
        mark * step / CURVE_STEPS_PER_MARK
        for step in range(1, CURVE_STEPS_PER_MARK * math.ceil(largest / mark) + 1)
    ]
