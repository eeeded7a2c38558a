"""Attempts: the attacks of a cell, stage by stage; an ensemble is several attacks in one cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import compute_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.store import BLACK_BOX_STAGES

MIN_QUERIES = 1000
"""Minimum queries for a failed black-box attack to be evidence of robustness (diagnostic D8)."""
_LOSS_BY_STAGE = {
    "apgd-ce": "ce",
    "apgd-t": "margin",
    "apgd-dlr": "margin",
    "fab": "margin",
    "fab-t": "margin",
}
"""The loss of each stage of an ensemble; a difference of logits counts as the margin."""
_LOSS_ALIASES = {"ce": "ce", "margin": "margin", "dlr": "margin"}
_LOSS_BY_METHOD = {
    "fgsm": "ce",
    "apgd-t": "margin",
    "fab-t": "margin",
    "cw": "margin",
    "deepfool": "margin",
    "fmn": "margin",
    "sigma-zero": "margin",
    "sigma-zero-ball": "margin",
}
"""The loss of attacks without a loss parameter."""
_METHODS_ENDING_WITH_SQUARE = ("autoattack", "reference:autoattack")


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """An attack, or the stages of an ensemble with the same knowledge, on the images it completed."""

    cell: CellResult
    """The cell of the attack."""
    stages: str
    """The stages of an ensemble that belong to it; empty: the whole attack."""
    knowledge: str
    """``white-box``, ``scores``, ``labels``, ``transfer`` or ``naive``."""
    loss: str
    """The loss of its gradients: ``ce`` or ``margin`` (DLR included); empty if neither or several."""
    completed_images: frozenset[str]
    """Correctly classified images on which it completed."""
    broken_images: frozenset[str] = field(repr=False)
    """Images of these with an adversarial example."""

    @cached_property
    def unbroken_images(self) -> frozenset[str]:
        """Completed images without an adversarial example."""
        return self.completed_images - self.broken_images

    @cached_property
    def evaluated_images(self) -> frozenset[str]:
        """All images of the cell on which it completed, images misclassified clean included."""
        return frozenset(image for image, verdict in self.cell.verdicts.items() if verdict.is_known)

    @property
    def name(self) -> str:
        """The attack's label, with the stages of an ensemble."""
        return f"{self.cell.label}, {self.stages}" if self.stages else self.cell.label

    @property
    def method(self) -> str:
        """The registered name of the attack."""
        return str(self.parameters.get("method", ""))

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its hyper-parameters."""
        return self.cell.record.parameters

    @property
    def sees_gradients(self) -> bool:
        """Whether it uses gradients of the model under test."""
        return self.knowledge == "white-box"

    @property
    def is_black_box(self) -> bool:
        """Whether it queries the model under test for scores or labels only."""
        return self.knowledge in {"scores", "labels"}

    @property
    def is_single_step(self) -> bool:
        """Whether it takes a single step, so that iterative attacks should succeed more often."""
        return self.method == "fgsm"

    @property
    def has_enough_queries(self) -> bool:
        """Whether a black-box attack has enough queries for its failures to be evidence."""
        return (self.cell.query_stats.largest or 0) >= MIN_QUERIES


AttemptsByThreat = Mapping[tuple[EvaluatedModel, Threat], Sequence[Attempt]]
"""Attempts by subject and threat model; pairs without attempts are missing."""


@compute_once
def index_attempts(evidence: Evidence) -> AttemptsByThreat:
    """Index every completed untargeted attempt; ensembles are split."""
    attempts_by_threat: defaultdict[tuple[EvaluatedModel, Threat], list[Attempt]] = defaultdict(list)
    for cell in evidence.attack_cells:
        if cell.is_done and not (cell.targeted or cell.is_sticker or cell.is_corruption):
            attempts_by_threat[cell.subject, cell.threat] += split_cell(cell)
    return attempts_by_threat


def split_cell(cell: CellResult) -> list[Attempt]:
    """Split a done cell into attempts: one, or the gradient stages and Square of an ensemble."""
    met, broken = (
        _select_completed_images(cell.verdicts),
        frozenset(i for i, one in cell.verdicts.items() if one.broken),
    )
    knowledge = cell.record.knowledge
    if knowledge != "white-box" or not (cell.successful_stages or _ends_with_square(cell)):
        loss = _find_loss(cell.record.parameters) if knowledge == "white-box" else ""
        return [_build_attempt(cell, "", knowledge, loss, met, broken)]
    by_square = frozenset(image for image in broken if cell.successful_stages.get(image) in BLACK_BOX_STAGES)
    attempts = [_build_attempt(cell, "gradient stages", "white-box", "", met, broken - by_square)]
    if by_square or _ends_with_square(cell):
        attempts.append(_build_attempt(cell, "square", "scores", "", (met - broken) | by_square, by_square))
    return attempts


def split_by_loss(cell: CellResult) -> list[Attempt]:
    """Split the gradient stages of an ensemble by loss; later stages attack what earlier ones missed."""
    attempts = []
    remaining_images = _select_completed_images(cell.verdicts)
    for loss in ("ce", "margin"):
        broken = frozenset(
            i for i in remaining_images if _LOSS_BY_STAGE.get(cell.successful_stages.get(i, "")) == loss
        )
        attempts.append(
            _build_attempt(
                cell, f"stages on the {_LOSS_NAMES[loss]}", "white-box", loss, remaining_images, broken
            )
        )
        remaining_images = remaining_images - broken
    return attempts


_LOSS_NAMES = {"ce": "cross-entropy", "margin": "margin"}


def _build_attempt(
    cell: CellResult, stage: str, knowledge: str, loss: str, met: Iterable[str], broken: Iterable[str]
) -> Attempt:
    return Attempt(
        cell=cell,
        stages=stage,
        knowledge=knowledge,
        loss=loss,
        completed_images=frozenset(met),
        broken_images=frozenset(broken),
    )


def _select_completed_images(verdicts: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(image for image, one in verdicts.items() if one.is_known and one.clean_correct)


def _find_loss(parameters: Mapping[str, Any]) -> str:
    named = _LOSS_ALIASES.get(str(parameters.get("loss", "")))
    return named or _LOSS_BY_METHOD.get(str(parameters.get("method", "")), "")


def _ends_with_square(cell: CellResult) -> bool:
    parameters = cell.record.parameters
    return parameters.get("method") in _METHODS_ENDING_WITH_SQUARE and parameters.get("version") != "rand"
