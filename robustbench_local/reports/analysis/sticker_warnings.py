"""Findings about stickers: controls that fail, signs that are left out, and too few signs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding, format_cell, format_cells_with_facts
from robustbench_local.reports.analysis.sticker_results import StickerResult, build_sticker_results
from robustbench_local.reports.formatting.text import format_count, format_estimate, format_percent
from robustbench_local.store import MIN_CLEAN_SHARE

MIN_SIGNS = 20
"""Number of counted signs below which a single sign moves a share over views by points."""


def find_sticker_problems(evidence: Evidence) -> Iterator[Finding]:
    """Find stickers without a valid sign, signs that are left out, and controls that fail."""
    for result in build_sticker_results(evidence):
        where = format_cell(result.cell)
        if not result.counted_signs:
            needed = f"{100 * MIN_CLEAN_SHARE:.0f}% of its clean views"
            text = f"{where} is invalid: no sign is classified correctly in {needed}."
            if result.void_success.is_known:
                text += (
                    f" Over the views in which they are, attack success is "
                    f"{format_estimate(result.void_success)}."
                )
            yield Finding(level="void", text=text)
            continue
        yield from (
            Finding(level="warning", text=f"{where}: {text}") for text in _describe_left_out_signs(result)
        )
        for control in result.controls:
            named = f"{where}, control “{control.name}”"
            if control.is_met is False:
                share = f"{format_estimate(control.success_share)} of the views, {control.expected} expected"
                yield Finding(level="warning", text=f"{named}: {share}; {control.remarks}.")
            elif control.invalid_count:
                yield Finding(level="warning", text=f"{named}: {control.reason}.")


def _describe_left_out_signs(result: StickerResult) -> Iterator[str]:
    """Describe the signs excluded from the headline, and the sticker's success on them."""
    out_of = f"of {format_count(len(result.rows), 'sign')}"
    void = sum(sign.status == "void" for sign in result.void_signs)
    if void:
        them = "it" if void == 1 else "them"
        why = (
            f"{void} {out_of} {'is' if void == 1 else 'are'} excluded because the model misclassifies {them}"
        )
        most = f"in more than {100 - 100 * MIN_CLEAN_SHARE:.0f}% of the clean views"
        best = f"The headline covers the {result.counted_signs} that it classifies best"
        those = "the one" if void == 1 else "those"
        shares = f"on {those} excluded, attack success is {format_estimate(result.void_success)}"
        if not result.void_success.is_known:
            shares = f"no view of {those} excluded is classified correctly"
        yield f"{why} {most}. {best}; {shares}, on all together {format_estimate(result.overall_success)}."
    wrong = sum(sign.status == "clean-wrong" for sign in result.void_signs)
    if wrong:
        verb, them = ("was", "it") if wrong == 1 else ("were", "them")
        yield (
            f"{wrong} {out_of} {verb} not attacked because the model misclassifies {them} without a sticker."
        )


def find_few_signs(evidence: Evidence) -> Iterator[Finding]:
    """Find cells in which so few signs count that one of them moves the share."""
    cells = [cell for cell in evidence.cells if 0 < len(_compute_sign_success(cell)) < MIN_SIGNS]
    if cells:
        where = format_cells_with_facts(
            cells,
            lambda cell: (
                f"{format_count(len(_compute_sign_success(cell)), 'sign')}: "
                f"{_format_range(_compute_sign_success(cell))}"
            ),
        )
        text = f"Few signs, each with its own sticker. Attack success over views, sign by sign: {where}."
        more = "Intervals over views do not cover other signs: do not rank models on this."
        yield Finding(level="warning", text=f"{text} {more}")


def _compute_sign_success(cell: CellResult) -> list[float]:
    """Compute the success of each counted sign that is classified correctly in some clean view."""
    signs = [sign for sign in cell.signs if sign.is_counted] if cell.is_done and cell.is_sticker else []
    hits = [sign.views["view"].mark_successes("sticker", cell.record.targets) for sign in signs]
    return [float(marks.mean()) for marks in hits if len(marks)]


def _format_range(shares: Sequence[float]) -> str:
    if len(shares) == 1:
        return format_percent(shares[0])
    return f"{format_percent(min(shares))} to {format_percent(max(shares))}"
