"""Attacks of one run that contradict each other are told of, and the gates that hang on them stay open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_worst_case import AUTOATTACK_NAME, EPS, PGD_NAME, judge_gate, make_cell, make_evidence

from robustbench_local.reports.analysis.cell_result import QueryStats
from robustbench_local.reports.analysis.disagreements import find_disagreements
from robustbench_local.reports.analysis.doubt_finders import find_doubts
from robustbench_local.reports.analysis.gradient_masking import find_gradient_masking
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.store.outcome_limits import MAX_LOSS_GAP_SHARE

CE = {"method": "pgd", "steps": 50, "restarts": 5, "random_start": True, "loss": "ce"}
MARGIN = CE | {"loss": "margin"}
FGSM = {"method": "fgsm", "loss": "ce"}
SQUARE = {"method": "square", "queries": 5000}
ENSEMBLE = {"method": "autoattack", "version": "standard"}
ASKED_OFTEN = QueryStats(median=5000, largest=5000, median_broken=10, largest_broken=900)


def attack(marks, name, parameters, **changes):
    return make_cell(marks, name, parameters=parameters, **changes)


def square(marks, *, queries=5000, **changes):
    spending = ASKED_OFTEN._replace(largest=queries)
    return replace(
        attack(marks, "square-linf-8", SQUARE, knowledge="scores", **changes), query_stats=spending
    )


def autoattack(stages, **changes):
    """A cell of AutoAttack; a letter an image: c, t, f, s broken by that stage, h held."""
    names = {"c": "apgd-ce", "t": "apgd-t", "f": "fab-t", "s": "square"}
    cell = attack(["h" if one == "h" else "b" for one in stages], AUTOATTACK_NAME, ENSEMBLE, **changes)
    known = {f"image-{place:03}": names[one] for place, one in enumerate(stages) if one in names}
    return replace(cell, successful_stages=known, query_stats=ASKED_OFTEN)


def told(evidence):
    return [one.text for one in list_findings(evidence) if one.level in {"untrusted", "warning"}]


def reasons(evidence):
    return [one.reason for one in find_disagreements(evidence)]


# --- stage by stage ---------------------------------------------------------------------------------------


def test_square_inside_autoattack_is_a_black_box():
    masked = make_evidence(attack("h" * 50, PGD_NAME, CE), autoattack("h" * 10 + "s" * 40))
    (surprise,) = find_gradient_masking(masked)
    assert surprise.attacks == (f"{AUTOATTACK_NAME}, square",)
    assert surprise.missed_share.count == 40
    assert any("D8" in text and "under no white-box attack" in text for text in told(masked))


def test_autoattack_alone_is_judged_by_its_own_stages():
    assert [
        one.missed_share.count
        for one in find_gradient_masking(make_evidence(autoattack("c" * 10 + "s" * 40)))
    ] == [40]
    assert not list(find_gradient_masking(make_evidence(autoattack("c" * 30 + "t" * 10 + "f" * 10))))


@pytest.mark.parametrize(("fell", "images", "found"), [(2, 100, 0), (3, 100, 1), (3, 300, 1), (3, 301, 0)])
def test_a_stage_has_to_beat_chance(fell, images, found):
    """At least 3 and at least 1% of the images (D8); sound models stay silent."""
    cell = autoattack("s" * fell + "c" * (images - fell))
    assert len(list(find_gradient_masking(make_evidence(cell)))) == found


def test_a_stronger_grid_warns_no_less():
    """More white-box cells, of fewer images or of one step, hide nothing."""
    weak = [attack("h" * 60, PGD_NAME, CE), square("h" * 20 + "b" * 40)]
    more = [
        attack("h" * 4, "apgd-linf-8", {"method": "apgd", "loss": "dlr"}),
        attack("h" * 60, "fgsm-linf-8", FGSM),
        autoattack("h" * 20 + "s" * 40),
    ]
    for count in range(len(more) + 1):
        assert any(
            "D8" in text and "under no white-box attack" in text
            for text in told(make_evidence(*weak, *more[:count]))
        )


def test_what_a_single_step_missed_is_no_sign_of_masking():
    cells = [attack("h" * 40, "fgsm-linf-8", FGSM), attack("b" * 20, PGD_NAME, CE), square("b" * 40)]
    assert not list(find_gradient_masking(make_evidence(*cells)))


def test_what_any_white_box_broke_did_not_fall_to_the_black_box_alone():
    cells = [attack("b" * 40, "fgsm-linf-8", FGSM), attack("h" * 40, PGD_NAME, CE), square("b" * 40)]
    assert not list(find_gradient_masking(make_evidence(*cells)))


def test_runs_that_know_no_stages_are_judged_as_white_box():
    old = replace(autoattack("h" * 10 + "s" * 40), successful_stages={})
    assert not list(find_gradient_masking(make_evidence(attack("h" * 50, PGD_NAME, CE), old)))


# --- doubts from black boxes ------------------------------------------------------------------------------


def test_images_that_no_black_box_met_are_in_doubt_once_gradients_mislead():
    evidence = make_evidence(attack("h" * 100, PGD_NAME, CE), square("b" * 20))
    (doubt,) = find_doubts(evidence)
    assert len(doubt.images) == 100
    verdict = judge_gate(evidence, min=0.5)
    assert verdict.ruling == "fail"  # none of the 20 that both met is left
    kept = make_evidence(attack("h" * 100, PGD_NAME, CE), square("h" * 90 + "b" * 10))
    # a thorough black box met the rest, but white-box attacks that it beats are not trustworthy (D8)
    assert judge_gate(kept, min=0.6).ruling == "inconclusive"
    assert judge_gate(kept, min=0.6, trust="ignore").ruling == "pass"
    shallow = make_evidence(attack("h" * 100, PGD_NAME, CE), square("h" * 90 + "b" * 10, queries=999))
    assert judge_gate(shallow, min=0.6).ruling == "inconclusive"
    deep = make_evidence(attack("h" * 100, PGD_NAME, CE), square("h" * 90 + "b" * 10, queries=1000))
    assert judge_gate(shallow, min=0.6, trust="ignore").ruling == "inconclusive"
    assert judge_gate(deep, min=0.6, trust="ignore").ruling == "pass"


def test_a_gate_on_the_misled_attack_alone_is_not_decided():
    evidence = make_evidence(attack("h" * 100, PGD_NAME, CE), square("b" * 100))
    assert judge_gate(evidence, threat=None, attack=PGD_NAME, min=0.5).ruling == "inconclusive"
    assert judge_gate(evidence, threat=None, attack="square-linf-8", min=0.5).ruling == "fail"
    assert judge_gate(evidence, min=0.5).ruling == "fail"


def test_a_transfer_that_beats_the_white_box_leaves_the_rest_in_doubt():
    transfer = attack("b" * 10 + "h" * 90, "t", CE, knowledge="transfer", surrogate="s")
    evidence = make_evidence(attack("h" * 100, PGD_NAME, CE), transfer)
    assert judge_gate(evidence, min=0.5).ruling == "inconclusive"
    assert "transfer attacks" in judge_gate(evidence, min=0.5).reason
    sound = make_evidence(attack("b" * 10 + "h" * 90, PGD_NAME, CE), transfer)
    assert judge_gate(sound, min=0.5).ruling == "pass"


def test_proven_images_are_never_in_doubt():
    proof = make_cell("h" * 100, "crown", measure="certificate")
    proof = replace(proof, certified_radii={f"image-{place:03}": EPS for place in range(80)})
    evidence = make_evidence(attack("h" * 100, PGD_NAME, CE), square("h" * 90 + "b" * 10, queries=50), proof)
    (doubt,) = find_doubts(evidence)
    assert len(doubt.images) == 20


# --- cross-entropy against margin -------------------------------------------------------------------------


@pytest.mark.parametrize(("gap", "images", "found"), [(5, 100, 0), (6, 100, 1), (2, 30, 0), (3, 30, 1)])
def test_cross_entropy_against_margin(gap, images, found):
    """More than 5 points and at least 3 images (D17)."""
    assert MAX_LOSS_GAP_SHARE == 0.05
    weak = attack("h" * images, PGD_NAME, CE)
    strong = attack("b" * gap + "h" * (images - gap), "pgd50-margin-linf-8", MARGIN)
    assert len(reasons(make_evidence(weak, strong))) == found


def test_the_finding_has_both_figures_and_the_number_of_images():
    weak = attack("b" * 17 + "h" * 83, PGD_NAME, CE)
    strong = attack("b" * 60, "pgd50-margin-linf-8", MARGIN)
    (text,) = [one for one in told(make_evidence(weak, strong)) if one.startswith("D17")]
    assert "Robust accuracy is 71.7% under" in text
    assert "0.0" in text
    assert "same 60 clean-correct images" in text


def test_images_that_only_the_cross_entropy_met_are_in_doubt():
    weak = attack("h" * 100, PGD_NAME, CE)
    strong = attack("b" * 5 + "h" * 5, "pgd50-margin-linf-8", MARGIN)
    evidence = make_evidence(weak, strong)
    (doubt,) = find_doubts(evidence)
    assert len(doubt.images) == 95  # the five that the margin met and left are believed
    assert judge_gate(evidence, threat=None, attack=PGD_NAME, min=0.5).ruling == "inconclusive"
    assert judge_gate(evidence, threat=None, attack="pgd50-margin-linf-8", min=0.1).ruling == "pass"


def test_stages_of_one_ensemble_are_compared_too():
    evidence = make_evidence(autoattack("c" * 10 + "t" * 40))
    (text,) = reasons(evidence)
    assert "stages on the cross-entropy" in text
    assert judge_gate(evidence, min=0.2).ruling == "fail"
    assert not reasons(make_evidence(autoattack("c" * 95 + "t" * 5)))


# --- one step against many, effort, starts, radii ---------------------------------------------------------


@pytest.mark.parametrize(("ahead", "images", "found"), [(2, 100, 0), (3, 100, 1), (3, 300, 1), (3, 301, 0)])
def test_an_iterative_attack_that_loses_to_a_single_step(ahead, images, found):
    """A net loss beyond chance (D15), image by image."""
    single = attack("b" * (ahead + 4) + "h" * (images - ahead - 4), "fgsm-linf-8", FGSM)
    many = attack("h" * (images - 4) + "b" * 4, PGD_NAME, CE)
    evidence = make_evidence(single, many)
    assert len(reasons(evidence)) == found
    if found:
        assert f"only fgsm-linf-8 succeeds on {ahead + 4} images, only {PGD_NAME} on 4" in reasons(evidence)[
            0
        ].translate({0x2068: None, 0x2069: None})


def test_another_sound_attack_settles_what_a_faulty_one_left():
    single = attack("b" * 20 + "h" * 80, "fgsm-linf-8", FGSM)
    faulty = attack("h" * 100, PGD_NAME, CE)
    assert judge_gate(make_evidence(single, faulty), min=0.5).ruling == "inconclusive"
    assert (
        judge_gate(make_evidence(single, faulty, autoattack("c" * 20 + "h" * 80)), min=0.5).ruling == "pass"
    )


@pytest.mark.parametrize("budget", ["steps", "restarts"])
def test_more_effort_that_breaks_less(budget):
    small = attack("b" * 30 + "h" * 70, "pgd-small", CE | {budget: 2})
    large = attack("b" * 10 + "h" * 90, "pgd-large", CE | {budget: 40})
    (text,) = reasons(make_evidence(small, large))
    assert text.startswith("more effort succeeds less often: only pgd-small succeeds on 20 images")
    assert not reasons(
        make_evidence(replace(small, record=large.record), replace(large, record=small.record))
    )
    other = replace(
        large, record=replace(large.record, parameters=large.record.parameters | {"step_size": 1.0})
    )
    assert not reasons(make_evidence(small, other))


@pytest.mark.parametrize(("gap", "found"), [(5, 0), (6, 1)])
def test_a_start_that_decides(gap, found):
    without = attack("h" * 100, "pgd-plain", CE | {"random_start": False})
    beside = attack("b" * gap + "h" * (100 - gap), "pgd-random", CE)
    assert len(reasons(make_evidence(without, beside))) == found


@pytest.mark.parametrize(("lost", "found"), [(1, 0), (2, 1)])
def test_a_larger_radius_that_breaks_less(lost, found):
    """More than one image, net (D12); and what the smaller radius broke stays broken at the larger one."""
    small = attack("b" * lost + "h" * (100 - lost), "pgd50-linf-4", CE, eps=EPS / 2, threat="linf-4")
    large = attack("h" * 100, PGD_NAME, CE)
    evidence = make_evidence(small, large)
    assert len(reasons(evidence)) == found
    worst = next(one for one in evidence.worst_cases if one.threat.name == "linf-8")
    assert worst.robust_accuracy.count == 100 - lost


def test_radii_are_compared_image_by_image_too():
    small = attack("b" * 20 + "h" * 80, "pgd50-linf-4", CE, eps=EPS / 2, threat="linf-4")
    large = attack("h" * 20 + "b" * 40 + "h" * 40, PGD_NAME, CE)
    (text,) = reasons(make_evidence(small, large))
    assert "succeeds on 20 images" in text
    assert judge_gate(make_evidence(small, large), min=0.3).ruling == "inconclusive"


def test_a_sound_grid_is_silent():
    cells = [
        attack("b" * 30 + "h" * 70, "fgsm-linf-8", FGSM),
        attack("b" * 45 + "h" * 55, PGD_NAME, CE),
        attack("b" * 46 + "h" * 54, "pgd50-margin-linf-8", MARGIN),
        autoattack("c" * 45 + "t" * 3 + "h" * 52),
        square("b" * 35 + "h" * 65),
        attack("b" * 20 + "h" * 80, "pgd50-linf-4", CE, eps=EPS / 2, threat="linf-4"),
        attack("b" * 10 + "h" * 90, "t", CE, knowledge="transfer", surrogate="s"),
    ]
    evidence = make_evidence(*cells)
    assert not reasons(evidence)
    assert not find_doubts(evidence)
    assert judge_gate(evidence, min=0.4).ruling == "pass"


def test_gradients_that_mislead_at_one_radius_mislead_at_the_others():
    """A black box at 8/255 says what the gradients at 4/255 are worth."""
    small = attack("h" * 60, "pgd50-linf-4", CE, eps=EPS / 2, threat="linf-4")
    evidence = make_evidence(small, attack("h" * 60, PGD_NAME, CE), square("b" * 60))
    assert judge_gate(evidence, threat="linf-4", min=0.5).ruling == "inconclusive"
    (text,) = [one for one in told(evidence) if "Robustness not established" in one]
    assert "60 images under" in text
    known = square("h" * 60, eps=EPS / 2, threat="linf-4", key="other")
    evidence = make_evidence(small, attack("h" * 60, PGD_NAME, CE), square("b" * 60), known)
    assert judge_gate(evidence, threat="linf-4", min=0.5).ruling == "pass"


def test_an_attack_at_fault_says_nothing_about_other_radii():
    small = attack("h" * 60, "pgd50-linf-4", CE, eps=EPS / 2, threat="linf-4")
    single = attack("b" * 20 + "h" * 40, "fgsm-linf-8", FGSM)
    evidence = make_evidence(small, single, attack("h" * 60, PGD_NAME, CE))
    assert judge_gate(evidence, threat="linf-4", min=0.5).ruling == "pass"


@pytest.mark.parametrize(("excess", "found"), [(0.9e-4, 0), (1.1e-4, 1)])
def test_a_distance_is_larger_from_a_ten_thousandth_on(excess, found):
    far = attack(
        "b" * 100, "fmn-linf-16", {"method": "fmn"}, eps=2 * EPS, threat="linf-16", measure="distance"
    )
    far = replace(far, radii=dict.fromkeys(far.verdicts, EPS * (1 + excess)))
    told = reasons(make_evidence(far, attack("b" * 100, PGD_NAME, CE)))
    assert len([one for one in told if "distances are too large" in one]) == found


@pytest.mark.parametrize(("late", "found"), [(5, 0), (6, 1)])
def test_distances_that_an_attack_inside_a_ball_shows_to_be_too_large(late, found):
    nearest = {"method": "fmn"}
    far = attack("b" * 100, "fmn-linf-16", nearest, eps=2 * EPS, threat="linf-16", measure="distance")
    radii = {image: 1.5 * EPS if place < late else 0.5 * EPS for place, image in enumerate(far.verdicts)}
    far = replace(far, radii=radii)
    told = reasons(make_evidence(far, attack("b" * 100, PGD_NAME, CE)))
    assert len([one for one in told if "distances are too large" in one]) == found
    assert not reasons(make_evidence(far, attack("h" * late + "b" * (100 - late), PGD_NAME, CE)))
