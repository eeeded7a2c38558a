"""Classes: their robust accuracy, the worst of them, and what their images are misclassified as."""

from __future__ import annotations

from collections import Counter

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.class_results import build_class_tables
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.store import RunStore


@pytest.fixture
def tables(build_evidence):
    return build_class_tables(build_evidence())


def test_the_classes_add_up_to_the_worst_case(build_evidence):
    evidence = build_evidence()
    for table in build_class_tables(evidence):
        worst = evidence.get_worst_case(table.subject, table.threat)
        assert sum(row.robust_accuracy.count for row in table.rows) == worst.robust_accuracy.count
        assert sum(row.clean_accuracy.count for row in table.rows) == worst.clean_accuracy.count
        assert sum(row.robust_accuracy.n for row in table.rows) == worst.robust_accuracy.n


def test_no_attack_alone_is_stronger_than_all_together(tables):
    for table in tables:
        for row in table.rows:
            assert all(row.robust_accuracy.value <= alone.value for alone in row.attack_accuracies)


def test_the_lowest_class_comes_first_and_is_the_worst(tables):
    for table in tables:
        shares = [row.robust_accuracy.value for row in table.rows]
        assert shares == sorted(shares)
        assert table.worst_class_robust_accuracy.value == shares[0]
        assert table.worst_class_robust_accuracy.low <= table.worst_class.robust_accuracy.low


def test_the_matrix_counts_every_image_of_the_strongest_attack(tmp_path):
    run = build_run(tmp_path / "run", SampleRun(has_images=False))
    with RunStore.open_readonly(run) as store:
        table = build_class_tables(read_evidence(store))[0]
        cell = min(table.attacks, key=lambda one: one.robust_accuracy.value)
        rows = store.read_outcomes(cell.record.key)
    matrix = table.matrix
    assert matrix.attack == cell.record.attack
    assert matrix.counts == Counter((row.label, row.adversarial_prediction) for row in rows)
    assert sum(matrix.counts.values()) == matrix.n == len(rows)
    assert all(confusion.label != confusion.prediction for confusion in matrix.confusions)
    correct = sum(count for (label, final), count in matrix.counts.items() if label == final)
    assert correct + sum(confusion.share.count for confusion in matrix.confusions) == matrix.n


def test_classes_without_an_image_are_named(build_evidence):
    tables = build_class_tables(build_evidence(images=12))
    assert tables[0].missing_classes == ("No entry", "General caution", "Keep right", "Roundabout")


def _judge(evidence, **gate):
    (verdict,) = judge_evidence(
        evidence, [{"threat": "linf-8", "model": "signs-pgd-at", "trust": "ignore", **gate}]
    ).verdicts
    return verdict


def test_a_gate_judges_the_worst_class_with_the_corrected_interval(build_evidence):
    evidence = build_evidence()
    table = next(
        table
        for table in build_class_tables(evidence)
        if table.subject.model == "signs-pgd-at" and table.threat.name == "linf-8"
    )
    low = table.worst_class_robust_accuracy.low
    metric = "worst_class_robust_accuracy"
    at = _judge(evidence, metric=metric, min=low)
    assert at.estimate == table.worst_class_robust_accuracy
    assert "16 classes" in at.reason
    above = _judge(evidence, metric=metric, min=low + 0.001)
    assert (at.ruling != "fail", above.ruling) == (True, "inconclusive")


def test_a_gate_may_judge_one_class_by_name_or_index(build_evidence):
    evidence = build_evidence()
    table = next(
        table
        for table in build_class_tables(evidence)
        if table.subject.model == "signs-pgd-at" and table.threat.name == "linf-8"
    )
    row = next(row for row in table.rows if row.name == "Yield")
    for chosen in ("Yield", "yie", 9, "9"):
        verdict = _judge(evidence, true_class=chosen, min=0.0)
        assert verdict.estimate == row.robust_accuracy
        assert f"images of {chosen}" in verdict.limit_text
    clean = _judge(evidence, metric="clean_accuracy", true_class="Yield", min=0.0)
    assert clean.estimate == row.clean_accuracy


def test_a_gate_on_an_unknown_class_is_refused(build_evidence):
    with pytest.raises(ConfigError, match="no class 'Yeild'"):
        _judge(build_evidence(), true_class="Yeild", min=0.5)
    with pytest.raises(ConfigError, match="takes no true_class"):
        _judge(build_evidence(), metric="worst_class_robust_accuracy", true_class="Yield", min=0.5)
