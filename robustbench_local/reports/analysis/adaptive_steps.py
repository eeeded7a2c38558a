"""What each step of an adaptive attack was worth beyond AutoAttack's own stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.statistics import Estimate
from robustbench_local.store import AUTOATTACK_STAGES


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step of an adaptive attack."""

    name: str
    """Name of the step."""
    first_successes: Estimate
    """Share of the correctly classified images on which it was the first to succeed."""
    is_extra: bool
    """Whether AutoAttack has no such stage."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveCell:
    """An adaptive attack on one model, step by step."""

    cell: CellResult
    """The cell."""
    steps: tuple[StepResult, ...]
    """In the order in which they ran."""
    extra_successes: Estimate
    """Share of the correctly classified images on which a step beyond AutoAttack's stages was the first."""
    look_images: int
    """Number of images that the look at the model was taken on."""
    look_passes: tuple[int, int]
    """Forward and backward passes of the look, over all its images."""
    attack_passes: tuple[int, int]
    """The same of the steps, over all images."""
    reason: str
    """Why the attack has further steps, or none, in one sentence."""


@collect_once
def build_adaptive_cells(evidence: Evidence) -> Iterator[AdaptiveCell]:
    """Count the first successes of each step, for every finished cell of an adaptive attack."""
    for cell in evidence.cells:
        if cell.is_done and cell.adaptation is not None:
            yield _build_cell(cell)


def _build_cell(cell: CellResult) -> AdaptiveCell:
    description: Mapping[str, Any] = {} if cell.adaptation is None else cell.adaptation.description
    count = Counter(cell.successful_stages.values())
    planned = [str(step["label"]) for step in description.get("steps", ())] or list(AUTOATTACK_STAGES)
    names = [*planned, *sorted(set(count) - set(planned))]
    return AdaptiveCell(
        cell=cell,
        steps=tuple(
            StepResult(
                name=name,
                first_successes=_estimate_share(cell, {name}),
                is_extra=name not in AUTOATTACK_STAGES,
            )
            for name in names
        ),
        extra_successes=_estimate_share(cell, set(count) - set(AUTOATTACK_STAGES)),
        look_images=0 if cell.adaptation is None else cell.adaptation.images,
        look_passes=_count_look_passes(cell),
        attack_passes=(cell.tally.forward_passes, cell.tally.backward_passes),
        reason=_explain_steps(cell, planned, description),
    )


def _estimate_share(cell: CellResult, stages: Collection[str]) -> Estimate:
    """Estimate the share of the correctly classified images on which one of these steps succeeded first."""
    marks = {
        image: cell.successful_stages.get(image) in stages
        for image, verdict in cell.verdicts.items()
        if verdict.clean_correct
    }
    return estimate_image_share(marks, cell.groups)


def _count_look_passes(cell: CellResult) -> tuple[int, int]:
    if cell.adaptation is None:
        return (0, 0)
    return (cell.adaptation.forward_passes, cell.adaptation.backward_passes)


def _explain_steps(cell: CellResult, planned: list[str], description: Mapping[str, Any]) -> str:
    adaptation = cell.adaptation
    if adaptation is None:
        return ""
    if adaptation.problem:
        return f"Not adapted, so only AutoAttack's stages ran: {adaptation.problem}."
    passes = (
        f"{format_count(adaptation.forward_passes + adaptation.backward_passes, 'pass')} on "
        f"{format_count(adaptation.images, 'image')}"
    )
    if all(name in AUTOATTACK_STAGES for name in planned):
        return f"A look at the model ({passes}) found nothing that misleads AutoAttack: its stages ran alone."
    if tuple(planned[: len(AUTOATTACK_STAGES)]) == AUTOATTACK_STAGES:
        return (
            f"A look at the model ({passes}) found no fault, but short versions of further steps succeeded "
            "where its own gradients did not, so these steps ran last."
        )
    return f"A look at the model ({passes}) found {_name_findings(description)}."


def _name_findings(description: Mapping[str, Any]) -> str:
    """Say what an adaptation found, and what follows from it."""
    found = []
    draws = max(int(step.get("draws", 1)) for step in description["steps"])
    if draws > 1:
        found.append(
            "answers that vary from call to call, so each step asks for the mean of up to "
            f"{draws} draws, and fresh draws confirm each success"
        )
    student = description.get("student")
    if student is not None:
        found.append(
            f"{student['answers']} and no gradient, so a small network was taught with "
            f"{student['queries']:,} of its answers, and steps that need no gradient follow"
        )
    return "; and ".join(found) or "gradients that mislead, so further steps ran"
