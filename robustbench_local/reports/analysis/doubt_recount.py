"""Cells counted again with another outcome for the images in doubt: what gates weigh doubts with."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from robustbench_local.reports.analysis.doubt_finders import Doubt
from robustbench_local.reports.analysis.evidence import CellResult, ImageVerdict
from robustbench_local.reports.analysis.sticker_views import SignResult

AssumedOutcome = Literal["broken", "robust"]

_SMALLEST_RADIUS = math.ulp(0.0)
"""A radius above 0, which stands for images that are misclassified without any attack."""


def assume_outcome(cell: CellResult, doubts: Iterable[Doubt], outcome: AssumedOutcome) -> CellResult:
    """A cell as it would be if every image in doubt had come out like this.

    Args:
        cell: What was measured.
        doubts: Only those about the cell's subject and threat matter, and only images that the cell has.
        outcome: ``broken``: every attack broke them (where the answers themselves are in doubt, they are
            misclassified clean as well). ``robust``: none did, and they are classified correctly; only
            doubts about the answers themselves allow that.

    Returns:
        A cell with other ``verdicts``, ``radii`` and ``signs``; its ``tally`` is as measured.
    """
    own = [one for one in doubts if (one.subject, one.threat) == (cell.subject, cell.threat)]
    answers = frozenset[str]().union(*(one.images for one in own if one.concerns_clean_answers))
    images = answers if outcome == "robust" else answers.union(*(one.images for one in own))
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
    return replace(cell, verdicts=verdicts, radii=radii, signs=signs)


def _assume_verdict(
    verdict: ImageVerdict, doubted: bool, answer_doubted: bool, outcome: AssumedOutcome
) -> ImageVerdict:
    if not doubted or not (verdict.clean_correct or answer_doubted):
        return verdict
    if outcome == "robust":
        return ImageVerdict(clean_correct=True, broken=False, robust=True)
    return ImageVerdict(clean_correct=not answer_doubted, broken=not answer_doubted, robust=False)


def _assume_sign(sign: SignResult, targets: Collection[int], outcome: AssumedOutcome) -> SignResult:
    """The same sign with every view of its sticker classified as the label, or as what the attacker wants."""
    wanted = next(iter(targets), sign.label + 1)
    reading = sign.label if outcome == "robust" else wanted
    views = {
        kind: replace(
            seen,
            predictions={
                name: np.full_like(read, reading) if name == "sticker" else read
                for name, read in seen.predictions.items()
            },
        )
        for kind, seen in sign.views.items()
    }
    return replace(sign, views=views)
