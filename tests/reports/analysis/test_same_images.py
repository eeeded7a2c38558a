"""Figures that are drawn or compared together are of the same images, with n beside each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_worst_case import AUTOATTACK_NAME, EPS, PGD_NAME, make_cell, make_evidence

from robustbench_local.reports.analysis.certified_accuracy import build_certified_groups
from robustbench_local.reports.analysis.corruption_results import build_corruption_maps
from robustbench_local.reports.analysis.distances import build_distance_groups
from robustbench_local.reports.analysis.naive_vs_adaptive import build_naive_vs_adaptive
from robustbench_local.reports.analysis.robustness_curves import build_curve_panels
from robustbench_local.reports.page import create_environment
from robustbench_local.statistics import compute_clopper_pearson


def proof(marks):
    """A certificate at eps 8/255: p proven, h read rightly without a proof, w wrong."""
    cell = make_cell(["h" if mark == "p" else mark for mark in marks], "crown", measure="certificate")
    proven = {f"image-{place:03}": EPS for place, mark in enumerate(marks) if mark == "p"}
    verdicts = {image: verdict._replace(robust=image in proven) for image, verdict in cell.verdicts.items()}
    return replace(cell, certified_radii=proven, verdicts=verdicts)


def test_a_curve_is_of_the_images_that_every_radius_met():
    small = make_cell("h" * 20 + "w" * 80, "pgd50-linf-4", eps=EPS / 2, threat="linf-4")
    large = make_cell("h" * 10 + "b" * 10, PGD_NAME)
    (panel,) = [one for one in build_curve_panels(make_evidence(small, large)) if one.attack == "pgd50"]
    (curve,) = panel.curves
    assert [share for _, share in curve.points] == [compute_clopper_pearson(k, 20) for k in (20, 20, 10)]
    assert panel.title == "pgd50 (n = 20)"


def test_curves_of_several_models_are_of_the_images_that_all_of_them_met():
    cells = [
        make_cell(
            "h" * images,
            f"pgd50-linf-{eps}",
            key=f"{model}{eps}",
            model=model,
            eps=eps / 255,
            threat=f"linf-{eps}",
        )
        for model, images in (("a", 100), ("b", 12))
        for eps in (4, 8)
    ]
    (panel,) = build_curve_panels(make_evidence(*cells))
    assert [curve.n for curve in panel.curves] == [12, 12]


def test_models_that_share_no_image_are_said_to_be_of_other_images():
    cells = [
        make_cell(
            "h" * images,
            f"pgd50-linf-{eps}",
            key=f"{model}{eps}",
            model=model,
            eps=eps / 255,
            threat=f"linf-{eps}",
        )
        for model, images in (("a", 100), ("b", 12))
        for eps in (4, 8)
    ]
    for place in (2, 3):
        moved = {f"other-{image}": verdict for image, verdict in cells[place].verdicts.items()}
        cells[place] = replace(cells[place], verdicts=moved)
    (panel,) = build_curve_panels(make_evidence(*cells))
    assert panel.title == "pgd50 (other images each, n = 12 to 100)"


def test_proof_and_attack_are_drawn_over_the_same_images():
    """Proof on 50 images, attacks on 16 of them: on these 16 the two agree, so no gap is drawn."""
    marks = "p" * 8 + "h" * 8 + "p" * 34
    evidence = make_evidence(proof(marks), make_cell("h" * 8 + "b" * 8, AUTOATTACK_NAME))
    (group,) = build_certified_groups(evidence)
    certified, attacked = group.panels[0].curves
    assert certified.points[-1][1] == attacked.points[-1][1] == compute_clopper_pearson(8, 16)
    assert certified.points[0][1] == attacked.points[0][1] == compute_clopper_pearson(16, 16)
    assert group.rows[0].points[-1][1] == compute_clopper_pearson(42, 50)


def test_distance_curves_of_several_models_are_of_the_same_images():
    cells = [
        replace(
            make_cell(
                "b" * images, "ddn-l2-1", key=model, model=model, norm="L2", eps=1.0, threat="l2-1",
                measure="distance",
            ),
            radii={f"image-{place:03}": 0.01 * (place + 1) for place in range(images)},
        )
        for model, images in (("a", 60), ("b", 15))
    ]  # fmt: skip
    (group,) = build_distance_groups(make_evidence(*cells))
    assert [curve.n for curve in group.panels[0].curves] == [15, 15]
    assert [one.quartiles.n for one in group.attack_distances] == [60, 15]


def test_naive_and_adaptive_are_stated_over_the_images_that_both_met():
    naive = make_cell("h" * 30 + "b" * 10, f"{PGD_NAME}[naive]", knowledge="naive", defense="jpeg")
    adaptive = make_cell("h" * 5 + "b" * 5, PGD_NAME, defense="jpeg")
    (lesson,) = build_naive_vs_adaptive(make_evidence(naive, adaptive))
    assert lesson.naive.estimate == compute_clopper_pearson(10, 10)
    assert lesson.adaptive.estimate == compute_clopper_pearson(5, 10)
    assert lesson.comparison is not None
    assert lesson.comparison.n == 10


def test_corruptions_and_their_mean_are_of_the_same_images():
    cells = [
        make_cell(marks, f"fog-{size:g}", norm="corruption", eps=size, threat=f"fog-{size:g}")
        for size, marks in ((1.0, "h" * 10 + "w" * 40), (5.0, "h" * 5 + "b" * 5))
    ]
    (found,) = build_corruption_maps(make_evidence(*cells))
    assert [square.estimate for square in found.rows[0].entries] == [
        compute_clopper_pearson(10, 10),
        compute_clopper_pearson(5, 10),
    ]
    assert found.clean_accuracy == compute_clopper_pearson(10, 10)
    assert found.mean_row.mean_entry.estimate.value == pytest.approx(0.75)


def test_models_are_compared_on_images_whose_worst_case_is_known_for_both():
    cells = [
        make_cell("h" * 30, PGD_NAME, key="1"),
        make_cell("h" * 10, AUTOATTACK_NAME, key="2"),
        make_cell("b" * 20, PGD_NAME, key="3", model="other"),
        make_cell("b" * 10, AUTOATTACK_NAME, key="4", model="other"),
    ]
    evidence = make_evidence(*cells)
    (pair,) = evidence.compare_models(evidence.threats[0])
    assert (pair.comparison.n, pair.comparison.only_first) == (10, 10)


def test_the_headline_row_draws_clean_and_attacked_of_the_same_images():
    """Of ten images that all attacks met eight hold, of all hundred at most 38: both are of the hundred."""
    weak = make_cell("h" * 8 + "b" * 2 + "w" * 60 + "h" * 30, PGD_NAME)
    (worst,) = make_evidence(weak, make_cell("h" * 8 + "b" * 2, AUTOATTACK_NAME)).worst_cases
    assert (worst.robust_accuracy.value, worst.robust_accuracy.n) == (0.38, 100)
    assert (worst.clean_accuracy.value, worst.clean_accuracy.n) == (0.4, 100)
    macros = create_environment().get_template("macros.html.j2").module
    row = str(macros.verdict_row(worst.subject, worst.clean_accuracy, worst, [], [], None, None))
    assert 'x1="38.00%"' in row
    assert 'x2="40.00%"' in row
    assert "of all images" not in row


def test_one_attack_on_fewer_images_stands_beside_all_without_being_drawn():
    """1,000 images untouched, 60 of them attacked: the row is of the 60, with the 1,000 in words."""
    weak = make_cell("h" * 60 + "h" * 900 + "w" * 40, PGD_NAME)
    strong = make_cell("h" * 50 + "b" * 10, AUTOATTACK_NAME)
    evidence = make_evidence(weak, strong)
    (worst,) = evidence.worst_cases
    assert (worst.clean_accuracy.n, worst.robust_accuracy.n) == (60, 60)
    macros = create_environment().get_template("macros.html.j2").module
    row = str(
        macros.verdict_row(
            worst.subject, evidence.compute_clean_accuracy(worst.subject), worst, [], [], None, None
        )
    )
    assert 'x2="100.00%"' in row
    assert "of all images" in row
    assert "96.0" in row
