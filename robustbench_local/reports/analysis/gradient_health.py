"""Attacks with useless gradients: their failures are no evidence of robustness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.doubt import Doubt
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import join_in_sentence

_BLACK_BOX_KNOWLEDGE = frozenset({"scores", "labels"})
_METHODS_ENDING_WITH_SQUARE = frozenset({"autoattack", "reference:autoattack"})
"""Methods whose last stage is Square, on all remaining images; version ``rand`` has no such stage."""
_SATURATING_LOSS = "ce"
"""The loss whose gradient vanishes where the softmax saturates."""


@collect_once
def find_gradient_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """Find images that count as robust although gradient attacks had no useful gradients there.

    Gradients are useless if at least half of an attack's gradients on the image are exactly zero, or not
    finite and, once repaired, not confirmed by a finite difference; or if the model's gradients do not
    describe its outputs at all. An image is still robust if an attack without gradients failed on it under
    the same threat model (such as Square at the end of AutoAttack), if a white-box attack with useful
    gradients failed, or if it is certified.
    """
    misleading = {
        EvaluatedModel(model=about["id"], defense=about["defense"])
        for about in evidence.models
        if about.get("misleading_gradients")
    }
    for subject in evidence.subjects:
        threats = dict.fromkeys(cell.threat for cell in evidence.cells if cell.subject == subject)
        for threat in threats:
            cells = [cell for cell in evidence.cells if cell.subject == subject and cell.threat == threat]
            own = [
                cell
                for cell in cells
                if cell.is_done and not (cell.has_external_candidates or cell.is_corruption)
            ]
            misled = subject in misleading
            if misled:
                own = [replace(cell, useless_gradient_images=cell.gradient_images) for cell in own]
            doubt = _build_doubt(
                subject, threat, own, _select_certified_images(evidence, subject, threat), misled=misled
            )
            if doubt is not None:
                yield doubt


def _build_doubt(
    subject: EvaluatedModel,
    threat: Threat,
    cells: Sequence[CellResult],
    proven: frozenset[str],
    *,
    misled: bool,
) -> Doubt | None:
    """Build the doubt about one subject under one threat model, if there is any."""
    images: set[str] = set()
    suspects = []
    for cell in cells:
        # an attack without untargeted success cannot have targeted success either
        rivals = [cell, *(other for other in cells if cell.targeted or not other.targeted)]
        open_ones = {image for image in cell.useless_gradient_images - proven if cell.verdicts[image].robust}
        doubtful_images = {
            image for image in open_ones if not any(_is_decisive(rival, image) for rival in rivals)
        }
        if doubtful_images:
            images |= doubtful_images
            suspects.append(cell)
    if not images:
        return None
    names = join_in_sentence(list(dict.fromkeys(cell.label for cell in suspects)))
    gone = "were zero, or not finite and beyond repair, in at least half of the steps"
    if misled:
        gone = "do not describe how the outputs change (finite differences contradict them)"
    saturated = not misled and all(
        cell.record.parameters.get("loss") == _SATURATING_LOSS and not cell.tally.nonfinite_gradients
        for cell in suspects
    )
    margin = "an attack on the margin loss, where the softmax saturates, or " if saturated else ""
    return Doubt(
        subject=subject,
        threat=threat,
        images=frozenset(images),
        reason=f"the gradients of {names} {gone}",
        hint=f"add {margin}a black-box attack such as square",
        diagnostic="D7" if misled else "D6c" if saturated else "D6b",
    )


def _is_decisive(cell: CellResult, image: str) -> bool:
    """Return whether an attack succeeded on an image, or failed without depending on useless gradients."""
    verdict = cell.verdicts.get(image)
    if cell.is_certificate or verdict is None or not verdict.robust:
        return verdict is not None and verdict.broken
    record = cell.record
    if record.knowledge in _BLACK_BOX_KNOWLEDGE:
        return True
    squared = (
        record.parameters.get("method") in _METHODS_ENDING_WITH_SQUARE
        and record.parameters.get("version") != "rand"
    )
    return squared or (image in cell.gradient_images and image not in cell.useless_gradient_images)


def _select_certified_images(evidence: Evidence, subject: EvaluatedModel, threat: Threat) -> frozenset[str]:
    """Select images that are certified under a threat model."""
    own = [
        cell
        for cell in evidence.certificate_cells
        if cell.subject == subject and cell.record.norm == threat.norm and cell.record.concerns == "model"
    ]
    return frozenset(
        image for cell in own for image, radius in cell.certified_radii.items() if radius >= threat.eps
    )
