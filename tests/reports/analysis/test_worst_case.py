"""An image that one attack broke is broken, whether or not every attack met it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import find_worst_cases, judge_cell
from robustbench_local.reports.analysis.run_warnings import find
from robustbench_local.reports.analysis.worst_case import worst_of
from robustbench_local.statistics import clopper_pearson, share_met_in_part
from robustbench_local.store import CellRecord, OutcomeRecord

EPS = 8 / 255
PGD, AUTOATTACK = "pgd50-linf-8", "autoattack-linf-8"


def make_cell(marks, attack=PGD, *, length=EPS, **changes):
    """A cell with an outcome a letter: h held, b broken, w wrong untouched, e error; broken at ``length``."""
    record = CellRecord(
        key=changes.pop("key", attack), position=0, model="m", defense="none", attack=attack, card=attack,
        norm="Linf", eps=EPS, threat="linf-8", goal="untargeted", images=len(marks), status="done",
    )  # fmt: skip
    rows = [
        OutcomeRecord(
            cell=attack, position=place, image=f"image-{place:03}", label=0,
            clean_prediction=int(mark == "w"), adversarial_prediction=int(mark in "wb"),
            clean_correct=mark != "w", broken=mark == "b", moved_elsewhere=False, margin=0.5, fragile=False,
            linf=length if mark == "b" else 0.0, l2=1.0, l1=9.0, broken_8bit=True if mark == "b" else None,
            forward_passes=2, backward_passes=1, seconds=0.1, status="error" if mark == "e" else "ok",
        )
        for place, mark in enumerate(marks)
    ]  # fmt: skip
    return judge_cell(replace(record, **changes), rows)


def make_evidence(*cells):
    return Evidence(cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def rule(evidence, **gate):
    entry = {"metric": "robust_accuracy", "threat": "linf-8"} | gate
    return judge_evidence(evidence, [entry]).verdicts[0]


def test_what_one_attack_broke_needs_no_other_attack():
    evidence = make_evidence(make_cell("b" * 24), make_cell("b" * 8, AUTOATTACK))
    (worst,) = evidence.worst_cases
    assert worst.robust_accuracy == clopper_pearson(0, 24)
    assert worst.attack_success == clopper_pearson(24, 24)
    assert worst.left_out == 0
    assert rule(evidence, min=0.15).ruling == "fail"
    assert rule(evidence, min=0.14).ruling == "inconclusive"


def test_images_that_are_misclassified_or_raise_need_no_other_attack_either():
    worst = worst_of([make_cell("hhbwe"), make_cell("hb", AUTOATTACK)])
    assert worst.robust_accuracy == clopper_pearson(1, 5)
    assert worst.clean_accuracy == clopper_pearson(4, 5)


def test_one_unbroken_image_that_not_all_attacks_met_leaves_the_share_to_the_common_ones():
    worst = worst_of([make_cell("hhb" + "bbbh"), make_cell("hbb", AUTOATTACK)])
    assert (worst.left_out, len(worst.verdicts), len(worst.every)) == (4, 3, 7)
    assert worst.robust_accuracy == share_met_in_part((1, 3), (2, 7))
    assert worst.robust_accuracy.n == 7  # 2 of 7 are unbroken at most, and 1 of 3 would be more
    assert worst.clean_accuracy.n == 7


def test_clean_and_robust_accuracy_are_of_the_same_images():
    worst = worst_of([make_cell("hhbw" + "w" * 4 + "h" * 12), make_cell("hbbw", AUTOATTACK)])
    assert (worst.robust_accuracy.value, worst.robust_accuracy.n) == (0.25, 4)
    assert worst.clean_accuracy == clopper_pearson(3, 4)
    assert worst.attack_success.n == 3


def test_without_a_common_image_only_an_upper_end_is_known():
    shifted = make_cell("h" * 10, AUTOATTACK)
    moved = {image.replace("image", "other"): verdict for image, verdict in shifted.verdicts.items()}
    evidence = make_evidence(make_cell("h" + "b" * 29), replace(shifted, verdicts=moved))
    share = evidence.worst_cases[0].robust_accuracy
    assert (share.low, share.high) == (0.0, clopper_pearson(11, 40).high)
    assert rule(evidence, min=0.5).ruling == "fail"
    assert rule(evidence, min=0.01).ruling == "inconclusive"


def test_a_strong_attack_on_few_images_bounds_what_a_weak_one_leaves_of_many():
    worst = worst_of([make_cell("h" * 600), make_cell("b" * 20, AUTOATTACK)])
    assert worst.robust_accuracy.value == 0.0
    assert worst.robust_accuracy.n == 20
    assert worst.robust_accuracy.high < 0.25


def test_a_fail_that_all_images_prove_is_decided_and_a_pass_needs_the_common_ones():
    evidence = make_evidence(make_cell("h" * 8 + "b" * 92), make_cell("h" * 8, AUTOATTACK))
    assert rule(evidence, min=0.3).ruling == "fail"
    assert rule(evidence, min=0.01).ruling == "pass"  # 8 of 100: the upper bound, and its lower end 3.5 %
    assert rule(evidence, min=0.05).ruling == "inconclusive"
    few = make_evidence(make_cell("h" * 100), make_cell("h" * 8, AUTOATTACK))
    assert rule(few, min=0.9).ruling == "inconclusive"  # all of 100 hold, but only 8 met AutoAttack
    assert "8 of 100 images met every attack" in rule(few, min=0.9).reason


@pytest.mark.parametrize(
    "other",
    [
        {"knowledge": "transfer", "surrogate": "another"},
        {"knowledge": "naive"},
        {"goal": "targeted", "targets": (1,)},
        {"status": "error", "error": "boom"},
        {"status": "running", "images": 9},
        {"eps": EPS / 2, "threat": "linf-4"},
        {"eps": 2 * EPS, "threat": "linf-16"},
        {"norm": "L2", "eps": 3.0, "threat": "l2-3"},
        {"norm": "corruption", "eps": 1.0, "threat": "fog-1"},
    ],
)
def test_whatever_broke_an_image_inside_the_ball_broke_it(other):
    evidence = make_evidence(make_cell("hhhb"), make_cell("hbbb", "other", **other))
    worst = next(one for one in evidence.worst_cases if one.threat.name == "linf-8")
    assert worst.robust_accuracy == clopper_pearson(1, 4)
    assert worst.attack_success == clopper_pearson(3, 4)
    assert worst.elsewhere == {"image-001": "other", "image-002": "other"}
    assert rule(evidence, max=0.9, on="estimate").estimate.value == 0.25
    assert any("2 images of" in one.text and "inside the same ball" in one.text for one in find(evidence))


@pytest.mark.parametrize(
    ("other", "length"),
    [
        ({"eps": 2 * EPS, "threat": "linf-16"}, 1.01 * EPS),
        ({"norm": "L2", "eps": 3.0, "threat": "l2-3"}, 0.5),
        ({"model": "another"}, EPS),
        ({"norm": "sticker", "measure": "views", "threat": "sticker-10", "eps": 0.1}, EPS),
    ],
)
def test_what_lies_outside_the_ball_or_concerns_another_model_does_not_count(other, length):
    evidence = make_evidence(make_cell("hhhb"), make_cell("hbbb", "other", length=length, **other))
    worst = next(
        one for one in evidence.worst_cases if (one.threat.name, one.subject.model) == ("linf-8", "m")
    )
    assert worst.robust_accuracy == clopper_pearson(3, 4)
    assert not worst.elsewhere


def test_what_changes_the_whole_image_says_nothing_about_a_mask():
    masked = make_cell("hhhb", identity={"threat": "ThreatModel(norm='Linf', region='mask')"})
    transfer = make_cell("hbbb", "other", knowledge="transfer", surrogate="another")
    assert worst_of([masked], [transfer]).robust_accuracy == clopper_pearson(3, 4)


def test_smaller_angles_lie_inside_larger_ones_but_severities_do_not():
    small = make_cell("hbbb", "a", norm="spatial", eps=10.0, threat="spatial-10")
    large = make_cell("hhhb", "b", norm="spatial", eps=30.0, threat="spatial-30")
    assert worst_of([large], [small]).robust_accuracy == clopper_pearson(1, 4)
    assert worst_of([small], [large]).robust_accuracy == clopper_pearson(1, 4)
    fog = [
        make_cell("hhhb", str(size), norm="corruption", eps=size, threat=f"fog-{size:g}")
        for size in (3.0, 5.0)
    ]
    assert worst_of([fog[1]], [make_cell("hbbb", norm="corruption", eps=3.0, threat="fog-3")]).elsewhere == {}


def test_a_gate_that_names_an_attack_judges_that_attack_alone():
    transfer = make_cell("bb" + "h" * 28, "t", knowledge="transfer", surrogate="s")
    evidence = make_evidence(make_cell("h" * 30), transfer)
    assert rule(evidence, threat=None, attack=PGD, min=0.95, on="estimate").ruling == "pass"
    assert rule(evidence, min=0.95, on="estimate").ruling == "fail"


def make_distances(radii, attack, first=0):
    """A cell of an attack that looks for the nearest adversarial images, at these radii."""
    cell = make_cell("b" * len(radii), attack, measure="distance", eps=3.0, norm="L2", threat="l2-3")
    known = {f"image-{first + place:03}": radius for place, radius in enumerate(radii)}
    return replace(cell, radii=known)


def test_a_distance_gate_uses_what_any_attack_found_of_any_image():
    gate = {"metric": "median_distance", "threat": "l2-3"}
    far = make_distances([1.0] * 40, "ddn-l2-3")
    near = make_evidence(far, make_distances([0.1] * 30, "fmn-l2-3"))
    assert judge_evidence(near, [gate | {"min": 0.5}]).verdicts[0].ruling == "fail"
    apart = make_evidence(far, make_distances([0.1] * 4, "fmn-l2-3", first=40))
    verdict = judge_evidence(apart, [gate | {"min": 0.5}]).verdicts[0]
    assert verdict.ruling == "inconclusive"  # no image met both: the lower end is 0
    assert judge_evidence(apart, [gate | {"min": 1.5}]).verdicts[0].ruling == "fail"
