"""Merging of verification results: those of other candidates replace some of the first ones."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from robustbench_local.evaluation.harness.verify import PREDICTION_FIELDS, Predictions, VerificationResult

_RESULT_TENSORS = ("candidates", "broken", "linf", "l2", "l1", "l0", "draws", "successful_draws")


def replace_rows(
    first: VerificationResult, second: VerificationResult, rows: Tensor, places: list[int]
) -> VerificationResult:
    """Return the first results, with those of other candidates for some of the images.

    Args:
        first: Results of all images.
        second: Results of other candidates for M of them.
        rows: The rows of those images in ``first``, (M,) int64 on the CPU.
        places: Indices in ``second`` of the results to take over.
    """
    chosen, old, new = rows[places], first.predictions, second.predictions
    reasons, eight = list(first.rejection_reasons), list(first.broken_8bit)
    for place, row in zip(places, chosen.tolist(), strict=True):
        reasons[row], eight[row] = second.rejection_reasons[place], second.broken_8bit[place]
    reading = {
        name: getattr(old, name).index_put((chosen,), getattr(new, name)[places])
        for name in PREDICTION_FIELDS
    }
    tensors = {
        name: getattr(first, name).index_put((chosen,), getattr(second, name)[places])
        for name in _RESULT_TENSORS
    }
    return replace(
        first,
        predictions=Predictions(**reading),
        rejection_reasons=tuple(reasons),
        broken_8bit=tuple(eight),
        **tensors,
    )
