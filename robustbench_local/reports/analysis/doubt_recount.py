"""Cells recounted with an assumed outcome of the images in doubt, for gates."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Literal

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.doubt_finders import Doubt
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.sticker_views import SignResult

AssumedOutcome = Literal["broken", "robust"]

_SMALLEST_RADIUS = math.ulp(0.0)
"""Smallest radius above 0; 0 itself means an image misclassified clean."""


def assume_outcome(cell: CellResult, doubts: Iterable[Doubt], outcome: AssumedOutcome) -> CellResult:
    """Return a cell recounted with this outcome for every image in doubt.

    Args:
        cell: The measured cell.
        doubts: Doubts; those about other subjects, threat models or images are ignored.
        outcome: ``broken``: every attack succeeded (if the outputs themselves are in doubt, they are
            misclassified clean as well). ``robust``: no attack succeeded, and they are classified
            correctly; only doubts about the outputs themselves allow that.

    Returns:
        A cell with other ``verdicts``, ``radii``, ``draw_counts`` and ``signs``; its ``tally`` is as
        measured.
    """
    own = [doubt for doubt in doubts if (doubt.subject, doubt.threat) == (cell.subject, cell.threat)]
    answers = frozenset[str]().union(*(doubt.images for doubt in own if doubt.concerns_clean_answers))
    images = answers if outcome == "robust" else answers.union(*(doubt.images for doubt in own))
    verdicts = {
        image: _assume_verdict(verdict, image in images, image in answers, outcome)
        for image, verdict in cell.verdicts.items()
    }
    radius = math.inf if outcome == "robust" else _SMALLEST_RADIUS
    radii = {
        image: radius if image in images and (size > 0 or image in answers) else size
        for image, size in cell.radii.items()
    }
    signs = tuple(
        _assume_sign(sign, cell.record.targets, outcome) if sign.image in images else sign
        for sign in cell.signs
    )
    draw_counts = {
        image: (0 if outcome == "robust" else draws, draws) if image in images else (successes, draws)
        for image, (successes, draws) in cell.draw_counts.items()
    }
    return replace(cell, verdicts=verdicts, radii=radii, draw_counts=draw_counts, signs=signs)


def _assume_verdict(
    verdict: ImageVerdict, doubted: bool, answer_doubted: bool, outcome: AssumedOutcome
) -> ImageVerdict:
    if not doubted or not (verdict.clean_correct or answer_doubted):
        return verdict
    if outcome == "robust":
        return ImageVerdict(clean_correct=True, broken=False, robust=True)
    return ImageVerdict(clean_correct=not answer_doubted, broken=not answer_doubted, robust=False)


def _assume_sign(sign: SignResult, targets: Collection[int], outcome: AssumedOutcome) -> SignResult:
    """Return the sign with every view of its sticker classified as the label, or as a success."""
    import numpy as np  # noqa: PLC0415 - a gate on a run without stickers does not need it

    wanted = next(iter(targets), sign.label + 1)
    reading = sign.label if outcome == "robust" else wanted
    views = {
        kind: replace(
            sign_views,
            predictions={
                name: np.full_like(read, reading) if name == "sticker" else read
                for name, read in sign_views.predictions.items()
            },
        )
        for kind, sign_views in sign.views.items()
    }
    return replace(sign, views=views)
