"""A worst case never lies above an attack that stands beside it, whichever images each of them met."""

from __future__ import annotations

import random

import pytest
from test_worst_case import EPS, make_cell, make_evidence

from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.heatmap import build_heatmap
from robustbench_local.reports.analysis.share_ceilings import lower_to_shares
from robustbench_local.statistics import compute_clopper_pearson

LIMITED = {"identity": {"limit": "20"}}
SLACK = 1e-12


def draw_run(rng):
    """Attacks of random strength on random parts of 40 images: done, failed or absent, in two balls."""
    hardness = [rng.random() for _ in range(40)]
    cells = []
    for index, eps in enumerate(rng.choices((EPS, EPS, EPS / 2), k=rng.randint(2, 5))):
        strength, size = rng.random(), rng.choice((40, 40, 20, 7, 1))
        level = strength * (1 if eps == EPS else 0.6)
        marks = ["w" if hard > 0.95 else "b" if hard < level else "h" for hard in hardness]
        if rng.random() < 0.2:
            marks[0] = "e"
        changes = {"threat": "linf-8" if eps == EPS else "linf-4", "eps": eps, "length": eps}
        if size < 40:  # a random part: a prefix, since images are drawn at random
            changes |= LIMITED
        if rng.random() < 0.15:
            changes |= {"status": "error", "error": "boom"}
        if rng.random() < 0.1:
            changes |= {"knowledge": "transfer", "surrogate": "another"}
        cells.append(make_cell("".join(marks[:size]), f"attack-{index}", **changes))
    return make_evidence(*cells)


def test_no_worst_case_lies_above_an_attack_or_a_smaller_ball_beside_it():
    rng, lowered = random.Random(5), 0
    for _ in range(25):
        evidence = draw_run(rng)
        by_name = {worst.threat.name: worst for worst in evidence.worst_cases}
        for worst in evidence.worst_cases:
            members = [
                cell
                for cell in evidence.cells
                if cell.is_in_worst_case and cell.threat == worst.threat and cell.is_done
            ]
            for cell in members:
                assert worst.robust_accuracy.value <= cell.robust_accuracy.value + SLACK
                if worst.attack_success.is_known and cell.attack_success.is_known:
                    assert worst.attack_success.value >= cell.attack_success.value - SLACK
            share = worst.robust_accuracy
            assert not share.is_known or 0 <= share.low <= share.value <= share.high <= 1
            lowered += bool(worst.ceilings)
        wide, narrow = by_name.get("linf-8"), by_name.get("linf-4")
        if wide and narrow and wide.robust_accuracy.is_known and narrow.robust_accuracy.is_known:
            assert wide.robust_accuracy.value <= narrow.robust_accuracy.value + SLACK
        for case in find_eight_bit_cases(evidence):
            assert not case.robust_accuracy.is_known or (
                case.robust_accuracy.value >= by_name[case.threat.name].robust_accuracy.value - SLACK
            )
        for row in build_heatmap(evidence).rows:
            check_row(build_heatmap(evidence).columns, row)
    assert lowered > 10


def check_row(columns, row):
    for column, entry in zip(columns, row.entries, strict=True):
        if column.is_worst_case and entry.estimate.is_known:
            beside = [
                other.estimate.value
                for other_column, other in zip(columns, row.entries, strict=True)
                if other_column.threat == column.threat and other.estimate.is_known
            ]
            assert entry.estimate.value <= min(beside) + SLACK


def test_the_unlucky_part_lowers_the_value_and_leaves_the_upper_end():
    """Half of the part is robust to the strong attack, as to the weak one; of all images more are."""
    weak = make_cell("h" * 10 + "b" * 10 + "h" * 20, "weak")
    strong = make_cell("h" * 9 + "b" * 11, "strong", **LIMITED)
    evidence = make_evidence(weak, strong)
    (worst,) = evidence.worst_cases
    assert [len(phase.verdicts) for phase in worst.phases] == [40, 20]
    share = worst.robust_accuracy
    assert share.value == strong.robust_accuracy.value == 0.45  # the phases alone give 0.75 * 0.9
    assert share.low <= share.value
    assert share.high > 0.675
    assert worst.attack_success.value == pytest.approx(0.55)
    gate = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5, "on": "estimate"}
    assert judge_evidence(evidence, [gate]).verdicts[0].estimate == share
    assert judge_evidence(evidence, [gate]).verdicts[0].ruling == "fail"


@pytest.mark.parametrize(
    ("marks", "value", "low"),
    [
        ([], 0.5, 0.187),
        ([{}], 0.5, 0.187),
        ([{"a": True}], 0.5, 0.187),
        ([{"a": True, "b": False}], 0.5, 0.187),
        ([{"a": True, "b": False, "c": False}, {"a": True}], 1 / 3, 0.187),
        ([{"a": False}], 0.0, 0.0),
    ],
)
def test_the_lowest_share_is_stated(marks, value, low):
    before = compute_clopper_pearson(5, 10)
    after = lower_to_shares(before, marks)
    assert (after.value, after.high, after.n) == (value, before.high, 10)
    assert after.low == pytest.approx(low, abs=1e-3)
