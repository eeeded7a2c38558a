"""Images on which an attack raised an error: they decide no gate, whatever they count as in a share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.gate_types import GateVerdict
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.formatting.text import format_count


def judge_despite_errors(
    cells: Sequence[CellResult], judge: Callable[[Sequence[CellResult]], GateVerdict]
) -> GateVerdict:
    """Return the measured verdict, unless images without a verdict could change it.

    An image on which an attack raised an error is neither broken nor robust. It counts as not robust in
    robust accuracy and as not broken in attack success; a gate must neither fail nor pass because of that.

    Args:
        cells: The cells of one subject.
        judge: Judges these cells, as measured or with assumed verdicts.
    """
    measured = judge(cells)
    images = {image for cell in cells for image in _list_unknown_images(cell)}
    if not images or measured.ruling not in {"pass", "fail"}:
        return measured
    for is_robust in (True, False):
        other = judge([_assume_verdicts(cell, is_robust) for cell in cells])
        if other.ruling != measured.ruling:
            what = f"the attack raised an error on {format_count(len(images), 'image')}"
            assumed = "robust" if is_robust else "misclassified"
            reason = f"{measured.reason}, but {what}; counted as {assumed} they give {other.reason}"
            return replace(measured, ruling="inconclusive", reason=reason)
    return measured


def _list_unknown_images(cell: CellResult) -> list[str]:
    """List the images without a verdict; one that a certificate does not prove has one."""
    if cell.is_certificate and not cell.tally.errors:
        return []
    return [image for image, verdict in cell.verdicts.items() if not verdict.is_known]


def _assume_verdicts(cell: CellResult, is_robust: bool) -> CellResult:
    assumed = ImageVerdict(clean_correct=True, broken=not is_robust, robust=is_robust)
    verdicts = {image: verdict if verdict.is_known else assumed for image, verdict in cell.verdicts.items()}
    return replace(cell, verdicts=verdicts)
