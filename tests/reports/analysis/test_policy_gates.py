"""Policies on constructed runs: what each gate comes to, and the exit code of all of them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from gate_runs import GateCell, GateRun, make_run

from robustbench_local.config.gate_policy import Policy, list_policies, load_policy
from robustbench_local.config.strict_yaml import validate
from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.policy_gates import judge_by_policy

TODAY = date(2026, 11, 30)
FLOOR = {"id": "floor", "metric": "robust_accuracy", "threat": "linf-8", "min": "50%"}
DROP = {"id": "drop", "metric": "robust_accuracy", "threat": "linf-8", "max_drop": "5%"}
CLEAN_DROP = {"id": "clean-drop", "metric": "clean_accuracy", "max_drop": "5%"}
WAIVER = {"id": "floor", "reason": "known", "owner": "ann", "expiry": "2026-12-31"}
GOOD, MIDDLE, BAD = "r" * 90 + "b" * 10, "r" * 50 + "b" * 50, "r" * 10 + "b" * 90
D7 = {"id": "D7", "name": "gradients", "status": "fail", "sentence": "Gradients mislead."}
BLOCK = {"id": "D1", "name": "batch", "status": "block", "sentence": "Answers depend on the batch."}


def read_policy(*gates: dict[str, Any], **keys: Any) -> Policy:
    return validate(Policy, {"gates": list(gates), **keys}, where="p.yaml", error=ConfigError)


def judge(policy: Policy, run: GateRun, baseline: GateRun | None = None):
    return judge_by_policy(run.build_evidence(), policy, baseline and baseline.build_evidence(), today=TODAY)


def two_models(first: str, second: str) -> GateRun:
    return GateRun(cells=(GateCell(images=first, model="a"), GateCell(images=second, model="b")))


def two_attacks(first: str, second: str, **changes: Any) -> GateRun:
    return GateRun(cells=(GateCell(images=first), GateCell(images=second, attack="aa", **changes)))


CASES = {
    # absolute limits
    "well above": ([FLOOR], make_run(GOOD), ["pass"], 0),
    "straddling": ([FLOOR], make_run(MIDDLE), ["inconclusive"], 4),
    "well below": ([FLOOR], make_run(BAD), ["fail"], 1),
    "estimate at the limit": ([FLOOR | {"on": "estimate"}], make_run(MIDDLE), ["pass"], 0),
    "estimate below it": ([FLOOR | {"on": "estimate"}], make_run("r" * 49 + "b" * 51), ["fail"], 1),
    "warns only": ([FLOOR | {"level": "warn"}], make_run(BAD), ["warn"], 0),
    "inconclusive, warns only": ([FLOOR | {"level": "warn"}], make_run(MIDDLE), ["inconclusive"], 0),
    "a failure outweighs": ([FLOOR], two_models(MIDDLE, BAD), ["inconclusive", "fail"], 1),
    "one model of two": ([FLOOR | {"model": "a"}], two_models(GOOD, BAD), ["pass"], 0),
    "a model that is not there": ([FLOOR | {"model": "c"}], two_models(GOOD, BAD), ["inconclusive"], 4),
    "worst case of two attacks": ([FLOOR], two_attacks(GOOD, BAD), ["fail"], 1),
    "clean accuracy": ([{"metric": "clean_accuracy", "min": "80%"}], make_run(BAD), ["pass"], 0),
    # infrastructure
    "missing cell": ([FLOOR], two_attacks(GOOD, GOOD, status="pending"), ["inconclusive"], 4),
    "timed out": ([FLOOR], two_attacks(GOOD, GOOD, status="timeout"), ["inconclusive"], 4),
    "cell error": ([FLOOR], make_run(GOOD, status="error"), ["inconclusive"], 4),
    "broken already": ([FLOOR], two_attacks(BAD, GOOD, status="error"), ["fail"], 1),
    "errors of images": ([FLOOR], make_run("r" * 30 + "e" * 70), ["inconclusive"], 4),
    "few errors of images": ([FLOOR], make_run("r" * 97 + "e" * 3), ["pass"], 0),
    "unfinished": ([FLOOR], make_run(GOOD, status="running"), ["inconclusive"], 4),
    # trust
    "untrusted": ([FLOOR], make_run(GOOD, diagnostics=(D7,)), ["inconclusive"], 4),
    "untrusted failure": ([FLOOR], make_run(BAD, diagnostics=(D7,)), ["fail"], 1),
    "trust ignored": ([FLOOR | {"trust": "ignore"}], make_run(GOOD, diagnostics=(D7,)), ["pass"], 0),
    "blocked": ([FLOOR], make_run(GOOD, diagnostics=(BLOCK,)), ["inconclusive"], 4),
    # classes
    "one class": ([FLOOR | {"true_class": "Stop"}], make_run("rbbb" * 30), ["pass"], 0),
    "another class": ([FLOOR | {"true_class": "Yield"}], make_run("rbbb" * 30), ["fail"], 1),
    "no such class": ([FLOOR | {"true_class": "Tram"}], make_run(GOOD), ["inconclusive"], 4),
    "each class": ([FLOOR | {"per_class": True}], make_run("rbrr" * 30), ["pass", "fail", "pass", "pass"], 1),
    "clean accuracy of each class": (
        [{"metric": "clean_accuracy", "per_class": True, "min": "50%"}],
        make_run("rwrr" * 30),
        ["pass", "fail", "pass", "pass"],
        1,
    ),
    "each class, few images": ([FLOOR | {"per_class": True}], make_run("rbrr"), ["inconclusive"] * 4, 4),
    "each class, stopped": (
        [FLOOR | {"per_class": True}],
        make_run(GOOD, status="stopped"),
        ["inconclusive"],
        4,
    ),
    "worst class": (
        [{"metric": "worst_class_robust_accuracy", "threat": "linf-8", "min": "50%"}],
        make_run("rbrr" * 30),
        ["fail"],
        1,
    ),
    # threat models
    "all of a family": (
        [FLOOR | {"threat": "linf-*"}],
        GateRun(cells=tuple(GateCell(images=GOOD, threat=name) for name in ("linf-4", "linf-8", "l2-0.5"))),
        ["pass", "pass"],
        0,
    ),
    "every one": (
        [FLOOR | {"threat": "*"}],
        GateRun(cells=(GateCell(images=GOOD), GateCell(images=BAD, threat="fog-3"))),
        ["pass", "fail"],
        1,
    ),
    "none of a family": ([FLOOR | {"threat": "sticker-*"}], make_run(GOOD), ["inconclusive"], 4),
    "of the answer": ([FLOOR | {"threat": "headline"}], make_run(GOOD), ["pass"], 0),
    "nothing in the run": ([FLOOR | {"threat": "headline"}], GateRun(cells=()), ["inconclusive"], 4),
}


@pytest.mark.parametrize(("gates", "run", "statuses", "code"), CASES.values(), ids=CASES)
def test_what_a_gate_comes_to(gates, run, statuses, code):
    report = judge(read_policy(*gates), run)
    assert [verdict.status for verdict in report.verdicts] == statuses, report.summary_lines
    assert report.exit_code == code
    assert all(verdict.explanation for verdict in report.verdicts if verdict.status == "inconclusive")


SAME_WEIGHTS = make_run(GOOD)
OTHER = {"weights": "c" * 64}
BASELINES = {
    "nothing changed": (DROP, SAME_WEIGHTS, SAME_WEIGHTS, "pass", "the same weights"),
    "few images, nothing changed": (DROP, make_run("rb"), make_run("rb"), "pass", "the same weights"),
    "other weights, the same result": (
        DROP,
        make_run(GOOD),
        make_run(GOOD, **OTHER),
        "inconclusive",
        "reaches",
    ),
    "many images, the same result": (DROP, make_run(GOOD * 3), make_run(GOOD * 3, **OTHER), "pass", ""),
    "a large loss": (DROP, make_run(BAD), make_run(GOOD, **OTHER), "fail", ""),
    "a small loss": (
        DROP,
        make_run("b" * 4 + GOOD[4:]),
        make_run(GOOD, **OTHER),
        "inconclusive",
        "more images would decide",
    ),
    "a small loss, by its lower end": (
        DROP | {"on": "lower"},
        make_run("b" * 9 + GOOD[9:]),
        make_run(GOOD, **OTHER),
        "pass",
        "",
    ),
    "a small loss, by the estimate": (
        DROP | {"on": "estimate"},
        make_run("b" * 9 + GOOD[9:]),
        make_run(GOOD, **OTHER),
        "fail",
        "",
    ),
    "a gain": (DROP, make_run(GOOD), make_run(BAD, **OTHER), "pass", ""),
    "a loss that warns": (DROP | {"level": "warn"}, make_run(BAD), make_run(GOOD, **OTHER), "warn", ""),
    "clean accuracy": (CLEAN_DROP, make_run("w" * 50 + "r" * 50), make_run(GOOD, **OTHER), "fail", ""),
    "clean accuracy, other attack": (
        CLEAN_DROP | {"on": "estimate"},
        make_run(GOOD),
        make_run(GOOD, attack="aa", **OTHER),
        "pass",
        "",
    ),
    "certified accuracy": (
        DROP | {"metric": "certified_accuracy"},
        make_run(BAD, attack="ibp", measure="certificate"),
        make_run(GOOD, attack="ibp", measure="certificate", **OTHER),
        "fail",
        "",
    ),
    "other images": (DROP, make_run(BAD), make_run(GOOD, digest="d" * 64), "inconclusive", "data: d, "),
    "other attack": (DROP, make_run(BAD), make_run(GOOD, attack="aa"), "inconclusive", "aa-linf-8"),
    "other threat": (DROP, make_run(BAD), make_run(GOOD, threat="linf-4"), "inconclusive", "no such result"),
    "other steps": (
        DROP,
        make_run(BAD, parameters={"steps": 10}),
        make_run(GOOD, parameters={"steps": 50}),
        "inconclusive",
        "steps 50 in the baseline",
    ),
    "other seed": (DROP, make_run(BAD), make_run(GOOD, seed=1, **OTHER), "fail", ""),
    "stopped baseline": (
        DROP,
        make_run(BAD),
        make_run(GOOD, status="stopped"),
        "inconclusive",
        "stopped early",
    ),
    "stopped run": (DROP, make_run(BAD, status="stopped"), make_run(GOOD), "inconclusive", "stopped early"),
    "unfinished baseline": (DROP, make_run(BAD), make_run(GOOD, status="error"), "inconclusive", "error"),
    "unfinished run": (DROP, make_run(BAD, status="running"), make_run(GOOD), "inconclusive", "partial"),
    "renamed model": (DROP, make_run(BAD), make_run(GOOD, model="old", **OTHER), "fail", ""),
    "no common model": (DROP, make_run(BAD), two_models(GOOD, GOOD), "inconclusive", "no model in common"),
    "untrusted run": (
        DROP,
        make_run(GOOD * 3, diagnostics=(D7,)),
        make_run(GOOD * 3, **OTHER),
        "inconclusive",
        "not trustworthy",
    ),
    "untrusted baseline": (
        DROP,
        make_run(BAD),
        make_run(GOOD, diagnostics=(D7,), **OTHER),
        "inconclusive",
        "the baseline's number",
    ),
    "errors of the attack": (
        DROP,
        make_run("e" * 50 + GOOD[50:]),
        make_run(GOOD, **OTHER),
        "inconclusive",
        "raised an error on 50 images",
    ),
}


@pytest.mark.parametrize(("gate", "run", "baseline", "status", "why"), BASELINES.values(), ids=BASELINES)
def test_what_a_drop_comes_to(gate, run, baseline, status, why):
    (verdict,) = judge(read_policy(gate), run, baseline).verdicts
    assert (verdict.status, why in verdict.explanation) == (status, True), verdict
    assert bool(verdict.explanation) == bool(why)


def test_a_drop_counts_images_that_changed_sides_over_the_same_images():
    (verdict,) = judge(read_policy(DROP), make_run("rrbb" * 25), make_run("rbrr" * 25, **OTHER)).verdicts
    drop = verdict.drop
    assert (drop.n, drop.only_first, drop.only_second, drop.value) == (100, 50, 25, 0.25)
    assert verdict.status == "fail"
    assert verdict.estimate.value == 0.5


def test_the_drop_of_each_class_is_judged_with_wider_intervals():
    gate = DROP | {"per_class": True, "on": "lower"}
    report = judge(read_policy(gate), make_run("brrr" * 20), make_run("rrrr" * 20, **OTHER))
    assert [verdict.status for verdict in report.verdicts] == ["fail", "pass", "pass", "pass"]
    assert report.verdicts[0].gate.true_class == "Stop"
    assert {verdict.drop.level for verdict in report.verdicts} == {1 - 0.05 / 4}


def test_classes_that_pass_share_a_line():
    gate = FLOOR | {"per_class": True}
    lines = judge(read_policy(gate), make_run("rbrr" * 30 + "b")).summary_lines
    passed = "= 96.8 to 100.0% [79.0, 100.0] n=30 to 31 each, required >= 50% (lower bound)"
    assert lines == [
        f"PASS  m  robust_accuracy[linf-8, 3 classes] {passed}",
        "FAIL  m  robust_accuracy[linf-8, Yield] = 0.0% [0.0, 15.6] n=30, required >= 50% (lower bound)",
        "3 passed, 1 failed",
    ]
    policy = read_policy(DROP | {"per_class": True, "on": "lower"})
    assert judge(policy, make_run(GOOD), make_run(GOOD, **OTHER)).summary_lines[0] == (
        "PASS  m  robust_accuracy[linf-8, 4 classes] drop = 0.0 to 0.0 points [-25.9, 25.9] n=25 each, "
        "required <= 5 points (lower bound)"
    )


def test_differences_that_hardly_matter_are_notes():
    report = judge(read_policy(DROP), make_run(GOOD), make_run(GOOD, seed=3, model="old"))
    assert report.notes == (
        "m is compared with old of the baseline: each run has one model",
        "the runs differ: seed: 3 in the baseline, 0 in this run",
    )


@pytest.mark.parametrize(
    ("keys", "status", "code"), [({}, "inconclusive", 4), ({"baseline": "optional"}, "skipped", 0)]
)
def test_without_a_baseline_a_drop_is_not_measured(keys, status, code):
    report = judge(read_policy(DROP, **keys), make_run(GOOD))
    assert ([verdict.status for verdict in report.verdicts], report.exit_code) == ([status], code)
    assert report.summary_lines[0].startswith(f"{status.upper()}  every model  robust_accuracy[linf-8] drop")


WAIVERS = {
    "covers": ({}, BAD, "waived", "used", 0),
    "covers on its last day": ({"expiry": "2026-11-30"}, BAD, "waived", "used", 0),
    "expired": ({"expiry": "2026-11-29"}, BAD, "fail", "expired", 1),
    "not needed": ({}, GOOD, "pass", "unneeded", 0),
    "an inconclusive gate stays so": ({}, MIDDLE, "inconclusive", "unneeded", 4),
    "another model": ({"model": "x"}, BAD, "fail", "unmatched", 1),
    "this model": ({"model": "m", "defense": "none", "threat": "linf-8"}, BAD, "waived", "used", 0),
    "another threat model": ({"threat": "linf-4"}, BAD, "fail", "unmatched", 1),
    "another gate": ({"id": "flor"}, BAD, "fail", "unmatched", 1),
}


@pytest.mark.parametrize(("changes", "images", "status", "state", "code"), WAIVERS.values(), ids=WAIVERS)
def test_what_a_waiver_does(changes, images, status, state, code):
    report = judge(read_policy(FLOOR, waivers=[WAIVER | changes]), make_run(images))
    (verdict,), (waiver,) = report.verdicts, report.waivers
    assert (verdict.status, waiver.state, report.exit_code) == (status, state, code)
    notes = [line for line in report.summary_lines if line.startswith("note: waiver ")]
    assert bool(notes) == (state != "used")
    assert ("ann accepts it until" in "".join(report.summary_lines)) == (status == "waived")


def test_waivers_that_do_nothing_say_what_to_do():
    def read_note(**changes):
        return judge(read_policy(FLOOR, waivers=[WAIVER | changes]), make_run(BAD)).waivers[0].note

    assert read_note(id="flor").endswith("matches nothing: did you mean floor?")
    assert (
        read_note(expiry="2020-02-29") == "waiver 'floor' of ann expired on 2020-02-29 and no longer counts"
    )
    assert "no result of this gate is of that model" in read_note(model="x")


def test_the_counts_stand_in_the_last_line():
    gates = [FLOOR, FLOOR | {"id": "low", "min": "1%"}, FLOOR | {"id": "w", "level": "warn"}, DROP]
    report = judge(read_policy(*gates, baseline="optional", waivers=[WAIVER]), make_run(BAD))
    assert report.summary_lines[-1] == "1 passed, 1 waived, 1 skipped, 1 warning"
    both = judge(read_policy(FLOOR), two_models(MIDDLE, BAD))
    assert both.summary_lines[-1] == "1 failed, 1 inconclusive"


@pytest.mark.parametrize(
    ("images", "level", "fail_on", "code"),
    [
        (BAD, "error", {"error"}, 1),
        (BAD, "warn", {"error"}, 0),
        (BAD, "warn", {"error", "warn"}, 1),
        (BAD, "error", {"inconclusive"}, 1),
        (MIDDLE, "error", {"error"}, 0),
        (MIDDLE, "error", {"error", "inconclusive"}, 4),
        (MIDDLE, "warn", {"warn", "inconclusive"}, 4),
        (MIDDLE, "warn", {"inconclusive"}, 0),
    ],
)
def test_what_gives_an_exit_code(images, level, fail_on, code):
    report = judge(read_policy(FLOOR | {"level": level}), make_run(images))
    assert report.compute_exit_code(fail_on) == code


@pytest.mark.parametrize(
    ("changes", "suggestion"),
    [
        ({"threat": "linf-9"}, "no threat model 'linf-9', did you mean linf-8?"),
        ({"model": "n"}, "no model 'n', use one of m"),
        ({"attack": "pdg-linf-8"}, "no attack 'pdg-linf-8', did you mean pgd-linf-8?"),
        ({"defense": "jpeg"}, "the run has no such result"),
    ],
)
def test_a_gate_on_nothing_suggests_a_name(changes, suggestion):
    (verdict,) = judge(read_policy(FLOOR | changes), make_run(GOOD)).verdicts
    assert (verdict.status, verdict.explanation.endswith(suggestion)) == ("inconclusive", True)


def test_contradicted_certificates_block_whatever_is_waived():
    cells = (GateCell(images=BAD), GateCell(images="r" * 100, attack="ibp", measure="certificate"))
    run = GateRun(cells=cells)
    report = judge(read_policy(FLOOR, waivers=[WAIVER]), run)
    assert (report.exit_code, report.compute_exit_code(set())) == (70, 70)
    assert report.summary_lines[0].startswith("blocked: certificate violated: ibp-linf-8 certified 90 images")
    against = judge(read_policy(DROP), make_run(BAD), run)
    assert (against.exit_code, against.verdicts[0].status) == (4, "inconclusive")
    assert "contradicts a certificate of the baseline" in against.verdicts[0].explanation


def test_the_gates_of_the_run_are_judged_too_if_the_policy_wants_them():
    gate = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.99}
    run = make_run(GOOD, gates=(gate,))
    report = judge(read_policy(FLOOR, run_gates=True), run)
    assert [(one.gate.id, one.status) for one in report.verdicts] == [
        ("robust_accuracy[linf-8]", "fail"),
        ("floor", "pass"),
    ]
    assert report.gate_ids == ("floor",)
    assert [one.status for one in judge(read_policy(FLOOR), run).verdicts] == ["pass"]


def test_derived_ids_are_unique_and_can_be_waived():
    gates = [
        {key: value for key, value in FLOOR.items() if key != "id"} | {"min": share} for share in (0.5, 0.6)
    ]
    waiver = WAIVER | {"id": "robust_accuracy[linf-8] #2"}
    report = judge(read_policy(*gates, waivers=[waiver]), make_run(BAD))
    assert [(one.gate.id, one.status) for one in report.verdicts] == [
        ("robust_accuracy[linf-8]", "fail"),
        ("robust_accuracy[linf-8] #2", "waived"),
    ]


@pytest.mark.parametrize("name", list_policies())
def test_a_ready_made_policy_makes_sense_as_it_is(name):
    policy = load_policy(name).policy
    assert policy.description
    assert all(gate.id for gate in policy.gates)
    strong, weak = make_run("r" * 396 + "bbbb"), make_run("b" * 400, **OTHER)
    assert judge(policy, strong, strong).exit_code == 0
    assert judge(policy, weak, strong).exit_code == 1
    assert judge(policy, strong).exit_code == (4 if policy.baseline == "required" else 0)
