"""A cheap attack on many images and an expensive one on a random part give one estimate of two phases."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_worst_case import AUTOATTACK_NAME, PGD_NAME, judge_gate, make_cell, make_evidence

from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.reports.analysis.attack_phases import (
    MAX_CLASS_SHIFT,
    AttackPhase,
    count_phases,
    describe_phases,
    plan_phases,
)
from robustbench_local.reports.analysis.deciding_images import (
    AT_LIMIT_TEXT,
    count_deciding_images,
    describe_deciding_images,
)
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.worst_case import compute_worst_case
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.reports.summary.headline import describe_answer
from robustbench_local.reports.writers.results_json import encode_results
from robustbench_local.statistics import compute_clopper_pearson

SQUARE_NAME = "square-linf-8"


def make_part(marks, attack=AUTOATTACK_NAME, **changes):
    """A cell of an attack whose entry has a limit; it has the first images."""
    return make_cell(marks, attack, identity={"limit": str(len(marks))}, **changes)


def make_pair(images=600, robust=360, part=20, attacked=12, survived=11):
    """PGD on all images and AutoAttack on a part: so many are robust to PGD, and of the part to both."""
    common = "h" * attacked + "b" * (part - attacked)
    rest = "h" * (robust - attacked) + "b" * (images - part - robust + attacked)
    strong = "h" * survived + "b" * (part - survived)
    return make_cell(common + rest), make_part(strong)


def test_two_phases_use_the_cheap_attack_on_all_images():
    evidence = make_evidence(*make_pair())
    (worst,) = evidence.worst_cases
    assert worst.count_robust_phases() == [Phase(600, 600, 360), Phase(20, 12, 11)]
    share = worst.robust_accuracy
    assert share == estimate_phased_share([Phase(600, 600, 360), Phase(20, 12, 11)])
    assert share.value == pytest.approx(0.6 * 11 / 12)
    assert (
        share.value <= evidence.cells[0].robust_accuracy.value
    )  # never above the cheap attack on its images
    alone = compute_clopper_pearson(11, 20)
    assert share.high - share.low < 0.6 * (alone.high - alone.low)
    assert worst.clean_accuracy == compute_clopper_pearson(600, 600)
    assert worst.attack_success.value == pytest.approx(1 - share.value)
    assert (worst.attack_success.low, worst.attack_success.high) == (1 - share.high, 1 - share.low)
    assert format_estimate(share).endswith("n = 600, all attacks on 20)")
    assert str(share).endswith("n=600, all attacks on 20)")


def test_misclassified_images_and_errors_are_not_robust_in_any_phase():
    weak = make_cell("wehb" + "h" * 30 + "b" * 6)
    strong = make_part("wehb" + "h" * 4)
    worst = compute_worst_case([weak, strong])
    assert worst.count_robust_phases() == [Phase(40, 40, 31), Phase(8, 5, 5)]
    assert worst.count_unbroken_phases() == [Phase(39, 39, 32), Phase(7, 6, 6)]
    assert worst.clean_accuracy == compute_clopper_pearson(39, 40)


def test_texts_and_results_name_the_phases_and_the_attack_that_would_decide():
    evidence = make_evidence(*make_pair())
    phrase = f"two phases: {PGD_NAME} on 600 images, {AUTOATTACK_NAME} on 20 of them"
    assert describe_phases(evidence.worst_cases[0].phases) == phrase
    assert f"Worst case in {phrase};" in describe_answer(evidence)
    assert any(f"is estimated in {phrase}" in one.text for one in list_findings(evidence))
    verdict = judge_gate(evidence, min=0.45)
    assert verdict.ruling == "inconclusive"
    assert f"more images under {AUTOATTACK_NAME} would decide; {phrase}" in verdict.reason
    assert "n=600, all attacks on 20" in format_verdict(verdict)
    (entry,) = json.loads(json.dumps(encode_results(evidence, judge_evidence(evidence))))["worst_case"]
    assert entry["phases"] == [
        {"attacks": [PGD_NAME], "images": 600, "attacked": 600, "robust": 360},
        {"attacks": [AUTOATTACK_NAME], "images": 20, "attacked": 12, "robust": 11},
    ]
    assert entry["robust_accuracy"]["phases"] == [600, 20]
    assert entry["phase_obstacle"] is None


def test_gates_decide_with_both_phases_where_the_part_alone_could_not():
    evidence = make_evidence(*make_pair())
    alone = make_evidence(make_pair()[1])
    for gate, ruling in (({"min": 0.35}, "pass"), ({"min": 0.65}, "fail"), ({"max": 0.3}, "fail")):
        assert judge_gate(evidence, **gate).ruling == ruling
        assert judge_gate(alone, **gate).ruling == (
            "inconclusive" if ruling != "fail" else judge_gate(alone, **gate).ruling
        )
    success = {"metric": "attack_success", "max": 0.65}
    assert judge_gate(evidence, **success).ruling == "pass"
    assert "would decide" in judge_gate(evidence, metric="attack_success", max=0.5).reason


@pytest.mark.parametrize("metric", ["robust_accuracy", "attack_success"])
def test_so_many_more_images_decide_if_the_shares_stay(metric):
    limit = {"min": 0.5} if metric == "robust_accuracy" else {"max": 0.5}
    reason = judge_gate(make_evidence(*make_pair()), metric=metric, **limit).reason
    more = int(reason.split("about ")[1].split(" more")[0].replace(",", ""))
    for extra, ruling in ((round(1.15 * more), "pass"), (more // 2, "inconclusive")):  # counts are rounded
        part = 20 + extra
        attacked = round(0.6 * part)
        pair = make_pair(part=part, attacked=attacked, survived=round(attacked * 11 / 12))
        assert judge_gate(make_evidence(*pair), metric=metric, **limit).ruling == ruling


def test_where_the_whole_part_does_not_decide_every_attack_needs_more():
    reason = judge_gate(make_evidence(*make_pair()), min=0.53).reason
    assert f"more images under {PGD_NAME} and {AUTOATTACK_NAME} would decide" in reason
    assert AT_LIMIT_TEXT in judge_gate(make_evidence(*make_pair()), min=0.55).reason


def test_three_phases_name_the_attacks_that_have_to_see_more():
    third = make_part("h" * 5 + "b" * 3, SQUARE_NAME)
    evidence = make_evidence(*make_pair(), third)
    (worst,) = evidence.worst_cases
    assert [phase.attack_labels for phase in worst.phases] == [
        (PGD_NAME,),
        (AUTOATTACK_NAME,),
        (SQUARE_NAME,),
    ]
    assert worst.count_robust_phases()[2] == Phase(8, 8, 5)
    assert describe_phases(worst.phases).startswith("three phases: ")
    assert f"under {AUTOATTACK_NAME} and {SQUARE_NAME} would decide" in judge_gate(evidence, min=0.4).reason


def test_breaks_elsewhere_count_in_the_first_phase_unless_they_are_known_of_a_part_only():
    weak, strong = make_pair()
    everywhere = make_cell("b" + "h" * 599, "t", knowledge="transfer", surrogate="s")
    limited = make_part("hb" + "h" * 28, "u", knowledge="transfer", surrogate="s")
    worst = compute_worst_case([weak, strong], [everywhere, limited])
    assert worst.count_robust_phases() == [Phase(600, 600, 359), Phase(20, 11, 9)]


@pytest.mark.parametrize(
    ("cells", "obstacle"),
    [
        ([make_cell("h" * 30), make_cell("h" * 8, AUTOATTACK_NAME)], "were not drawn at random"),
        ([make_cell("h" * 30), make_part("h" * 40)], "were not drawn at random"),
        ([replace(make_cell("h" * 30), groups={"image-000": "a"}), make_part("h" * 8)], "are in groups"),
    ],
)
def test_other_differences_are_no_phases_and_say_why(cells, obstacle):
    evidence = make_evidence(*cells)
    (worst,) = evidence.worst_cases
    assert not worst.phases
    assert obstacle in worst.phase_obstacle
    verdict = judge_gate(evidence, min=0.95)
    assert verdict.ruling == "inconclusive"
    assert f"not two phases, since {worst.phase_obstacle}" in verdict.reason
    assert "would decide" in verdict.reason


def test_images_outside_the_others_are_no_part():
    moved = make_part("h" * 8)
    elsewhere = {image.replace("image", "other"): verdict for image, verdict in moved.verdicts.items()}
    plan = plan_phases([make_cell("h" * 30), replace(moved, verdicts=elsewhere)])
    assert not plan.cells
    assert "ran on images that the others did not" in plan.obstacle


def give_labels(cell, labels):
    predictions = {
        image: prediction._replace(label=label)
        for (image, prediction), label in zip(cell.predictions.items(), labels, strict=True)
    }
    return replace(cell, predictions=predictions)


@pytest.mark.parametrize(("large", "is_part"), [(54, True), (57, False), (95, False)])
def test_a_part_that_is_even_over_uneven_classes_is_no_random_part(large, is_part):
    """20 images are 10 of each class: off by 4 points where the classes are 54 and 46, by 7 at 57 and 43."""
    weak = give_labels(make_cell("h" * 100), [0] * large + [1] * (100 - large))
    plan = plan_phases([weak, give_labels(make_part("h" * 20), [0, 1] * 10)])
    assert bool(plan.cells) is is_part
    assert is_part or "even over the classes, and all images are not" in plan.obstacle
    assert MAX_CLASS_SHIFT == 0.05


def test_a_part_of_fewer_images_than_classes_takes_random_classes():
    weak = give_labels(make_cell("h" * 90), [label for label in range(45) for _ in range(2)])
    assert plan_phases([weak, give_labels(make_part("h" * 20), list(range(20)))]).cells


def test_counts_of_phases_look_at_the_part_alone():
    marks = [{"a": True, "b": True, "c": False, "d": True}, {"a": True, "c": False, "d": False}]
    assert count_phases(marks) == [Phase(4, 4, 3), Phase(3, 2, 1)]


def test_classes_have_phases_of_their_own():
    worst = compute_worst_case(list(make_pair()))
    part = worst.select_images({f"image-{index:03}" for index in range(0, 600, 2)})
    assert part.robust_accuracy.phases == (300, 10)


def test_in_8_bits_the_phases_are_the_same_and_no_image_is_more_robust_than_it_is():
    weak, strong = make_pair()
    broken = list(weak.success_8bit)
    rounded = replace(weak, success_8bit=dict.fromkeys(broken, True) | dict.fromkeys(broken[-9:], False))
    evidence = make_evidence(rounded, strong)
    (case,) = find_eight_bit_cases(evidence)
    (worst,) = evidence.worst_cases
    assert case.float_success == worst.attack_success
    assert case.robust_accuracy.phases == (600, 20)
    assert case.robust_accuracy.value > worst.robust_accuracy.value
    (same,) = find_eight_bit_cases(make_evidence(weak, strong))
    assert same.robust_accuracy == worst.robust_accuracy


@pytest.mark.parametrize(("count", "n"), [(12, 20), (60, 100), (30, 55)])
def test_the_number_of_images_is_about_the_least_that_decides(count, n):
    gate, share = Gate(threat="linf-8", min=0.5), compute_clopper_pearson(count, n)
    found = count_deciding_images(share, lambda estimate: estimate.low >= 0.5)
    least = next(
        images
        for images in range(n + 1, 10_000)
        if compute_clopper_pearson(round(share.value * images), images).low >= 0.5
    )
    assert least <= found <= 1.15 * least
    assert f"about {found - n} more image" in describe_deciding_images(gate, share, ["a"]).replace(",", "")
    assert describe_deciding_images(gate, replace(share, groups=4)) == "more groups of images would decide"
    assert "under every attack" in describe_deciding_images(gate, share, list("abcd"))


def test_phases_of_many_attacks_are_joined():
    phases = [
        AttackPhase(attacks=("x", "y"), attack_labels=("x", "y"), verdicts={"a": None, "b": None}),
        AttackPhase(attacks=("z",), attack_labels=("z",), verdicts={"a": None}),
    ]
    assert describe_phases(phases) == "two phases: x and y on 2 images, z on 1 of them"
