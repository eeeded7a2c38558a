"""Which runs a trend joins, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store.run_listing import RunListing
from robustbench_local.store.run_summary import RunSummary, SummaryRow
from robustbench_local.view.run_catalog import ListedRun
from robustbench_local.view.run_folders import FoundRun
from robustbench_local.view.trends import (
    MAX_LABELS,
    build_series,
    build_trend_chart,
    describe_last,
    list_trend_choices,
    order_points,
)

ROW = SummaryRow(
    model="m", defense="none", label="m", digest="c0de" * 16, threat="linf-8", threat_text="Linf 8/255",
    attacks=("pgd",), quantity="robust accuracy", clean=compute_clopper_pearson(90, 100),
    rate=compute_clopper_pearson(40, 100), is_complete=True, mark="",
)  # fmt: skip
CHOICE = {"label": "m", "threat": "linf-8", "quantity": "robust accuracy"}


def make_run(day, row=ROW, digest="ab", **environment):
    name = f"run-{day:02d}"
    started = {"started": f"2026-11-{day:02d}T00:00:00", "code": "", "robustbench_local": ""}
    listing = RunListing(
        name="", question="", data={"name": "signs", "split": "test", "n": 100, "digest": digest},
        environment={**started, **environment},
        cells=(), summary=None, fingerprint=name,
    )  # fmt: skip
    return ListedRun(
        found=FoundRun(name, name, Path(name)),
        modified="",
        listing=listing,
        summary=RunSummary(verdict="pass", rows=(row,)),
    )


@pytest.mark.parametrize(
    ("changes", "is_joined"),
    [
        ({}, True),
        ({"digest": "0" * 64}, True),  # a new version of the model is what a trend is about
        ({"mark": "not trustworthy (D6b)"}, True),
        ({"rate": compute_clopper_pearson(45, 100)}, True),
        ({"rate": compute_clopper_pearson(45, 101)}, False),
        ({"rate": replace(ROW.rate, groups=10)}, False),
        ({"attacks": ("pgd", "square")}, False),
        ({"is_complete": False}, False),
        ({"threat_text": "Linf 8/255, some classes only"}, False),
        ({"defense": "jpeg-75"}, False),
    ],
)
def test_only_runs_that_can_be_compared_are_joined(changes, is_joined):
    series = build_series([make_run(1), make_run(2, replace(ROW, **changes))], **CHOICE)
    assert [len(one.points) for one in series] == ([2] if is_joined else [1, 1])


def test_runs_on_other_or_unknown_images_are_not_joined():
    series = build_series(
        [make_run(1), make_run(2, digest="cd"), make_run(3, digest=None), make_run(4, digest=None)], **CHOICE
    )
    assert [len(one.points) for one in series] == [1, 1, 1, 1]
    assert "without a digest" in series[2].description
    assert describe_last(series) == describe_last([]) == ""


def test_points_are_in_the_order_of_time_with_their_change():
    worse = replace(ROW, rate=compute_clopper_pearson(30, 100), mark="void (D1)")
    runs = [make_run(3, worse, code="0.2.0+abc"), make_run(1), make_run(2, digest="cd")]
    series = build_series(runs, **CHOICE)
    assert [one.name for one in series] == ["A", "B"]
    assert [point.run.date for point in order_points(series)] == ["2026-11-01", "2026-11-02", "2026-11-03"]
    first, last = series[0].points
    assert (first.change, last.change, last.code) == ("", "\N{MINUS SIGN}10.0", "0.2.0+abc")
    assert describe_last(series).startswith(
        "From 40.0% to 30.0%, \N{MINUS SIGN}10.0 percentage points, over 2 runs"
    )
    chart = build_trend_chart(series, "Robust accuracy")
    assert "2026-11-03, run-03: 30.0% (" in chart.description
    assert "void (D1)" in chart.description
    places = [mark.x for line in chart.lines for mark in line.marks]
    assert sorted(places) == [places[0], places[2], places[1]]  # A, A, B; the middle one is of B
    mark = chart.lines[0].marks[0]
    assert mark.high < mark.y < mark.low


@pytest.mark.parametrize(("count", "labels"), [(MAX_LABELS, MAX_LABELS), (MAX_LABELS + 1, 7)])
def test_dates_keep_room(count, labels):
    series = build_series([make_run(day) for day in range(1, count + 1)], **CHOICE)
    assert len(build_trend_chart(series, "").labels) == labels


def test_choices_are_rates_that_are_known():
    unknown = replace(ROW, rate=compute_clopper_pearson(0, 0), label="n")
    choices = list_trend_choices([make_run(1), make_run(2), make_run(3, unknown)])
    assert [(one.label, one.count) for one in choices] == [("m", 2)]
