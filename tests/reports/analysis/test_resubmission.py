"""Repeated submissions in the report, and the gate on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.resubmission import build_resubmission_curves, find_worst_counts
from robustbench_local.reports.figures.resubmission_figure import draw_resubmission
from robustbench_local.reports.page.charts import assign_styles
from robustbench_local.reports.page.tries_chart import build_tries_charts
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.sections.resubmission_section import RESUBMISSION
from robustbench_local.reports.writers.csv_files import format_results_csv
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

MODEL = "signs-pgd-at"
GATE = {"metric": "resubmission_success", "threat": "linf-8", "model": MODEL, "tries": 10}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = build_run(tmp_path_factory.mktemp("draws") / "run", SampleRun(has_images=False))
    with RunStore.open_readonly(folder) as store:
        return read_report_data(store).evidence


def make_random(evidence, counts):
    """The evidence with these counts of each image in the cells of one model under linf-8."""
    cells = tuple(
        replace(
            cell,
            draw_counts={image: counts for image, verdict in cell.verdicts.items() if verdict.clean_correct},
            fixed_draw_successes={
                image: verdict.broken for image, verdict in cell.verdicts.items() if verdict.clean_correct
            },
        )
        if cell.record.model == MODEL and cell.record.threat == "linf-8" and cell.is_in_worst_case
        else cell
        for cell in evidence.cells
    )
    return replace(evidence, cells=cells)


def test_a_curve_has_every_number_of_submissions_and_robustness_with_the_draw_fixed(plain):
    curves = build_resubmission_curves(make_random(plain, (1, 100)))
    assert curves
    for curve in curves:
        values = [point.success.value for point in curve.points]
        assert values == sorted(values)
        assert values[0] == pytest.approx(0.01)
        assert [point.is_bound for point in curve.points] == [False] * 7 + [True] * 3
        assert curve.fixed_draw_accuracy == curve.cell.robust_accuracy
        assert (curve.draws, curve.unknown_count) == (100, 0)


def test_models_whose_answers_do_not_vary_have_no_curve(plain):
    assert build_resubmission_curves(plain) == ()
    assert RESUBMISSION.to_json(plain) == {"resubmission": []}


def test_every_form_of_the_section_says_what_is_only_a_bound(plain):
    evidence = make_random(plain, (1, 100))
    curves = build_resubmission_curves(evidence)
    text = "\n".join(RESUBMISSION.to_markdown(curves, evidence))
    assert "between" in text
    assert "100 answers an image" in text
    (entry, *_) = RESUBMISSION.to_json(evidence)["resubmission"]
    assert [point["tries"] for point in entry["curve"]][-1] == 1000
    (chart, *_) = build_tries_charts(curves, assign_styles(evidence))
    assert [tick.label for tick in chart.x_ticks] == ["1", "10", "100", "1,000"]
    assert len(chart.lines[0].markers) == 7
    assert len(draw_resubmission(curves, {curve.subject: "model" for curve in curves}).axes) >= 1
    header, *rows = format_results_csv(evidence).splitlines()
    column = header.split(",").index("resubmission_success_1000")
    assert {"draws", "resubmission_success_10", "fixed_draw_accuracy_low"} <= set(header.split(","))
    assert len(rows) == len(evidence.cells)
    assert column > 0


@pytest.mark.parametrize(
    ("counts", "change", "ruling"),
    [
        ((0, 100), {"max": 0.2}, "pass"),
        ((50, 100), {"max": 0.2}, "fail"),
        ((0, 100), {"max": 0.2, "tries": 1000}, "inconclusive"),
        ((0, 100), {"max": 0.2, "tries": 1000, "on": "estimate"}, "inconclusive"),
        ((100, 100), {"max": 0.2, "tries": 1000, "on": "estimate"}, "fail"),
    ],
)
def test_gates_on_repeated_submissions(plain, counts, change, ruling):
    evidence = make_random(plain, counts)
    (verdict,) = judge_evidence(evidence, [GATE | change]).verdicts
    assert verdict.ruling == ruling
    assert "submission" in verdict.reason


def test_where_answers_do_not_vary_the_gate_is_one_on_attack_success(plain):
    (success,) = judge_evidence(
        plain, [{**GATE, "metric": "attack_success", "max": 0.9, "tries": None}]
    ).verdicts
    (again,) = judge_evidence(plain, [GATE | {"max": 0.9}]).verdicts
    assert again.estimate.value == pytest.approx(success.estimate.value)
    assert again.estimate.n == success.estimate.n


def test_random_answers_that_were_not_counted_pass_no_gate(plain):
    found = DiagnosticResult(id="D4", name="", model=MODEL, status="info", sentence="Random.")
    random = replace(plain, diagnostics=DiagnosticsRecord(results=(found,)))
    assert judge_evidence(plain, [GATE | {"max": 1.0}]).verdicts[0].ruling == "pass"
    (verdict,) = judge_evidence(random, [GATE | {"max": 1.0}]).verdicts
    assert verdict.ruling == "inconclusive"
    assert "did not count" in verdict.reason


def test_the_best_example_of_each_image_counts_and_an_image_without_draws_is_unknown(plain):
    cells = [
        cell for cell in make_random(plain, (3, 100)).cells if cell.draw_counts and cell.record.model == MODEL
    ]
    image = next(iter(cells[0].draw_counts))
    better = replace(cells[0], draw_counts=cells[0].draw_counts | {image: (9, 100)})
    assert find_worst_counts([better, *cells[1:]])[0][image] == (9, 100)
    assert find_worst_counts(cells, {image})[0][image] == (1000, 1000)
    without = replace(
        cells[0], draw_counts={name: k for name, k in cells[0].draw_counts.items() if name != image}
    )
    counts, unknown = find_worst_counts([without])
    assert (image in counts, unknown) == (False, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"max": 0.2, "tries": None},
        {"max": 0.2, "tries": 0},
        {"max": 0.2, "tries": 1001},
        {"min": 0.2},
        {"max": 0.2, "metric": "attack_success"},
    ],
)
def test_a_malformed_gate_is_refused(plain, change):
    with pytest.raises(ConfigError, match="tries"):
        judge_evidence(plain, [GATE | change])
