"""A shipped model beside its float twin: what each withstands, and how far their answers are apart."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.paired_difference import PairedDifference, estimate_paired_difference
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.statistics import Estimate


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """The largest absolute difference of two models' outputs to an image, over images."""

    median: float
    largest: float
    n: int


@dataclass(frozen=True, kw_only=True)
class TwinResult:
    """One attack on a model and its float twin, over the same images."""

    cell: CellResult
    """The cell."""
    outputs: str
    """What the differences are of: ``logits`` or ``probabilities``; ``labels`` if there are none."""
    model_clean: Estimate
    """Clean accuracy of the model."""
    twin_clean: Estimate
    """Clean accuracy of the twin."""
    model_robust: Estimate
    """Robust accuracy of the model."""
    twin_robust: Estimate
    """Robust accuracy of the twin under the attack on itself and the model's candidates."""
    gap: PairedDifference
    """Robust accuracy of the model less that of the twin."""
    only_model_lost: tuple[str, ...]
    """Ids of the images on which only the model is not robust, in the order of the cell."""
    only_twin_lost: tuple[str, ...]
    """The same of the twin."""
    same_clean_labels: Estimate
    """Share of the clean images to which both give the same label."""
    same_adversarial_labels: Estimate
    """The same of the model's last candidates."""
    clean_difference: OutputDifference | None
    """How far their outputs are apart on clean images; None where that is unknown."""
    adversarial_difference: OutputDifference | None
    """The same on the model's last candidates."""
    phases: Mapping[str, int]
    """Number of the model's successes by the phase of the search that found them."""
    twin_passes: tuple[int, int]
    """Forward and backward passes on the twin."""


@collect_once
def build_twin_results(evidence: Evidence) -> Iterator[TwinResult]:
    """Build one result for each attack on a model with a twin, in the order of the grid."""
    outputs = {about["id"]: (about.get("twin") or {}).get("outputs", "logits") for about in evidence.models}
    for cell in evidence.attack_cells:
        if cell.twin_verdicts:
            yield _build_result(cell, outputs.get(cell.record.model, "logits"))


def _build_result(cell: CellResult, outputs: str) -> TwinResult:
    known, groups = cell.twin_verdicts, cell.groups
    own = {image: cell.verdicts[image] for image in known if image in cell.verdicts}
    model = {image: verdict.robust for image, verdict in own.items()}
    twin = {image: known[image].robust for image in own}
    passes = [verdict.passes for verdict in known.values()]
    return TwinResult(
        cell=cell,
        outputs=outputs,
        model_clean=estimate_image_share({image: own[image].clean_correct for image in own}, groups),
        twin_clean=estimate_image_share({image: known[image].clean_correct for image in own}, groups),
        model_robust=estimate_image_share(model, groups),
        twin_robust=estimate_image_share(twin, groups),
        gap=estimate_paired_difference(model, twin, groups),
        only_model_lost=tuple(image for image in own if twin[image] and not model[image]),
        only_twin_lost=tuple(image for image in own if model[image] and not twin[image]),
        same_clean_labels=estimate_image_share(
            {image: known[image].same_clean_label for image in own}, groups
        ),
        same_adversarial_labels=estimate_image_share(
            {image: known[image].same_adversarial_label for image in own}, groups
        ),
        clean_difference=_summarize_differences([known[image].clean_difference for image in own]),
        adversarial_difference=_summarize_differences([known[image].adversarial_difference for image in own]),
        phases=Counter(verdict.phase for verdict in known.values() if verdict.phase),
        twin_passes=(sum(forward for forward, _ in passes), sum(backward for _, backward in passes)),
    )


def _summarize_differences(differences: list[float | None]) -> OutputDifference | None:
    values = [value for value in differences if value is not None]
    if not values:
        return None
    return OutputDifference(median=statistics.median(values), largest=max(values), n=len(values))
