"""Common corruptions: accuracy by corruption and severity. The average case, not an adversary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID, Square, standing_word
from robustbench_local.statistics import Estimate, clopper_pearson


@dataclass(frozen=True, kw_only=True)
class CorruptionRow:
    """One corruption, or the mean over all of them."""

    label: str
    """Name of the corruption."""
    squares: tuple[Square, ...]
    """Accuracy at each severity of the map."""
    overall: Square
    """Mean over the severities."""


@dataclass(frozen=True, kw_only=True)
class CorruptionMap:
    """One model: corruptions by severities."""

    subject: Subject
    """The model and defense."""
    clean: Estimate
    """Accuracy on untouched images; where the map is of the same images throughout, on those."""
    severities: tuple[int, ...]
    """Ascending."""
    rows: tuple[CorruptionRow, ...]
    """One a corruption, in the order of the grid."""
    mean: CorruptionRow
    """Mean over the corruptions; its ``overall`` is the mean of all squares."""

    @property
    def sizes(self) -> str:
        """How many images stand behind a square: ``500``, or ``200 to 500``."""
        found = [square.estimate.n for row in self.rows for square in row.squares if square.estimate.known]
        ends = dict.fromkeys((min(found), max(found))) if found else (0,)
        return " to ".join(f"{size:,}" for size in ends)


def make_corruptions(evidence: Evidence) -> list[CorruptionMap]:
    """A map for each model that was shown corrupted images; every one has the same rows and columns."""
    cells = [cell for cell in evidence.cells if cell.corrupted and not cell.targeted]
    kinds = list(dict.fromkeys(cell.threat.kind for cell in cells))
    severities = sorted({int(cell.record.eps) for cell in cells})
    return [
        _map(evidence, subject, [cell for cell in cells if cell.subject == subject], kinds, severities)
        for subject in dict.fromkeys(cell.subject for cell in cells)
    ]


def _map(
    evidence: Evidence,
    subject: Subject,
    cells: Sequence[CellResult],
    kinds: Sequence[str],
    severities: Sequence[int],
) -> CorruptionMap:
    images = _same_images(cells)
    found = {(cell.threat.kind, int(cell.record.eps)): _square(cell, images) for cell in cells}
    absent = Square(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    table = [[found.get((kind, severity), absent) for severity in severities] for kind in kinds]
    rows = [
        CorruptionRow(label=kind.replace("_", " "), squares=tuple(squares), overall=_mean(squares))
        for kind, squares in zip(kinds, table, strict=True)
    ]
    mean = CorruptionRow(
        label="mean",
        squares=tuple(_mean(column) for column in zip(*table, strict=True)),
        overall=_mean([square for squares in table for square in squares]),
    )
    return CorruptionMap(
        subject=subject,
        clean=_clean(cells, images) if images else evidence.clean_accuracy(subject),
        severities=tuple(severities),
        rows=tuple(rows),
        mean=mean,
    )


def _same_images(cells: Sequence[CellResult]) -> list[str]:
    """The images that every cell that is done has met: squares and their mean are compared by the eye."""
    met = [cell.verdicts for cell in cells if cell.done]
    return [image for image in met[0] if all(image in one for one in met)] if met else []


def _clean(cells: Sequence[CellResult], images: Sequence[str]) -> Estimate:
    met = [cell.verdicts for cell in cells if cell.done]
    correct = sum(all(one[image].clean_correct for one in met) for image in images)
    return clopper_pearson(correct, len(images))


def _square(cell: CellResult, images: Sequence[str]) -> Square:
    """Accuracy over these images; over the cell's own where no image was met by all."""
    share = cell.robust_accuracy
    if cell.done and images:
        share = clopper_pearson(sum(cell.verdicts[image].robust for image in images), len(images))
    return Square(estimate=share, word=standing_word(cell), reason=cell.problem or "")


def _mean(squares: Sequence[Square]) -> Square:
    """Mean of shares over the same images.

    Its interval is that of one share of so many images with this value. The mean of several varies less
    from sample to sample than one share does, so the interval errs on the wide side.
    """
    known = [square.estimate for square in squares if square.estimate.known]
    if not known:
        return Square(estimate=clopper_pearson(0, 0), word="unknown", reason="nothing was measured")
    value = math.fsum(estimate.value for estimate in known) / len(known)
    count = min(estimate.n for estimate in known)
    hits = round(value * count, 6)
    low, high = clopper_pearson(math.floor(hits), count).low, clopper_pearson(math.ceil(hits), count).high
    reason = f"mean of {len(known)} of {len(squares)}" if len(known) < len(squares) else ""
    return Square(estimate=Estimate(value=value, low=low, high=high, n=count), word="", reason=reason)
