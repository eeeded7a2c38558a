"""The answer of a targeted run: one goal, every model, and a word on the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.targeted_goal import select_main_goal_cells
from robustbench_local.reports.formatting.text import format_budget, format_estimate
from robustbench_local.reports.summary import headline
from robustbench_local.statistics import compute_clopper_pearson

LIMITS = (1, 2, 3)


def cell(evidence: Evidence, model: str, eps: float, targets: tuple[int, ...], broken: int, **changes):
    """A finished targeted cell on ten images that are all read rightly."""
    found = next(one for one in evidence.cells if one.targeted)
    name = f"pgd-{model}-{eps}-{targets}"
    record = replace(
        found.record, key=name, model=model, attack=name, card=name, eps=eps, norm="Linf", sources=(14,),
        targets=targets,
    )  # fmt: skip
    tally = replace(found.tally, n=10, clean_correct=10, broken=broken)
    return replace(found, record=replace(record, **changes), tally=tally)


@pytest.fixture
def many(content) -> Evidence:
    """Two models, three radii with one target, and one radius with three."""
    models = ("signs-plain", "signs-pgd-at")
    cells = [
        cell(content.evidence, model, eps, (1,), broken)
        for model in models
        for eps, broken in ((2 / 255, 0), (4 / 255, 1), (8 / 255, 2))
    ]
    cells += [cell(content.evidence, model, 8 / 255, LIMITS, 7 + place) for place, model in enumerate(models)]
    return replace(content.evidence, cells=tuple(cells), worst_cases=(), question="")


def test_every_model_is_named_at_the_largest_radius_and_the_widest_goal(many):
    assert [(one.record.model, one.record.targets) for one in select_main_goal_cells(many)] == [
        ("signs-plain", LIMITS),
        ("signs-pgd-at", LIMITS),
    ]
    told = headline.describe_answer(many)
    budget = format_budget("Linf", 8 / 255)
    goal = f"Attack success under {budget}, Keep right misclassified as one of 3 target classes"
    strongest_first = (
        f"{goal}: signs-pgd-at: {format_estimate(compute_clopper_pearson(8, 10))}; signs-plain: "
    )
    assert told.startswith(strongest_first)
    assert (
        f"signs-plain: {format_estimate(compute_clopper_pearson(7, 10))}, of the correctly classified images"
        in told
    )
    assert (
        "stronger attacks can only raise this. 3 other goals and radii follow below. Strongest pair" in told
    )
    assert headline.describe_question(many).endswith("change every pixel by at most 8/255?")


def test_the_strongest_attack_speaks_for_a_goal_and_the_first_norm_of_the_grid_goes_first(many):
    weak = cell(many, "signs-plain", 8 / 255, LIMITS, 1, key="weak")
    round_ = cell(many, "signs-plain", 2.0, LIMITS, 10, norm="L2", key="l2")
    shown = replace(many, cells=(weak, *many.cells, round_))
    assert [one.tally.broken for one in select_main_goal_cells(shown)] == [7, 8]
    assert [one.tally.broken for one in select_main_goal_cells(replace(shown, cells=(round_,)))] == [10]


def test_a_goal_that_all_models_have_met_goes_before_a_harder_one_of_a_single_model(many):
    alone = cell(many, "signs-plain", 16 / 255, LIMITS, 10)
    assert [one.record.eps for one in select_main_goal_cells(replace(many, cells=(alone, *many.cells)))] == [
        8 / 255
    ] * 2


def test_of_many_models_the_ends_are_named_and_none_is_dropped_in_silence(many):
    cells = tuple(cell(many, f"model-{place}", 8 / 255, (1,), place) for place in range(7))
    told = headline.describe_answer(replace(many, cells=cells))
    assert "model-6: " in told
    assert "model-0: " in told
    assert "model-3" not in told
    assert "of 7 models, the highest is " in told
    assert "other goal" not in told
