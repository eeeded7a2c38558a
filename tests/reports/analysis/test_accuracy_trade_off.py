"""Clean and robust accuracy: the observed front, and a model that another one significantly dominates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import SAMPLE_PLANS

from robustbench_local.paired_tests import adjust_by_holm, compute_mcnemar
from robustbench_local.reports.analysis.accuracy_trade_off import build_trade_offs
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.figures.layout import keep_left_to_right
from robustbench_local.reports.figures.trade_off_figure import draw_trade_off
from robustbench_local.reports.page.chart_specs import build_trade_off_spec
from robustbench_local.reports.page.charts import assign_styles
from robustbench_local.reports.page.trade_off_chart import build_trade_off_chart, choose_range, place_label
from robustbench_local.reports.sections.trade_off_section import TRADE_OFF, describe_standing

SAMPLE = {"plans": (SAMPLE_PLANS[0],), "models": ("a", "b", "c"), "failing_cell": None, "images": 32}


@pytest.fixture
def build_trade_off(build_evidence):
    """A function: the trade-off of models with these numbers of correctly classified and of robust images."""

    def build(counts):
        evidence = build_evidence(**SAMPLE)
        worst_cases = []
        for worst, (correct, robust) in zip(evidence.worst_cases, counts, strict=True):
            verdicts = {
                f"{index}": ImageVerdict(
                    clean_correct=index < correct, broken=robust <= index < correct, robust=index < robust
                )
                for index in range(40)
            }
            worst_cases.append(replace(worst, verdicts=verdicts, any_attack_verdicts=verdicts))
        evidence = replace(evidence, worst_cases=tuple(worst_cases))
        return build_trade_offs(evidence)[0], evidence

    return build


def test_dominated_only_where_the_paired_test_says_so(build_trade_off):
    """Of six tests, 8 images that only one model has right are significant and 7 are not."""
    trade_off, _ = build_trade_off([(36, 29), (36, 21), (36, 22)])
    best, worse, close = trade_off.points
    tests = [compute_mcnemar([True] * 40, [index >= differ for index in range(40)]) for differ in (8, 7)]
    adjusted = [adjust_by_holm([test] + [compute_mcnemar([True], [True])] * 5)[0] for test in tests]
    assert [test.is_significant() for test in adjusted] == [True, False]
    assert best.is_on_front
    assert not worse.is_on_front
    assert not close.is_on_front
    assert worse.dominance.subject == best.subject
    assert [name for name, _ in worse.dominance.differences] == ["robust accuracy"]
    assert close.dominance is None
    assert [describe_standing(point) for point in (best, close)] == [
        "on the front",
        "below the front, not significantly",
    ]
    assert describe_standing(worse).startswith(
        "dominated by a: significantly higher robust accuracy (exact McNemar p = 0.008, p = 0.047 adjusted"
    )
    assert describe_standing(worse).endswith(", and not lower in the other")


def test_a_trade_has_no_dominated_model(build_trade_off):
    trade_off, _ = build_trade_off([(40, 10), (36, 30), (38, 20)])
    assert all(point.is_on_front and point.dominance is None for point in trade_off.points)
    assert [str(point.subject) for point in trade_off.front] == ["b", "c", "a"]


def test_the_one_that_is_higher_in_both_is_named(build_trade_off):
    trade_off, _ = build_trade_off([(30, 5), (39, 25), (30, 26)])
    lowest = trade_off.points[0]
    assert str(lowest.dominance.subject) == "b"
    assert [name for name, _ in lowest.dominance.differences] == ["clean accuracy", "robust accuracy"]


def test_a_number_that_may_be_too_high_dominates_nothing(build_trade_off):
    """An attack of the model is missing: its robust accuracy is an upper bound that may fall."""
    _, evidence = build_trade_off([(36, 30), (36, 5), (36, 6)])
    first, *others = evidence.worst_cases
    incomplete = replace(first, missing_attacks=("autoattack",), missing_attack_labels=("AutoAttack",))
    trade_off = build_trade_offs(replace(evidence, worst_cases=(incomplete, *others)))[0]
    best, second, third = trade_off.points
    assert (best.caveat, best.is_on_front) == ("incomplete", False)
    assert second.dominance is third.dominance is None
    assert third.is_on_front
    assert describe_standing(best) == "incomplete: its robust accuracy may be too high"


def test_models_without_a_number_and_other_images_are_said(build_trade_off):
    _, evidence = build_trade_off([(36, 30), (36, 20), (36, 6)])
    first, second, third = evidence.worst_cases
    fewer = dict(list(second.verdicts.items())[:5])
    second = replace(second, verdicts=fewer, any_attack_verdicts=fewer)
    third = replace(third, verdicts={}, any_attack_verdicts={})
    changed = replace(evidence, worst_cases=(first, second, third))
    (trade_off,) = build_trade_offs(changed)
    text = TRADE_OFF.describe_basis(trade_off)
    assert "over the 5 images that all attacks of both models have, adjusted for 2 tests (Holm)" in text
    assert "So few images cannot show any difference." in text
    assert "different numbers of images: 5 and 40" in text
    assert text.endswith("Without a number, and so without a point: c.")
    (encoded,) = TRADE_OFF.to_json(changed)["trade_offs"]
    assert encoded["left_out"] == [{"model": "c", "defense": "none"}]
    assert [point["robust_accuracy"]["n"] for point in encoded["points"]] == [40, 5]


def test_points_in_one_place_share_a_label(build_trade_off):
    trade_off, evidence = build_trade_off([(40, 10), (39, 10), (40, 10)])
    assert trade_off.label_by_number == {1: "1, 3", 2: "2", 3: ""}
    *_, text = build_trade_off_spec(trade_off, assign_styles(evidence))["spec"]["layer"]
    assert text["encoding"]["text"] == {"field": "number"}
    figure = draw_trade_off(trade_off, {point.subject: f"m{point.number}" for point in trade_off.points})
    assert [note.get_text() for note in figure.axes[0].texts] == ["1, 3", "2", ""]


@pytest.mark.parametrize(
    ("text", "is_marked"), [("1 plain", False), ("3 \u0646\u0645", True), ("\u05d0: Stop", True)]
)
def test_labels_with_right_to_left_names_keep_the_order_of_their_parts(text, is_marked):
    assert keep_left_to_right(text) == ("\N{LEFT-TO-RIGHT MARK}" if is_marked else "") + text


def test_one_model_makes_no_trade_off(build_trade_off):
    _, evidence = build_trade_off([(36, 30), (36, 20), (36, 6)])
    assert build_trade_offs(replace(evidence, worst_cases=evidence.worst_cases[:1])) == ()


def test_the_axes_hold_every_interval(build_trade_off):
    trade_off, evidence = build_trade_off([(36, 30), (36, 30), (30, 2)])
    chart = build_trade_off_chart(trade_off, dict.fromkeys(evidence.subjects, 0))
    for one in chart.points:
        assert chart.left <= min(one.x_interval) <= one.x <= max(one.x_interval) <= chart.right
        assert chart.top <= min(one.y_interval) <= one.y <= max(one.y_interval) <= chart.bottom
    assert len({one.label_place for one in chart.points}) == 3  # two marks in one place, two numbers
    assert "1 a: clean 90.0%" in chart.description
    assert chart.front_points.count(",") == 2


@pytest.mark.parametrize(
    ("intervals", "axis"),
    [
        ([(0.93, 1.0)], (0.8, 1.0)),
        ([(0.0, 0.05)], (0.0, 0.2)),
        ([(0.31, 0.49)], (0.3, 0.5)),
        ([(0, 1)], (0, 1)),
    ],
)
def test_an_axis_begins_and_ends_at_tens(intervals, axis):
    assert choose_range(intervals) == axis


def test_a_number_without_room_stands_at_the_usual_place():
    taken = [(7 + 8 * across, -21 + 6 * down) for across in range(-4, 4) for down in range(9)]
    assert place_label(0, 0, taken) == (7, -7) == place_label(0, 0, [])
