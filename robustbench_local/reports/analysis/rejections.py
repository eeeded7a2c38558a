"""Images that a model rejects, clean and under attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding
from robustbench_local.reports.formatting.text import isolate_direction
from robustbench_local.statistics import Estimate

MIN_UNDECLARED_COUNT = 3
"""Successes in a class that no image has, from which on it may be a rejecting output."""
MIN_UNDECLARED_SHARE = 0.2
"""Share of the successes that lie in it."""


@dataclass(frozen=True, kw_only=True)
class RejectionResult:
    """How often a model that may reject images did so in an attack."""

    cell: CellResult
    """The cell."""
    rejected_clean: Estimate
    """Share of all clean images that are rejected."""
    rejected_adversarial: Estimate
    """Share of the correctly classified images whose adversarial example is rejected."""


@collect_once
def build_rejections(evidence: Evidence) -> Iterator[RejectionResult]:
    """Build one result for each finished attack on a model that may reject images."""
    abstaining = {about["id"] for about in evidence.models if about.get("abstain") is not None}
    for cell in evidence.attack_cells:
        if cell.is_done and cell.record.model in abstaining:
            rejected = cell.rejected_images
            clean = {
                image: image in rejected and not verdict.clean_correct
                for image, verdict in cell.verdicts.items()
            }
            attacked = {
                image: image in rejected for image, verdict in cell.verdicts.items() if verdict.clean_correct
            }
            yield RejectionResult(
                cell=cell,
                rejected_clean=estimate_image_share(clean, cell.groups),
                rejected_adversarial=estimate_image_share(attacked, cell.groups),
            )


def find_undeclared_rejections(evidence: Evidence) -> Iterator[Finding]:
    """Find last outputs that no clean image gets, no label has, and attacks end in: perhaps they reject."""
    found: dict[str, tuple[int, int, str]] = {}
    largest = max((int(label) for label in evidence.data.get("labels_per_class") or {}), default=-1)
    counts = {about["id"]: about.get("num_classes") or 0 for about in evidence.models}
    declared = {about["id"] for about in evidence.models if about.get("abstain") is not None}
    for cell in evidence.attack_cells:
        model = cell.record.model
        last = counts.get(model, 0) - 1
        if cell.targeted or cell.is_sticker or model in declared or last <= largest:
            continue
        successes = [
            prediction
            for image, (prediction, _) in cell.final_predictions.items()
            if cell.verdicts[image].broken
        ]
        hits = Counter(successes)[last]
        is_many = hits >= MIN_UNDECLARED_COUNT and hits >= MIN_UNDECLARED_SHARE * len(successes)
        if is_many and hits > found.get(model, (0, 0, ""))[0]:
            found[model] = (hits, len(successes), cell.label)
    for model, (hits, total, label) in found.items():
        text = (
            f"{isolate_direction(model)}: {hits} of {total} successes of {label} end in output "
            f"{counts[model] - 1}, which no image of the data has as its class. If that output means that "
            "the image is rejected, declare abstain: last for the model: such images are then no successes."
        )
        yield Finding(level="warning", text=text)
