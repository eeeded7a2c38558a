"""Gates on runs that stopped early: which verdicts stand on part of the images, and which do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_records import make_outcome_record

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence, list_gate_targets
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.analysis.stop_targets import list_precision_targets, list_stopped_estimates
from robustbench_local.reports.exports.model_figures import list_model_figures
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.reports.sections.stopped_section import STOPPED
from robustbench_local.reports.summary.headline import describe_answer
from robustbench_local.store import CellRecord
from robustbench_local.store.stop_record import StopCell, StopRecord, StopRule

IMAGES = 400
ORDER = tuple(f"i{number}" for number in range(IMAGES))
MIN_HALF = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5}


DECIDED = StopRule(decided=True)


def build_cell(name, robust=(), *, status="stopped", error_at=None, **changes):
    """Build a cell whose outcomes on the first images of the order are these."""
    record = CellRecord(
        key=name, position=0, model="m", defense="none", attack=name, card=name, norm="Linf", eps=8 / 255,
        threat="linf-8", goal="untargeted", images=IMAGES, status=status,
    )  # fmt: skip
    record = replace(record, **changes)
    is_certificate = record.measure == "certificate"
    rows = [
        make_outcome_record(
            cell=name,
            position=place,
            image=image,
            broken=not (mark or is_certificate),
            status="error" if place == error_at else "ok",
            linf=record.eps,
            certified=mark if is_certificate else None,
        )
        for place, (image, mark) in enumerate(zip(ORDER, robust, strict=False))
        if mark is not None
    ]
    return build_cell_result(record, rows)


def build_evidence(*cells, costs=None, obstacles=(), rule=DECIDED, gates=()):
    costs = costs or {}
    about = {
        cell.record.key: StopCell(
            cost=costs.get(cell.record.key, 10.0 ** (place + 1)),
            obstacle="it draws for groups" if cell.record.key in obstacles else "",
        )
        for place, cell in enumerate(cells)
    }
    record = StopRecord(rule=rule, order=ORDER, cells=about)
    return Evidence(
        cells=cells, worst_cases=tuple(find_worst_cases(cells)), stop=record, gates=list(gates),
        data={"n": IMAGES},
    )  # fmt: skip


def judge(evidence, gate=MIN_HALF):
    (verdict,) = judge_evidence(evidence, [gate]).verdicts
    return verdict


CHEAP = [number % 10 > 0 for number in range(IMAGES)]
COSTLY = [mark or None for mark in CHEAP[:100]]


def test_two_attacks_on_parts_of_the_images_pass_a_gate_together():
    evidence = build_evidence(build_cell("cheap", CHEAP, status="done"), build_cell("costly", COSTLY))
    verdict = judge(evidence)
    assert verdict.ruling == "pass"
    assert (
        "anytime-valid, stopped after 400 of 400 images, 90 of them under the costlier attack"
        in verdict.reason
    )
    assert 0.5 < verdict.estimate.low < verdict.estimate.value == 0.9
    assert judge(evidence, MIN_HALF | {"min": 0.89}).ruling == "inconclusive"
    assert judge(evidence, MIN_HALF | {"min": 0.95}).ruling == "fail"
    assert judge(evidence, MIN_HALF | {"max": 0.5, "min": None}).ruling == "fail"
    assert judge(evidence, MIN_HALF | {"max": 0.95, "min": None}).ruling == "pass"


def test_an_attack_that_has_not_run_is_not_forgotten():
    evidence = build_evidence(build_cell("cheap", CHEAP, status="done"), build_cell("costly"))
    verdict = judge(evidence)
    assert verdict.ruling == "inconclusive"
    assert "none of them under the costlier attack: undecided" in verdict.reason
    assert judge(evidence, MIN_HALF | {"min": 0.95}).ruling == "fail"


def test_a_gate_on_the_estimate_is_about_the_images_of_the_data():
    whole = [build_cell("cheap", CHEAP), build_cell("costly", [mark or None for mark in CHEAP])]
    evidence = build_evidence(*whole)
    for limit, ruling in ((0.9, "pass"), (0.901, "fail")):
        assert judge(evidence, MIN_HALF | {"min": limit, "on": "estimate"}).ruling == ruling
    verdict = judge(evidence, MIN_HALF | {"min": 0.9})
    assert verdict.ruling == "inconclusive"
    assert "even all of them would leave it open" in verdict.reason


@pytest.mark.parametrize("changes", [{"error_at": 3}, {"status": "timeout"}, {"status": "error"}])
def test_an_attack_that_did_not_finish_lets_no_gate_pass(changes):
    cheap = build_cell("cheap", CHEAP, status="done")
    evidence = build_evidence(cheap, build_cell("costly", COSTLY, **changes))
    stopped = build_evidence(build_cell("cheap", CHEAP[:200]), build_cell("costly", COSTLY, **changes))
    assert judge(evidence).ruling == "inconclusive"
    verdict = judge(stopped)
    assert verdict.ruling == "inconclusive"
    assert "without costly, which did not finish" in verdict.reason
    assert judge(stopped, MIN_HALF | {"min": 0.99}).ruling == "fail"


def test_successes_of_other_attacks_inside_the_ball_keep_a_gate_from_passing():
    other = build_cell("other", [number % 2 for number in range(IMAGES)], threat="linf-4", eps=4 / 255)
    evidence = build_evidence(build_cell("cheap", CHEAP), build_cell("costly", COSTLY), other)
    verdict = judge(evidence)
    assert verdict.ruling == "inconclusive"
    assert "other succeeded inside the ball on images that count as robust; run all images" in verdict.reason


CERTIFICATE = {"measure": "certificate", "norm": "Linf"}


@pytest.mark.parametrize(
    ("changes", "ruling"),
    [
        ({}, "pass"),
        ({"eps": 9 / 255}, "pass"),
        ({"eps": 7 / 255}, "inconclusive"),
        ({"alpha": 0.001}, "inconclusive"),
        ({"concerns": "smoothed"}, "inconclusive"),
        ({"norm": "L2"}, "inconclusive"),
        ({"identity": {"code of the method": "x"}}, "inconclusive"),
    ],
)
def test_only_proofs_about_the_same_ball_decide_without_an_attack(changes, ruling):
    proof = build_cell("proof", [number % 10 > 0 for number in range(200)], **{**CERTIFICATE, **changes})
    evidence = build_evidence(build_cell("cheap", [True]), proof)
    assert judge(evidence).ruling == ruling
    [target] = list_gate_targets(replace(evidence, gates=[MIN_HALF]))
    assert target.proofs == (("proof",) if ruling == "pass" else ())


def test_gates_that_need_every_image_say_why():
    cells = [build_cell("cheap", CHEAP), build_cell("costly", COSTLY)]
    for gate, why in (
        (MIN_HALF | {"metric": "attack_success"}, "attack success is no share of all images"),
        (MIN_HALF | {"metric": "worst_class_robust_accuracy"}, "is no share of all images"),
    ):
        verdict = judge(build_evidence(*cells), gate)
        assert verdict.ruling == "inconclusive"
        assert why in verdict.reason
    limited = build_evidence(*cells, obstacles={"costly"})
    assert "costly: it draws for groups" in judge(limited).reason
    grouped = build_evidence(*(replace(cell, groups=dict.fromkeys(ORDER, "g")) for cell in cells))
    assert "its interval is over groups" in judge(grouped).reason
    [target] = list_gate_targets(replace(limited, gates=[MIN_HALF]))
    assert target.test is None


def test_clean_accuracy_is_judged_by_the_cheapest_attack():
    evidence = build_evidence(build_cell("cheap", CHEAP[:200]), build_cell("costly", COSTLY))
    verdict = judge(evidence, {"metric": "clean_accuracy", "min": 0.9})
    assert (verdict.ruling, verdict.estimate.n) == ("pass", 200)


def test_the_report_states_intervals_that_hold_whenever_the_run_stops():
    evidence = build_evidence(build_cell("cheap", CHEAP[:200]), build_cell("costly", COSTLY))
    [estimate] = list_stopped_estimates(evidence)
    assert estimate.share.n == 200
    assert 0.75 < estimate.share.low < estimate.share.value < estimate.share.high < 1
    assert estimate.stated.low < estimate.share.low < estimate.share.high < estimate.stated.high
    verdict = judge(evidence, {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5})
    assert (verdict.estimate.low, verdict.estimate.high) == (estimate.stated.low, estimate.stated.high)
    answer = describe_answer(evidence)
    assert (
        f" an attacker may change every pixel by at most 8/255: {format_estimate(estimate.stated)}, "
        in answer
    )
    assert "anytime-valid: the run stopped before it had all 400 images" in answer
    [row] = STOPPED.to_json(evidence)["stop"]["worst_case"]
    assert row["stated"] == estimate.stated.to_json()
    assert row["given"] == [{"attack": "cheap", "images": 200}, {"attack": "costly", "images": 90}]
    [*_, line, _] = STOPPED.to_markdown((estimate,), evidence)
    assert "cheap on 200 of 400 images, costly on 90" in line
    assert STOPPED.to_json(replace(evidence, stop=None)) == {"stop": None}


def test_a_precision_is_asked_of_every_worst_case():
    cells = [build_cell("cheap", CHEAP), build_cell("l2", CHEAP, norm="L2", eps=0.5, threat="l2-0.5")]
    evidence = build_evidence(*cells, rule=StopRule(precision=0.02))
    estimates = list(list_precision_targets(evidence))
    assert [one.stated for one in estimates] == [
        one.share for one in estimates
    ]  # the asked width is about these
    targets = [one.state.target for one in estimates]
    assert [(target.cells, target.test.half_width) for target in targets] == [
        (("cheap",), 0.02),
        (("l2",), 0.02),
    ]


@pytest.mark.parametrize(
    ("rule", "level", "about"),
    [
        (DECIDED, 0.95, "a 95% interval over images like these"),
        (StopRule(precision=0.1), 0.975, "a 97.5% interval among all 400 images of the data"),
    ],
)
def test_a_model_card_states_the_share_of_a_stopped_run_with_its_own_interval(rule, level, about):
    evidence = build_evidence(build_cell("cheap", CHEAP[:200]), build_cell("costly", COSTLY), rule=rule)
    (one,) = list_stopped_estimates(evidence)
    (figure,) = [
        figure for figure in list_model_figures(evidence, one.subject) if figure.metric == "robust_accuracy"
    ]
    assert figure.estimate == one.stated
    assert figure.estimate.low < figure.estimate.value < figure.estimate.high
    assert (figure.level, figure.attacks) == (level, ("cheap", "costly"))
    assert figure.caveat == f"stopped early: {about}, valid whenever the run stops"
