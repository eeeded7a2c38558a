"""Runs compared image by image: the verdict, what it rests on, and what forbids or marks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.compared_run import ComparedRun, name_runs, read_compared_run
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.run_comparison import RunComparison, build_comparisons
from robustbench_local.reports.summary.comparison_answer import (
    MAX_NAMED_GATES,
    describe_comparison_answer,
    describe_question,
    list_cautions,
    list_change_sentences,
    list_noted_differences,
)
from robustbench_local.reports.summary.comparison_verdict import decide_comparison
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

GATES = (
    {"metric": "clean_accuracy", "min": 0.5},
    {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},
)
WEAKER = {"signs-pgd-at": "signs-plain"}
"""The hardened model of the sample in the first run, the plain one in the second."""
STRONGER = {"signs-plain": "signs-pgd-at"}
EMPTY_TABLES = {"worst_cases": (), "clean": ()}


@pytest.fixture(scope="module")
def read_sample(tmp_path_factory) -> Callable[..., ComparedRun]:
    """A function: a sample run as a side of a comparison, each built once."""
    built: dict[str, ComparedRun] = {}

    def read(name: str, **changes) -> ComparedRun:
        if name not in built:
            sample = SampleRun(**{"failing_cell": None, "has_images": False, "gates": GATES, **changes})
            run = build_run(tmp_path_factory.mktemp("runs") / name, sample)
            with RunStore.open_readonly(run) as store:
                built[name] = read_compared_run(store, name)
        return built[name]

    return read


@pytest.fixture(scope="module")
def old(read_sample) -> ComparedRun:
    return read_sample("old")


@pytest.fixture(scope="module")
def new(old) -> ComparedRun:
    return replace(old, name="new")


def change_run(run: ComparedRun, change: Callable[[Evidence], Evidence]) -> ComparedRun:
    return replace(
        run,
        evidence=change(run.evidence),
        measured=change(run.measured),
        gate_report=judge_evidence(change(run.evidence)),
    )


def compare(*runs: ComparedRun, **options) -> RunComparison:
    (comparison,) = build_comparisons(runs, **options)
    return comparison


def test_the_first_sentence_says_that_a_run_is_worse(old, new):
    comparison = compare(old, new, renamed=WEAKER)
    (model,) = comparison.models
    test = model.main_row.change.test
    assert test.only_first > test.only_second
    answer = describe_comparison_answer([comparison])
    assert answer.startswith(
        f"signs-plain in new is worse than signs-pgd-at in old under linf-8 (L∞ ≤ 8/255): "
        f"{test.only_first} of the same 96 images lost, {test.only_second} won (robust accuracy "
    )
    assert "exact McNemar p < 0.001" in answer
    assert describe_question([comparison]) == "Is new worse than old?"
    assert model.main_row.change.high < 0


def test_the_first_sentence_says_that_a_run_is_better(old, new):
    comparison = compare(old, new, renamed=STRONGER)
    assert "signs-pgd-at in new is better than signs-plain in old" in describe_comparison_answer([comparison])
    sentences = list_change_sentences(comparison, is_single=True)
    assert any(sentence.startswith("Also signs-pgd-at in new is better") for sentence in sentences)
    (model,) = comparison.models
    assert [image.is_lost for image in model.changed_images] == sorted(
        (image.is_lost for image in model.changed_images), reverse=True
    )
    won = [image for image in model.changed_images if not image.is_lost]
    assert len(won) == model.main_row.change.test.only_second
    assert all(image.second.outcome == "robust" for image in won)
    assert {image.first.outcome for image in won} <= {"attacked", "misclassified"}
    assert all(image.first.attack and image.first.cells for image in won if image.first.outcome == "attacked")
    broken = next(image for image in won if image.first.outcome == "attacked")
    assert broken.first.text == f"misclassified as {broken.first.prediction} under {broken.first.attack}"


def test_a_gain_hides_neither_a_loss_nor_a_missing_answer(old, new):
    worse, better, same = (compare(old, new, renamed=renamed) for renamed in (WEAKER, STRONGER, None))
    unknown = replace(better, models=(replace(better.models[0], main_row=None),), tables=EMPTY_TABLES)
    verdicts = (
        ([worse], "WORSE", "fail"),
        ([worse, unknown], "WORSE", "fail"),
        ([better, worse], "BETTER AND WORSE", "fail"),
        ([better, same], "BETTER", "pass"),
        ([better, unknown], "BETTER IN PART", "inconclusive"),
        ([same], "NO DIFFERENCE SHOWN", "inconclusive"),
        ([same, unknown], "NO ANSWER", "inconclusive"),
    )
    for comparisons, label, ruling in verdicts:
        verdict = decide_comparison(comparisons)
        assert (verdict.label, verdict.ruling) == (label, ruling)


def test_the_same_run_twice_has_not_changed(old, new):
    comparison = compare(old, new)
    assert describe_comparison_answer([comparison]) == (
        "new against old: not shown to differ for 2 of 2 models (signs-plain and signs-pgd-at)."
    )
    sentences = list_change_sentences(comparison, is_single=False)
    assert sentences[0].startswith(
        "Nothing changed: signs-plain in new has the weights of signs-plain in old, and the same verdict on "
        "each of the 96 images under linf-8"
    )
    assert sentences[-1] == "0 of 4 common gates have another verdict."
    assert list_cautions(comparison) == []
    assert list_noted_differences(comparison) == ["weights and settings of the models are the same"]
    assert comparison.models[0].changed_images == ()


def test_too_few_images_can_show_nothing(read_sample):
    few = read_sample("seven", images=7)
    comparison = compare(few, replace(few, name="new"), renamed=STRONGER)
    answer = describe_comparison_answer([comparison])
    assert "No difference between signs-pgd-at in new" in answer
    assert answer.endswith("7 images are too few to show any difference.")
    eight = read_sample("eight", images=8)
    again = compare(eight, replace(eight, name="new"), renamed=STRONGER)
    assert "difference below 100.0 points can be shown" in describe_comparison_answer([again])


def test_p_values_are_adjusted_for_the_rows_of_a_table(old, new):
    one = compare(old, new, renamed=STRONGER)
    two = build_comparisons([old, new, replace(old, name="newest")], STRONGER)
    row, (again, other) = one.tables["attacks"][0], [part.tables["attacks"][0] for part in two]
    assert again.change.test.family_size == 2 * row.change.test.family_size == 14
    assert again.change.test.adjusted_p_value >= row.change.test.adjusted_p_value
    assert other.change.test == again.change.test
    assert "new and newest" in describe_question(two)
    assert describe_comparison_answer(two).startswith("new against old: better for signs-pgd-at")


def test_classes_add_up_to_the_whole(old, new):
    comparison = compare(old, new, renamed=STRONGER)
    classes, (model,) = comparison.tables["classes"], comparison.models
    assert len(classes) == 16
    assert sum(row.change.test.n for row in classes) == 96
    assert sum(len(row.change.won_images) for row in classes) == len(model.main_row.change.won_images)
    assert {row.change.test.family_size for row in classes} == {16}


def test_distrust_is_told_with_its_reason_in_the_answer_and_by_its_id_in_the_table(old, read_sample):
    found = DiagnosticResult(id="D7", name="x", model="signs-plain", status="fail", sentence="It says so.")
    record = DiagnosticsRecord(results=(found,), passes=1, planned_passes=50)
    doubtful = read_sample("doubtful", diagnostics=record.to_json())
    comparison = compare(old, doubtful, renamed=WEAKER)
    (model,) = comparison.models
    assert "not trustworthy (D7) in doubtful" in model.main_row.marks
    reason = "in doubtful not trustworthy because the gradient that attacks follow is misleading (D7)"
    assert reason in describe_comparison_answer([comparison])


def test_gates_with_another_verdict_come_first(old, new):
    comparison = compare(old, new, renamed=WEAKER)
    changes = [(gate.first_ruling, gate.second_ruling, gate.is_changed) for gate in comparison.gates]
    assert changes == [("pass", "fail", True), ("pass", "pass", False)]
    gate = comparison.gates[0]
    sentence = (
        "1 of 2 common gates has another verdict. "
        f"{gate.model_text}, {gate.limit_text}: pass in old, fail in new."
    )
    assert sentence in list_change_sentences(comparison, is_single=True)
    for count in (MAX_NAMED_GATES, MAX_NAMED_GATES + 1):
        many = replace(comparison, gates=(gate,) * count)
        (sentence,) = list_change_sentences(many, is_single=True)[-1:]
        is_counted = count > MAX_NAMED_GATES
        assert (f", from old to new: {count} from pass to fail." in sentence) == is_counted
        assert (sentence.count("pass in old, fail in new") == count) != is_counted
    ungated = change_run(new, lambda evidence: replace(evidence, gates=evidence.gates[:1]))
    alone = compare(old, ungated, renamed=WEAKER)
    assert [gate.second_ruling for gate in alone.gates] == ["absent", "pass"]
    assert "1 gate is in old only." in list_change_sentences(alone, is_single=True)


def test_other_data_are_refused_or_compared_without_pairs(old, new):
    other = change_run(new, lambda evidence: replace(evidence, data={**evidence.data, "digest": "ef" * 32}))
    with pytest.raises(
        ConfigError, match=r"other images \(data: signs, test, 96 images .* in old, .* in new"
    ):
        compare(old, other)
    comparison = compare(old, other, renamed=STRONGER, allow_different_data=True)
    (model,) = comparison.models
    assert not model.main_row.change.is_paired
    assert model.changed_images == ()
    answer = describe_comparison_answer([comparison])
    assert "is better than signs-plain in old under linf-8 (L∞ ≤ 8/255), on other images: " in answer
    assert any("no image is compared with itself" in line for line in list_cautions(comparison))
    same = compare(old, other, allow_different_data=True)
    assert "on other images" in list_change_sentences(same, is_single=False)[0]
    assert same.models[0].main_row.change.verdict == "no difference shown"
    assert {row.change.verdict for row in comparison.tables["clean"]} == {"no difference shown"}


@pytest.mark.parametrize("status", ["partial", "stopped"])
def test_an_unfinished_attack_counts_on_its_images_in_its_own_row(old, read_sample, status):
    partial = read_sample(status, statuses={("signs-plain", "autoattack-linf-8"): status})
    comparison = compare(old, partial)
    rows = [row for row in comparison.tables["attacks"] if row.label == "autoattack-linf-8"]
    assert [(row.change.test.n, row.marks) for row in rows] == [(48, ("unfinished",)), (96, ())]
    worst = next(row for row in comparison.tables["worst_cases"] if row.threat.name == "linf-8")
    assert "autoattack" not in worst.label
    assert worst.marks == ("without autoattack-linf-8, finished in old only",)
    assert any(
        f"autoattack-linf-8 on signs-plain: done in old, {status}" in line
        for line in list_cautions(comparison)
    )
    only = {("signs-plain", plan): "partial" for plan in ("fgsm-linf-8", "pgd50-linf-8", "autoattack-linf-8")}
    nothing_else = compare(old, read_sample("partials", statuses=only))
    worst = next(row for row in nothing_else.tables["worst_cases"] if row.threat.name == "linf-8")
    assert (worst.change.test.n, worst.marks) == (48, ("unfinished",))


def test_without_a_common_result_nothing_is_known(old, read_sample):
    attacks = {cell.record.attack for cell in old.evidence.cells}
    statuses = {(model, attack): "pending" for model in ("signs-plain", "signs-pgd-at") for attack in attacks}
    comparison = compare(old, read_sample("pending", statuses=statuses))
    assert describe_comparison_answer([comparison]).startswith("pending against old: without an answer for")
    assert (
        "the runs have no finished result in common" in list_change_sentences(comparison, is_single=False)[0]
    )


def test_other_hyper_parameters_are_marked(old, new):
    def weaken(evidence: Evidence) -> Evidence:
        cells = tuple(
            replace(cell, record=replace(cell.record, parameters={"attack": "FGSM", "steps": 9}))
            if cell.record.attack == "fgsm-linf-8"
            else cell
            for cell in evidence.cells
        )
        return replace(evidence, cells=cells)

    comparison = compare(old, change_run(new, weaken))
    marked = {row.label for row in comparison.tables["attacks"] if row.marks == ("attack differs",)}
    assert marked == {"fgsm-linf-8"}
    assert "But: attack differs." in list_change_sentences(comparison, is_single=False)[0]
    assert "hyper-parameters of fgsm-linf-8 on signs-plain: steps 1 in old, steps 9 in new" in list_cautions(
        comparison
    )


def test_models_without_a_counterpart_are_named(old, new):
    comparison = compare(old, new, renamed=STRONGER)
    cautions = list_cautions(comparison)
    assert "not compared, without a counterpart: signs-pgd-at in old" in cautions
    assert (
        "new has the model signs-pgd-at, old has signs-plain: they are compared with each other" in cautions
    )


def test_runs_are_named_by_the_end_of_their_path():
    paths = [Path("a/run"), Path("b/run"), Path("b/other")]
    assert name_runs(paths) == ["a/run", "b/run", "other"]
    assert name_runs([paths[0], paths[0]]) == ["run", "run (2)"]
    (name, other) = name_runs([Path("/tmp") / ("a" * 200), Path("/tmp") / ("a" * 100 + "b" + "a" * 99)])
    assert len(name) == 60
    assert other == f"{name} (2)"


def test_over_groups_the_interval_keeps_the_sign_of_the_test(old, new):
    groups = {f"test/{image:05d}.png": f"track {image // 8}" for image in range(96)}

    def group(evidence: Evidence) -> Evidence:
        return replace(evidence, cells=tuple(replace(cell, groups=groups) for cell in evidence.cells))

    comparison = compare(change_run(old, group), change_run(new, group), renamed=STRONGER)
    change = comparison.models[0].main_row.change
    assert change.test.groups == 12
    assert change.verdict == "better"
    assert 0 <= change.low <= change.value <= change.high
    back = compare(change_run(old, group), change_run(new, group), renamed=WEAKER).models[0].main_row.change
    assert (back.low, back.high) == pytest.approx((-change.high, -change.low))
    assert "sign-flip test over 12 groups" in describe_comparison_answer([comparison])
