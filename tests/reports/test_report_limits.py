"""Limits of what a report warns about, from both sides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from store_records import make_outcome_record

from robustbench_local.reports.analysis.attempts import Attempt
from robustbench_local.reports.analysis.eight_bit_worst_case import EightBitCase
from robustbench_local.reports.analysis.gradient_masking import exceeds_chance
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
