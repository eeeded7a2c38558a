"""Limits of what a report warns about, from both sides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from store_records import make_outcome_record

from robustbench_local.reports.analysis import sticker_warnings
from robustbench_local.reports.analysis.attempts import Attempt
from robustbench_local.reports.analysis.checklist import _find_curve
from robustbench_local.reports.analysis.eight_bit_worst_case import EightBitCase
from robustbench_local.reports.analysis.gradient_masking import exceeds_chance
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import compute_clopper_pearson


@pytest.mark.parametrize(
    ("count", "images", "is_beyond"),
    [(2, 100, False), (3, 100, True), (3, 300, True), (3, 301, False), (10, 1000, True), (9, 1000, False)],
)
def test_three_images_and_one_in_a_hundred_are_beyond_chance(count, images, is_beyond):
    assert exceeds_chance(count, images) is is_beyond


@pytest.mark.parametrize(("lost", "warns"), [(0, False), (10, False), (11, True)])
def test_more_than_one_in_a_hundred_lost_to_rounding_is_told(lost, warns):
    case = EightBitCase(
        subject=None, threat=None, attacks=(), targeted=False, robust_accuracy=None, undecided_count=0,
        attack_success=compute_clopper_pearson(500 - lost, 1000),
        float_success=compute_clopper_pearson(500, 1000),
    )  # fmt: skip
    assert case.has_success_drop is warns


@pytest.mark.parametrize(("count", "warns"), [(19, True), (20, False), (0, False)])
def test_fewer_than_twenty_signs_are_few(monkeypatch, count, warns):
    monkeypatch.setattr(sticker_warnings, "_compute_sign_success", lambda _: [0.5] * count)
    monkeypatch.setattr(
        sticker_warnings, "format_cells_with_facts", lambda cells, describe: describe(cells[0])
    )
    findings = list(sticker_warnings.find_few_signs(SimpleNamespace(cells=[None])))
    assert [finding.text.startswith("Few signs") for finding in findings] == [True] * warns


@pytest.mark.parametrize(("sizes", "text"), [((1, 2, 2), ""), ((1, 2, 3), "3 budgets of one norm.")])
def test_three_budgets_of_one_norm_make_a_curve(sizes, text):
    threats = [Threat(norm="L2", eps=float(size), name=f"l2-{size}") for size in sizes]
    other = Threat(norm="Linf", eps=9.0, name="linf-9")
    assert _find_curve(SimpleNamespace(attack_cells=(), threats=[*threats, other])) == text


@pytest.mark.parametrize(("queries", "enough"), [(None, False), (999, False), (1000, True)])
def test_a_black_box_attack_needs_a_thousand_queries_to_prove_anything(queries, enough):
    attempt = SimpleNamespace(cell=SimpleNamespace(query_stats=SimpleNamespace(largest=queries)))
    assert Attempt.has_enough_queries.fget(attempt) is enough


@pytest.mark.parametrize(
    ("zero", "unconfirmed", "missing"), [(0, 0, False), (49, 0, False), (25, 25, True), (50, 0, True)]
)
def test_half_of_the_gradients_missing_are_no_usable_gradients(zero, unconfirmed, missing):
    record = make_outcome_record(
        gradient_steps=100, zero_gradient_steps=zero, unconfirmed_gradient_steps=unconfirmed
    )
    assert record.has_missing_gradients is missing
