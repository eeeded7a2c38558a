"""Classes: their robust accuracy, the worst of them, and what their images are misclassified as."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.class_results import (
    MAX_MAP_CLASSES,
    MAX_MATRIX_CLASSES,
    MIN_CLASS_IMAGES,
    build_class_tables,
)
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.page.confusion_map import build_confusion_map, find_shade, list_ticks
from robustbench_local.reports.sections.classes_section import ShownClassTable
from robustbench_local.statistics import compute_clopper_pearson
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


def test_the_clean_matrix_is_of_the_same_images(tables):
    for table in tables:
        clean = table.clean_matrix
        assert (clean.attack, clean.n, clean.class_sizes) == (
            table.matrix.attack,
            table.matrix.n,
            table.matrix.class_sizes,
        )
        correct = sum(count for (label, final), count in clean.counts.items() if label == final)
        cell = next(cell for cell in table.attacks if cell.record.attack == clean.attack)
        assert correct == sum(verdict.clean_correct for verdict in cell.verdicts.values())
        assert dict(table.matrix_classes).keys() >= {label for label, _ in clean.counts}


@pytest.mark.parametrize(("count", "few"), [(MIN_CLASS_IMAGES - 1, True), (MIN_CLASS_IMAGES, False)])
def test_both_sides_of_few_images(tables, count, few):
    row = replace(tables[0].rows[0], robust_accuracy=compute_clopper_pearson(0, count))
    assert row.has_few_images == few
    shown = ShownClassTable(table=replace(tables[0], rows=(row,)), caveat="", is_void=False)
    said = "1 of 1 class has fewer than 10 images: such shares say little"
    assert shown.few_images_text.startswith(said if few else "")
    assert bool(shown.few_images_text) == few


def test_many_classes_are_a_map_of_every_pair(tables):
    table = tables[0]
    for matrix in (table.matrix, table.clean_matrix):
        drawn = build_confusion_map(matrix, table.matrix_classes, "clean")
        squares = [path.count("M") for _, path in drawn.paths]
        diagonal = [path.count("M") for _, path in drawn.correct_paths]
        assert sum(squares) == len(matrix.confusions)
        assert sum(squares) + sum(diagonal) == len(matrix.counts)
        assert f"of {matrix.n} images" in drawn.description
        assert len(drawn.ticks) <= 12
    place = [index for index, _ in table.matrix_classes].index(table.matrix.confusions[0].label)
    drawn = build_confusion_map(table.matrix, table.matrix_classes, "")
    assert f" {place}h1v1h-1z" in "".join(path for _, path in drawn.paths)


@pytest.mark.parametrize(
    ("share", "shade"), [(0.001, 0), (0.05, 0), (0.051, 1), (0.8, 4), (0.81, 5), (1.0, 5)]
)
def test_a_share_has_one_shade(share, shade):
    assert find_shade(share) == shade


@pytest.mark.parametrize(
    ("count", "table", "drawn"),
    [
        (MAX_MATRIX_CLASSES, True, False),
        (MAX_MATRIX_CLASSES + 1, False, True),
        (MAX_MAP_CLASSES, False, True),
        (MAX_MAP_CLASSES + 1, False, False),
    ],
)
def test_how_a_matrix_is_shown_depends_on_its_classes(tables, count, table, drawn):
    classes = tuple((index, f"{index}") for index in range(count))
    names = ("matrix", "clean_matrix")
    matrices = {name: replace(getattr(tables[0], name), classes=classes) for name in names}
    shown = ShownClassTable(table=replace(tables[0], **matrices), caveat="", is_void=False)
    assert (shown.has_matrix, shown.has_map) == (table, drawn)
    ticks = list_ticks(shown.table.matrix_classes)
    assert 5 < len(ticks) <= 12
