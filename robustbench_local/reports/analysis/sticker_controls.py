"""Controls of a sticker: other conditions of the same sign in the same views."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robustbench_local.paired_tests import Comparison, compute_mcnemar
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.sticker_views import (
    SignViews,
    compute_attack_success,
    compute_misread_rate,
    estimate_share,
)
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    format_p_value,
)
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store import MIN_CLEAN_SHARE

MAX_RANDOM_COLOURS_SHARE = 0.05
"""Largest success of random colors; above it success is not due to the sticker's pattern."""
MAX_NO_VIEWS_P_VALUE = 0.001
"""Significance level at which the sticker optimized without views has to be worse."""
MIN_WHOLE_SIGN_SHARE = 0.9
"""Least success of painting the whole sign; below it the attack may be too weak."""
_NO_SIZE_CONDITION, _RANDOM_COLOURS_CONDITION, _WHOLE_SIGN_CONDITION = (
    "no-size",
    "random-colours",
    "whole-sign",
)
_UNKNOWN_ESTIMATE = compute_clopper_pearson(0, 0)


@dataclass(frozen=True, kw_only=True)
class StickerControl:
    """One control condition."""

    name: str
    """The control condition of the sign."""
    expected: str
    """The expected result of a sound experiment."""
    success_share: Estimate
    """The measured success, on the signs on which the control violated no rule."""
    is_met: bool | None
    """Whether the expectation is met; None if unknown."""
    consequence: str
    """The consequence of an unmet expectation, half a sentence."""
    reason: str = ""
    """Details in one line."""
    misread_rate: Estimate = _UNKNOWN_ESTIMATE
    """Share of the views in which the sign is misclassified; unknown if ``success_share`` is
    that share or its complement."""
    invalid_count: int = 0
    """Counted signs on which the control violated a rule and was not evaluated."""

    @property
    def remarks(self) -> str:
        """The consequence of an unmet expectation, with details."""
        return "; ".join(filter(None, [self.consequence if self.is_met is False else "", self.reason]))


def build_sticker_controls(cell: CellResult) -> tuple[StickerControl, ...]:
    """Build the controls that a done cell has."""
    controls = (
        _build_clean_control(cell),
        _build_no_size_control(cell),
        _build_random_colours_control(cell),
        _build_no_views_control(cell),
        _build_whole_sign_control(cell),
    )
    return tuple(control for control in controls if control is not None)


def compare_with_no_views(cell: CellResult) -> Comparison | None:
    """Compare the sticker with the one optimized without views, view by view; None without it."""
    targets = cell.record.targets
    both = [
        sign_views for sign_views in _select_counted_views(cell) if "without-views" in sign_views.predictions
    ]
    if not both:
        return None
    import numpy as np  # noqa: PLC0415 - a gate on a run without stickers does not need it

    first = np.concatenate([sign_views.mark_successes("sticker", targets) for sign_views in both])
    second = np.concatenate([sign_views.mark_successes("without-views", targets) for sign_views in both])
    return compute_mcnemar(first.tolist(), second.tolist())


def find_control_problems(cell: CellResult, *, is_low: bool) -> list[str]:
    """Find reasons why a success within a limit is no evidence, a part of a sentence each.

    Args:
        cell: The measured cell.
        is_low: Whether the success is within the limit by being low, as with a weak attack. An attack that
            may paint the whole surface is not weak if it succeeds in nearly all views.
    """
    void, whole = sum(not sign.is_counted for sign in cell.signs), _build_whole_sign_control(cell)
    problems = []
    if 2 * void > len(cell.signs):
        problems.append(f"more than half of the signs are void ({void} of {len(cell.signs)})")
    if (
        not is_low
        or whole is None
        or (_is_whole_sign_attack(cell) and cell.sticker_success.value >= MIN_WHOLE_SIGN_SHARE)
    ):
        return problems
    if whole.is_met is False:
        fact = f"the control “{whole.name}” reaches {format_estimate(whole.success_share)}"
        problems.append(f"{fact}, not nearly all views: the attack may be weak")
    elif whole.is_met is None:
        problems.append(f"the control “{whole.name}” has no result: {whole.reason}")
    return problems


def _build_clean_control(cell: CellResult) -> StickerControl:
    """Build the clean control over every evaluated sign: counted ones are correct by definition."""
    clean = estimate_share(sign.views["view"].clean_correct for sign in cell.signs if sign.has_views)
    return StickerControl(
        name="clean sign, no sticker (all signs, void ones too)",
        expected=f"at least {_format_bound(MIN_CLEAN_SHARE)}",
        success_share=clean,
        is_met=clean.value >= MIN_CLEAN_SHARE if clean.is_known else None,
        consequence="the model misclassifies this many clean signs by itself: the result only holds for the "
        "signs that count",
    )


