"""An image that one attack broke is broken, whether or not every attack met it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.worst_case import compute_worst_case
from robustbench_local.statistics import compute_clopper_pearson, estimate_partial_share
from robustbench_local.store import CellRecord, OutcomeRecord

EPS = 8 / 255
PGD_NAME, AUTOATTACK_NAME = "pgd50-linf-8", "autoattack-linf-8"


def make_cell(marks, attack=PGD_NAME, *, length=EPS, **changes):
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
    return build_cell_result(replace(record, **changes), rows)


def make_evidence(*cells):
    return Evidence(cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def judge_gate(evidence, **gate):
    entry = {"metric": "robust_accuracy", "threat": "linf-8"} | gate
    return judge_evidence(evidence, [entry]).verdicts[0]


def test_what_one_attack_broke_needs_no_other_attack():
    evidence = make_evidence(make_cell("b" * 24), make_cell("b" * 8, AUTOATTACK_NAME))
    (worst,) = evidence.worst_cases
    assert worst.robust_accuracy == compute_clopper_pearson(0, 24)
    assert worst.attack_success == compute_clopper_pearson(24, 24)
    assert worst.left_out_count == 0
    assert judge_gate(evidence, min=0.15).ruling == "fail"
    assert judge_gate(evidence, min=0.14).ruling == "inconclusive"


def test_images_that_are_misclassified_or_raise_need_no_other_attack_either():
    worst = compute_worst_case([make_cell("hhbwe"), make_cell("hb", AUTOATTACK_NAME)])
    assert worst.robust_accuracy == compute_clopper_pearson(1, 5)
    assert worst.clean_accuracy == compute_clopper_pearson(4, 5)


def test_one_unbroken_image_that_not_all_attacks_met_leaves_the_share_to_the_common_ones():
    worst = compute_worst_case([make_cell("hhb" + "bbbh"), make_cell("hbb", AUTOATTACK_NAME)])
    assert (worst.left_out_count, len(worst.verdicts), len(worst.any_attack_verdicts)) == (4, 3, 7)
    assert worst.robust_accuracy == estimate_partial_share(
        partial(compute_clopper_pearson, 1, 3), partial(compute_clopper_pearson, 2, 7)
    )
    assert worst.robust_accuracy.n == 7  # 2 of 7 are unbroken at most, and 1 of 3 would be more
    assert worst.clean_accuracy.n == 7


def test_clean_and_robust_accuracy_are_of_the_same_images():
    worst = compute_worst_case([make_cell("hhbw" + "w" * 4 + "h" * 12), make_cell("hbbw", AUTOATTACK_NAME)])
    assert (worst.robust_accuracy.value, worst.robust_accuracy.n) == (0.25, 4)
    assert worst.clean_accuracy == compute_clopper_pearson(3, 4)
    assert worst.attack_success.n == 3


def test_without_a_common_image_only_an_upper_end_is_known():
    shifted = make_cell("h" * 10, AUTOATTACK_NAME)
    moved = {image.replace("image", "other"): verdict for image, verdict in shifted.verdicts.items()}
    evidence = make_evidence(make_cell("h" + "b" * 29), replace(shifted, verdicts=moved))
    share = evidence.worst_cases[0].robust_accuracy
    assert (share.low, share.high) == (0.0, compute_clopper_pearson(11, 40).high)
    assert judge_gate(evidence, min=0.5).ruling == "fail"
    assert judge_gate(evidence, min=0.01).ruling == "inconclusive"


def test_a_strong_attack_on_few_images_bounds_what_a_weak_one_leaves_of_many():
    worst = compute_worst_case([make_cell("h" * 600), make_cell("b" * 20, AUTOATTACK_NAME)])
    assert worst.robust_accuracy.value == 0.0
    assert worst.robust_accuracy.n == 20
    assert worst.robust_accuracy.high < 0.25


def test_a_fail_that_all_images_prove_is_decided_and_a_pass_needs_the_common_ones():
    evidence = make_evidence(make_cell("h" * 8 + "b" * 92), make_cell("h" * 8, AUTOATTACK_NAME))
    assert judge_gate(evidence, min=0.3).ruling == "fail"
    assert (
        judge_gate(evidence, min=0.01).ruling == "pass"
    )  # 8 of 100: the upper bound, and its lower end 3.5%
    assert judge_gate(evidence, min=0.05).ruling == "inconclusive"
    few = make_evidence(make_cell("h" * 100), make_cell("h" * 8, AUTOATTACK_NAME))
    assert judge_gate(few, min=0.9).ruling == "inconclusive"  # all of 100 hold, but only 8 met AutoAttack
    assert "8 of 100 images ran under every attack" in judge_gate(few, min=0.9).reason


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
    assert worst.robust_accuracy == compute_clopper_pearson(1, 4)
    assert worst.attack_success == compute_clopper_pearson(3, 4)
    assert worst.other_breaking_attacks == {"image-001": "other", "image-002": "other"}
    assert judge_gate(evidence, max=0.9, on="estimate").estimate.value == 0.25
    assert any(
        "2 images of" in one.text and "inside the same ball" in one.text for one in list_findings(evidence)
    )


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
    assert worst.robust_accuracy == compute_clopper_pearson(3, 4)
    assert not worst.other_breaking_attacks


def test_what_changes_the_whole_image_says_nothing_about_a_mask():
    masked = make_cell("hhhb", identity={"threat": "ThreatModel(norm='Linf', region='mask')"})
    transfer = make_cell("hbbb", "other", knowledge="transfer", surrogate="another")
    assert compute_worst_case([masked], [transfer]).robust_accuracy == compute_clopper_pearson(3, 4)


def test_smaller_angles_lie_inside_larger_ones_but_severities_do_not():
    small = make_cell("hbbb", "a", norm="spatial", eps=10.0, threat="spatial-10")
    large = make_cell("hhhb", "b", norm="spatial", eps=30.0, threat="spatial-30")
    assert compute_worst_case([large], [small]).robust_accuracy == compute_clopper_pearson(1, 4)
    assert compute_worst_case([small], [large]).robust_accuracy == compute_clopper_pearson(1, 4)
    fog = [
        make_cell("hhhb", str(size), norm="corruption", eps=size, threat=f"fog-{size:g}")
        for size in (3.0, 5.0)
    ]
    assert (
        compute_worst_case(
            [fog[1]], [make_cell("hbbb", norm="corruption", eps=3.0, threat="fog-3")]
        ).other_breaking_attacks
        == {}
    )


def test_a_gate_that_names_an_attack_judges_that_attack_alone():
    transfer = make_cell("bb" + "h" * 28, "t", knowledge="transfer", surrogate="s")
    evidence = make_evidence(make_cell("h" * 30), transfer)
    assert judge_gate(evidence, threat=None, attack=PGD_NAME, min=0.95, on="estimate").ruling == "pass"
    assert judge_gate(evidence, min=0.95, on="estimate").ruling == "fail"


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
