"""The worst case in 8 bits: over which images, by which attacks, and when a reader is warned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases, find_eight_bit_goals
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.summary import headline
from robustbench_local.reports.writers.results_json import encode_results
from robustbench_local.store import CellRecord, OutcomeRecord

MARKS = {"8": True, "f": False, "n": None}


def outcome(position: int, mark: str) -> OutcomeRecord:
    """8: broken in 8 bits too, f: in floats only, n: the ball has no 8-bit image; h: held, w: wrong."""
    broken, correct = mark in MARKS, mark != "w"
    return OutcomeRecord(
        cell="k", position=position, image=f"image-{position}", label=0,
        clean_prediction=0 if correct else 1, adversarial_prediction=1 if broken else 0,
        clean_correct=correct, broken=broken, moved_elsewhere=False, margin=0.5, fragile=False,
        linf=0.01, l2=0.1, l1=1.0, broken_8bit=MARKS.get(mark),
        forward_passes=2, backward_passes=1, seconds=0.1, status="ok" if correct else "clean-wrong",
    )  # fmt: skip


def cell(marks: str, attack: str = "pgd", **changes):
    about = {"norm": "Linf", "eps": 8 / 255, "threat": "linf-8", "goal": "untargeted", "model": "m"} | changes
    record = CellRecord(
        key=f"{attack} {sorted(changes.items())}", position=0, defense="none", attack=attack, card=attack,
        images=len(marks), status="done", **about,
    )  # fmt: skip
    return build_cell_result(record, [outcome(place, mark) for place, mark in enumerate(marks)])


def evidence(*cells) -> Evidence:
    return Evidence(cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def warned(found: Evidence) -> list[str]:
    return [one.text for one in list_findings(found) if "rounded to 8 bits" in one.text]


def test_an_image_counts_as_soon_as_one_attack_has_an_8bit_image_of_it():
    (case,) = find_eight_bit_cases(evidence(cell("8fffhhw"), cell("hf8hhhw", "fgsm")))
    assert (case.robust_accuracy.count, case.robust_accuracy.n) == (4, 7)  # two broken, one wrong
    assert (case.attack_success.count, case.attack_success.n) == (2, 6)
    assert (case.float_success.count, case.float_success.n) == (4, 6)
    assert case.undecided_count == 0


def test_what_no_8bit_image_can_show_is_left_out_and_said():
    found = evidence(cell("8nnfhh"), cell("hh8hhh", "fgsm"))
    (case,) = find_eight_bit_cases(found)
    assert case.undecided_count == 1  # the other one fell to another attack in 8 bits
    assert (case.robust_accuracy.count, case.robust_accuracy.n) == (3, 5)
    assert (case.float_success.count, case.float_success.n) == (3, 5)
    notes = [one.text for one in list_findings(found) if one.level == "note"]
    assert any("no attack found an 8-bit image in the ball" in text and "(1 image)" in text for text in notes)
    assert "1 image excluded" in headline.describe_eight_bit_answer(found)
    (entry,) = encode_results(found, judge_evidence(found))["worst_case"]
    assert entry["undecided_8bit"] == 1


def test_a_smaller_ball_lies_in_a_larger_one_and_not_the_other_way_round():
    small = {"eps": 4 / 255, "threat": "linf-4"}
    inside = find_eight_bit_cases(evidence(cell("fh"), cell("8h", "small", **small)))
    assert [case.attack_success.count for case in inside] == [1, 1]
    outside = find_eight_bit_cases(evidence(cell("8h"), cell("fh", "small", **small)))
    assert [case.attack_success.count for case in outside] == [1, 0]
    other = find_eight_bit_cases(
        evidence(cell("fh"), cell("8h", "l2", norm="L2", eps=0.01, threat="l2-0.01"))
    )
    assert [case.attack_success.count for case in other] == [0, 1]


@pytest.mark.parametrize(("lost", "warns"), [(1, False), (2, True)])
def test_more_than_a_point_of_the_worst_case_warns(lost, warns):
    found = evidence(cell("f" * lost + "8" * 20 + "h" * (80 - lost)))
    assert bool(warned(found)) is warns
    if warns:
        assert "pgd on" in warned(found)[0]


def test_what_another_attack_keeps_in_8_bits_is_no_reason_to_warn():
    marks = "f" * 20 + "h" * 20
    assert warned(evidence(cell(marks)))
    assert not warned(evidence(cell(marks), cell(marks.replace("f", "8"), "fgsm")))


def test_targeted_attacks_of_one_goal_stand_together_and_transfers_alone():
    goal = {"goal": "targeted", "targets": (1,)}
    marks, kept = "f" * 20 + "h" * 20, "8" * 20 + "h" * 20
    assert warned(evidence(cell(marks, **goal)))
    assert not warned(evidence(cell(marks, **goal), cell(kept, "fgsm", **goal)))
    assert warned(evidence(cell(marks, **goal), cell(kept, "fgsm", goal="targeted", targets=(2,))))
    borrowed = {"knowledge": "transfer", "surrogate": "other"}
    assert len(find_eight_bit_goals(evidence(cell(marks, **borrowed), cell(kept, "fgsm", **borrowed)))) == 2
    assert warned(evidence(cell(marks, **borrowed), cell(kept, "fgsm", **borrowed)))


def test_it_stands_beside_the_headline_with_n_and_interval():
    found = evidence(cell("8fhhw"), cell("fhhhw", "fgsm"))
    said = headline.describe_eight_bit_answer(found)
    assert said.startswith("In 8 bits: ")
    assert "60.0" in said
    assert "n = 5" in said
    (entry,) = encode_results(found, judge_evidence(found))["worst_case"]
    assert entry["robust_accuracy_8bit"]["value"] == 0.6
    assert entry["robust_accuracy_8bit"]["n"] == entry["n"] == 5
    assert entry["attack_success_8bit"]["value"] == 0.25
    assert 0 < entry["robust_accuracy_8bit"]["low"] < 0.6 < entry["robust_accuracy_8bit"]["high"]


def test_a_targeted_answer_has_its_figure_in_8_bits_too():
    found = evidence(cell("8fhh", goal="targeted", targets=(1,)))
    assert "25.0" in headline.describe_eight_bit_answer(found)


def test_without_a_ball_nothing_is_rounded_twice():
    fog = {"norm": "spatial", "eps": 30.0, "threat": "spatial-30"}
    found = evidence(replace(cell("88hh", **fog)))
    assert find_eight_bit_cases(found) == ()
    assert headline.describe_eight_bit_answer(found) == ""
    (entry,) = encode_results(found, judge_evidence(found))["worst_case"]
    assert entry["robust_accuracy_8bit"] is None


@pytest.mark.parametrize(("fragile", "warns"), [(1, False), (2, True)])
def test_more_than_a_hundredth_of_fragile_verdicts_warns(fragile, warns):
    rows = [replace(outcome(place, "h"), fragile=place < fragile) for place in range(100)]
    one = build_cell_result(cell("h" * 100).record, rows)
    assert any("floating-point noise" in found.text for found in list_findings(evidence(one))) is warns
