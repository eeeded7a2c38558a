"""A change of a share: significant on one side of the limit, not on the other."""

from __future__ import annotations

import math

import pytest

from robustbench_local.reports.analysis.share_change import adjust_changes, compare_marks


def build_change(lost: int, won: int, both: int = 50, *, is_paired: bool = True):
    rows = [(True, False)] * lost + [(False, True)] * won + [(True, True)] * both
    first, second = ({str(i): row[side] for i, row in enumerate(rows)} for side in (0, 1))
    return compare_marks(first, second, {}, is_paired=is_paired)


@pytest.mark.parametrize(
    ("lost", "won", "p", "verdict"),
    [(13, 4, 0.049, "worse"), (4, 13, 0.049, "better"), (11, 3, 0.057, "no difference shown")],
)
def test_the_verdict_is_that_of_the_exact_test_at_five_percent(lost, won, p, verdict):
    change = build_change(lost, won)
    assert change.test.p_value == pytest.approx(p, abs=5e-4)
    assert change.verdict == verdict
    assert (len(change.lost_images), len(change.won_images)) == (lost, won)
    assert change.value == pytest.approx((won - lost) / change.test.n)


def test_adjustment_can_take_a_verdict_back():
    changes = adjust_changes([build_change(13, 4), build_change(0, 0), build_change(0, 0, is_paired=False)])
    assert changes[0].test.adjusted_p_value == pytest.approx(2 * 0.049, abs=1e-3)
    assert changes[0].verdict == "no difference shown"
    assert changes[2].test is None
    assert math.isnan(changes[2].smallest_difference)


def test_without_common_images_nothing_is_known():
    change = compare_marks({"a": True}, {"b": True}, {}, is_paired=True)
    assert change.verdict == "unknown"
    assert not change.is_known
    assert adjust_changes([change])[0].verdict == "unknown"


def test_shares_of_other_images_are_compared_by_their_intervals():
    clear = compare_marks(
        {str(i): True for i in range(60)}, {f"other {i}": i < 20 for i in range(60)}, {}, is_paired=False
    )
    assert clear.verdict == "worse"
    assert clear.value == pytest.approx(-2 / 3)
    # Newcombe's method with exact intervals, wider than with those of Wilson (-0.773 to -0.530)
    assert -0.80 < clear.low < -0.773
    assert -0.530 < clear.high < -0.50