def _build_no_size_control(cell: CellResult) -> StickerControl | None:
    """Build the control of an empty sticker through attack, camera and model: it must never succeed."""
    predictions = [sign.views["view"].predictions for sign in cell.signs if sign.has_views]
    pairs = [(read[_NO_SIZE_CONDITION], read["clean"]) for read in predictions if _NO_SIZE_CONDITION in read]
    others = sum(int((first != second).sum()) for first, second in pairs)
    views = format_count(sum(len(first) for first, _ in pairs), "view")
    fact = f"{others:,} of {views} are classified otherwise than the clean sign in the same view"
    return _select_if_run(
        _build_control(
            cell,
            _NO_SIZE_CONDITION,
            name="a sticker of size zero",
            expected="no successful view, each classified as on the clean sign",
            is_met=others == 0,
            consequence="the model or the camera is not deterministic: these results cannot be reproduced",
            reason=fact if others else "",
        )
    )


def _build_random_colours_control(cell: CellResult) -> StickerControl:
    chance = _measure_condition(cell, _RANDOM_COLOURS_CONDITION)
    return _build_control(
        cell,
        _RANDOM_COLOURS_CONDITION,
        name="random colours in the same place",
        expected=f"at most {_format_bound(MAX_RANDOM_COLOURS_SHARE)}",
        is_met=chance.value <= MAX_RANDOM_COLOURS_SHARE if chance.is_known else None,
        consequence="any colours cause misclassification, not this pattern: success says little "
        "about the attack",
    )


def _build_no_views_control(cell: CellResult) -> StickerControl | None:
    comparison, is_worse, reason = compare_with_no_views(cell), None, ""
    if comparison is not None and not cell.sticker_success.count:
        reason = "the sticker itself succeeds in no view"
    elif comparison is not None:
        is_worse = comparison.only_first > comparison.only_second and comparison.is_significant(
            MAX_NO_VIEWS_P_VALUE
        )
        reason = _describe_comparison(comparison)
    return _select_if_run(
        _build_control(
            cell,
            "without-views",
            name="optimized without views, on the sign as it is",
            expected=f"clearly lower (p < {MAX_NO_VIEWS_P_VALUE:g})",
            is_met=is_worse,
            consequence="optimizing over views makes no clear difference",
            reason=reason,
        )
    )


def _build_whole_sign_control(cell: CellResult) -> StickerControl | None:
    whole = _measure_condition(cell, _WHOLE_SIGN_CONDITION)
    control = _build_control(
        cell,
        _WHOLE_SIGN_CONDITION,
        name="the whole sign painted",
        expected=f"nearly all, at least {_format_bound(MIN_WHOLE_SIGN_SHARE)}",
        is_met=whole.value >= MIN_WHOLE_SIGN_SHARE if whole.is_known else None,
        consequence="the attack is weak or the model is robust to it: a low success proves nothing",
    )
    if _is_whole_sign_attack(cell):
        why = "not run, since the attack may already paint the whole surface"
        return replace(control, reason=f"{why}; a low success may mean a weak attack")
    return _select_if_run(control)


def _is_whole_sign_attack(cell: CellResult) -> bool:
    """Return whether the attack itself may paint the whole surface, so that it is its own control."""
    seen = [sign.views["view"] for sign in cell.signs if sign.has_views]
    run = any(
        _WHOLE_SIGN_CONDITION in {*sign_views.predictions, *sign_views.invalid_controls}
        for sign_views in seen
    )
    return cell.record.norm == "sticker" and cell.record.eps == 1 and not run


def _select_counted_views(cell: CellResult) -> list[SignViews]:
    """Select the test views of the counted signs."""
    return [sign.views["view"] for sign in cell.signs if sign.is_counted]


def _measure_condition(cell: CellResult, condition: str) -> Estimate:
    return compute_attack_success(
        (sign for sign in cell.signs if sign.is_counted), condition, cell.record.targets
    )


def _build_control(
    cell: CellResult,
    condition: str,
    *,
    name: str,
    expected: str,
    is_met: bool | None,
    consequence: str,
    reason: str = "",
) -> StickerControl:
    """Build a control over counted signs; unknown if it violated the threat model on one of them."""
    signs = [sign for sign in cell.signs if sign.is_counted]
    invalid_signs = [sign for sign in signs if condition in sign.views["view"].invalid_controls]
    if invalid_signs:
        fact = (
            f"it violated the threat model on {len(invalid_signs)} of {format_count(len(signs), 'sign')} "
            f"({invalid_signs[0].problem})"
        )
        is_met, reason = None, fact
    return StickerControl(
        name=name,
        expected=expected,
        success_share=_measure_condition(cell, condition),
        is_met=is_met,
        consequence=consequence,
        reason=reason,
        misread_rate=compute_misread_rate(signs, condition) if cell.targeted else _UNKNOWN_ESTIMATE,
        invalid_count=len(invalid_signs),
    )


def _select_if_run(control: StickerControl) -> StickerControl | None:
    """Return the control, or None if it was not run."""
    return control if control.success_share.is_known or control.invalid_count else None


def _format_bound(share: float) -> str:
    return f"{100 * share:.0f}%"


def _describe_comparison(comparison: Comparison) -> str:
    alone = f"{format_count(comparison.only_first, 'view')} misclassified only under the sticker"
    split = f"{alone}, {comparison.only_second:,} only under this control"
    return f"{split}; exact McNemar {format_p_value(comparison.p_value)}"
