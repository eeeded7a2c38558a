"""Each target alone, the set, and the best attack on each image; models against each other; severity."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import (
    EPS_8_OF_255,
    SIGN_CLASS_NAMES,
    SPEED_LIMIT_CLASSES,
    STOP_CLASS,
    SamplePlan,
    SampleRun,
    build_run,
)

from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.pairwise import describe_success_comparisons
from robustbench_local.reports.analysis.per_target import (
    ALL_TARGETS_LABEL,
    BEST_ATTACK_LABEL,
    build_goal_tables,
    find_goal_parts,
)
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.sections.targets_section import TARGETS
from robustbench_local.reports.summary.headline import describe_answer
from robustbench_local.reports.writers.results_json import load_results
from robustbench_local.store import RunStore

PLAIN, TRAINED = (
    EvaluatedModel(model="plain", defense="none"),
    EvaluatedModel(model="trained", defense="none"),
)


def _plan(name, strength, targets):
    return SamplePlan(
        attack=name, card="stop", norm="Linf", eps=EPS_8_OF_255, threat="linf-8", strength=strength,
        passes_per_image=(402, 400), targets=targets, sources=(STOP_CLASS,),
    )  # fmt: skip


PLANS = (
    _plan("stop", 0.8, SPEED_LIMIT_CLASSES),
    *(_plan(f"stop[targets={index}]", 0.5 + index / 20, (index,)) for index in SPEED_LIMIT_CLASSES),
)
SEVERITY = {
    "rule": "of a test",
    "models": {
        model: {
            "costs": {str(index): (index + 1) / 10 for index in SPEED_LIMIT_CLASSES},
            "sources": [STOP_CLASS],
        }
        for model in ("signs-plain", "signs-pgd-at")
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sample = SampleRun(plans=PLANS, images=16 * 30, failing_cell=None, has_images=False)
    directory = build_run(tmp_path_factory.mktemp("goals") / "run", sample)
    with RunStore.create_or_open(
        directory, resolved_yaml="schema: 1\n", identity={"grid": "sample"}
    ) as store:
        store.set_meta("severity", SEVERITY)
    return directory


@pytest.fixture(scope="module")
def content(run):
    with RunStore.open_readonly(run) as store:
        return read_report_data(store)


def test_there_is_a_row_for_each_target_for_the_set_and_for_the_best_of_them(content):
    (table,) = content.get_content(TARGETS).goal_tables
    assert [row.goal_name for row in table.rows] == [
        *(SIGN_CLASS_NAMES[index] for index in SPEED_LIMIT_CLASSES),
        ALL_TARGETS_LABEL,
        BEST_ATTACK_LABEL,
    ]
    assert table.source_names == "Stop"
    assert [row.severity for row in table.rows][:3] == pytest.approx([0.1, 0.2, 0.3])
    assert table.rows[-1].severity is None


def test_every_square_is_counted_again_from_the_outcomes(run, content):
    (table,) = content.get_content(TARGETS).goal_tables
    with RunStore.open_readonly(run) as store:
        cells = {(cell.model, cell.targets): store.read_outcomes(cell.key) for cell in store.read_cells()}
    goals = [*((index,) for index in SPEED_LIMIT_CLASSES), SPEED_LIMIT_CLASSES]
    for row, targets in zip(table.rows, goals, strict=False):
        for subject, square in zip(table.subjects, row.entries, strict=True):
            right = [one for one in cells[subject.model, targets] if one.clean_correct]
            assert square.success_count == sum(one.broken for one in right)
            assert square.other_class_count == sum(one.moved_elsewhere for one in right)
            assert (
                square.success_count + square.other_class_count + square.robust_count
                == len(right)
                == square.estimate.n
            )
    for subject, square in zip(table.subjects, table.rows[-1].entries, strict=True):
        tried = [outcomes for (model, _), outcomes in cells.items() if model == subject.model]
        images = {one.image for one in tried[0] if one.clean_correct}
        assert square.success_count == len(
            {one.image for rows in tried for one in rows if one.broken} & images
        )
        assert square.estimate.n == len(images)


def test_the_best_attack_reaches_at_least_what_each_of_the_others_does(content):
    *rows, best = content.get_content(TARGETS).goal_tables[0].rows
    for row in rows:
        assert all(
            mine.success_count <= most.success_count
            for mine, most in zip(row.entries, best.entries, strict=True)
        )


def test_the_attacker_who_wants_most_harm_does_no_less_than_the_one_who_takes_any_target(content):
    (table,), (matrix,) = content.get_content(TARGETS).goal_tables, content.get_content(TARGETS).matrices
    for harm, row in zip(table.worst_case_severities, matrix.rows, strict=True):
        assert harm.expected.value >= row.severity.expected.value
        assert harm.worst_severity >= row.severity.worst_severity
        assert harm.expected.n == row.attack_success.n


def test_parts_of_a_goal_have_no_matrix_and_no_part_in_the_answer(content):
    parts = find_goal_parts(content.evidence.cells)
    assert len(parts) == 2 * len(SPEED_LIMIT_CLASSES)
    assert [matrix.attack for matrix in content.get_content(TARGETS).matrices] == ["stop"]
    told = describe_answer(content.evidence)
    strongest, _, goals = told.partition("Attack success under ")
    assert "signs-plain misclassifies Stop as Speed limit 20 on 27 of 30 images" in strongest
    assert goals.count("signs-plain") == goals.count("signs-pgd-at") == 1


def test_what_was_not_carried_through_is_a_word_and_the_union_says_what_it_lacks(content):
    cells = [
        replace(cell, reported_status="error", problem="it broke", predictions={}, verdicts={})
        if cell.record.targets == (3,)
        else cell
        for cell in content.evidence.cells
        if cell.record.targets != (4,) or cell.subject.model == "signs-plain"
    ]
    (table,) = build_goal_tables(replace(content.evidence, cells=tuple(cells)))
    assert [square.status_text for square in table.rows[3].entries] == ["error", "error"]
    assert table.rows[4].entries[1].reason == "not in the grid"
    assert table.rows[-1].entries[0].reason == "without stop[targets=3]"
    assert table.rows[-1].entries[0].estimate.is_known


def test_attacks_with_other_parameters_or_a_goal_of_one_class_are_no_parts(content):
    cells = content.evidence.cells
    other = [
        replace(cell, record=replace(cell.record, parameters={"steps": 1}))
        if len(cell.record.targets) > 1
        else cell
        for cell in cells
    ]
    assert not find_goal_parts(other)
    assert not find_goal_parts([cell for cell in cells if len(cell.record.targets) > 1])


def test_every_form_of_the_report_has_the_table(run, tmp_path):
    page = write_report(run, tmp_path / "report.html")
    html, markdown = page.read_text("utf-8"), (tmp_path / "report.md").read_text("utf-8")
    for text in (html, markdown):
        assert text.count(BEST_ATTACK_LABEL) == 1
        assert "of a test" in text
        assert "reached the goal" in text
    assert (tmp_path / "figures" / "each-target-1.png").stat().st_size > 1000
    with RunStore.open_readonly(run) as store:
        results = load_results(store)
    (table,) = results["goals"]
    assert table["goals"][-1] == BEST_ATTACK_LABEL
    assert table["worst_case_severity"][0]["expected"]["n"] == table["attack_success"][-1][0]["n"]
    targeted = [cell for cell in results["cells"] if cell["targets"]]
    assert all(cell["severity"]["expected"]["value"] is not None for cell in targeted)
    assert results["severity"]["rule"] == "of a test"


def test_models_are_compared_on_the_images_that_both_read_rightly():
    plain = {f"i{index}": index < 9 for index in range(10)}
    trained = {f"i{index}": index == 0 for index in range(10)} | {"more": True}
    (told,) = describe_success_comparisons({PLAIN: plain, TRAINED: trained}, {})
    assert told.startswith("Attack success is lower on trained than on plain: 10.0")
    assert "80.0 points less; 8 images only on plain, 0 only on trained" in told
    assert "same 10 images, exact McNemar p = 0.008" in told


def test_without_significance_models_tie_and_a_model_alone_is_compared_with_nothing():
    one, other = ({str(place): place < hits for place in range(6)} for hits in (1, 0))
    (told,) = describe_success_comparisons({PLAIN: one, TRAINED: other}, {})
    assert told.startswith(
        "No significant difference between trained and plain: "
        "the goal was reached on 0 images only on trained, 1 only"
    )
    (few,) = describe_success_comparisons(
        {PLAIN: dict.fromkeys("abcde", True), TRAINED: dict.fromkeys("abcde", False)}, {}
    )
    assert few.startswith("5 images are too few to compare trained and plain: "), "p is at least 0.06"
    assert describe_success_comparisons({PLAIN: one}, {}) == []
    assert describe_success_comparisons({PLAIN: one, TRAINED: {}}, {}) == []
