"""What diagnostics do to numbers: the headline, gates, the panel, and runs that have none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_disagreements import (
    CE,
    FGSM,
    MARGIN,
    PGD_NAME,
    attack,
    autoattack,
    judge_gate,
    make_evidence,
    square,
)

from robustbench_local.reports.analysis.checklist import build_checklist
from robustbench_local.reports.analysis.convergence_diagnostics import MIN_STEPS_RATIO
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.run_diagnostics import MAX_DECLARED_GAP
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.trust import list_diagnostics, select_blocks, select_distrust
from robustbench_local.reports.sections.trust_section import TRUST
from robustbench_local.reports.summary.headline import describe_answer
from robustbench_local.store.diagnostic_records import (
    RAISED_REASON,
    TOO_SMALL_REASON,
    UNENDED_REASON,
    DiagnosticResult,
    DiagnosticsRecord,
)
from robustbench_local.store.outcome_limits import (
    MIN_BINARY_ACCURACY,
    MIN_CHANCE_RATIO,
    MIN_GUESSING_IMAGES,
)
from robustbench_local.store.records import AdaptationRecord

CELLS = (
    attack("b" * 40 + "h" * 60, PGD_NAME, CE),
    attack("b" * 40 + "h" * 60, "pgd50-margin-linf-8", MARGIN),
)


def make_result(identifier="D7", status="fail", threat=None, **changes) -> DiagnosticResult:
    subject = make_evidence(*CELLS).subjects[0]
    return DiagnosticResult(
        id=identifier, name="a check", model=subject.model, defense=subject.defense, threat=threat,
        status=status, sentence=f"The check of {identifier} says so.", action="Do it.", **changes,
    )  # fmt: skip


def with_results(*results, cells=CELLS, **changes):
    record = DiagnosticsRecord(results=results, passes=5, planned_passes=100)
    return replace(make_evidence(*cells), diagnostics=record, **changes)


def find_result(evidence, identifier):
    found = [one for one in list_diagnostics(evidence) if one.id == identifier]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("status", "ruling"),
    [("block", "inconclusive"), ("fail", "inconclusive"), ("warn", "pass"), ("info", "pass"), ("ok", "pass")],
)
def test_a_gate_passes_on_trusted_numbers_only(status, ruling):
    verdict = judge_gate(with_results(make_result(status=status)), min=0.5, on="estimate")
    assert verdict.ruling == ruling
    assert ("D7: The check of D7 says so." in verdict.reason) == (ruling == "inconclusive")
    gate = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5, "on": "estimate"}
    report = judge_evidence(with_results(make_result(status=status)), [gate])
    assert report.exit_code == (4 if ruling == "inconclusive" else 0)


def test_a_gate_may_ignore_distrust_and_says_so():
    verdict = judge_gate(with_results(make_result()), min=0.5, on="estimate", trust="ignore")
    assert verdict.ruling == "pass"
    assert "not trustworthy, which trust: ignore lets pass: D7" in verdict.reason


def test_a_gate_that_fails_still_fails():
    assert judge_gate(with_results(make_result()), min=0.7).ruling == "fail"


def test_distrust_concerns_its_own_threat_model_and_metric():
    other = with_results(make_result(threat="l2-0.5"))
    assert judge_gate(other, min=0.5, on="estimate").ruling == "pass"
    fail = with_results(make_result())
    gate = {"metric": "clean_accuracy", "threat": None, "min": 0.5}
    assert judge_gate(fail, **gate).ruling == "pass"
    assert judge_gate(with_results(make_result(status="block")), **gate).ruling == "inconclusive"


def test_a_gate_on_one_attack_is_held_by_the_model_and_not_by_other_attacks():
    beaten = (attack("h" * 100, PGD_NAME, CE), square("h" * 90 + "b" * 10))
    named = {"threat": None, "attack": "square-linf-8", "min": 0.5}
    assert find_result(with_results(cells=beaten), "D8").status == "fail"
    assert judge_gate(with_results(cells=beaten), **named).ruling == "pass"
    assert judge_gate(with_results(make_result(), cells=beaten), **named).ruling == "inconclusive"


def test_the_headline_says_what_fails_and_no_number_where_something_blocks():
    assert "not trustworthy" not in describe_answer(with_results())
    assert "60.0%" in describe_answer(with_results(make_result()))
    assert "not trustworthy because the gradient that attacks follow is misleading (D7)" in describe_answer(
        with_results(make_result())
    )
    blocked = describe_answer(with_results(make_result("D2", "block")))
    assert blocked == "No answer: the check of D2 says so."


def test_findings_tell_each_fact_once():
    results = [
        make_result(status="fail"),
        make_result("D18", "warn"),
        make_result("D5", "info"),
        make_result("D2", "block"),
    ]
    found = [(one.level, one.text[:3].rstrip(",")) for one in list_findings(with_results(*results))]
    assert [pair for pair in found if pair[0] in {"void", "untrusted"}] == [
        ("void", "D2"),
        ("untrusted", "D7"),
    ]
    assert ("warning", "D18") in found
    assert not any(name == "D5" for _, name in found)


def test_an_older_run_says_that_nothing_was_asked():
    evidence = make_evidence(*CELLS)
    (older,) = [one for one in list_diagnostics(evidence) if "older run" in one.sentence]
    assert older.status == "not run"
    assert judge_gate(evidence, min=0.5, on="estimate").ruling == "pass"


def test_the_advice_is_not_to_run_what_ran_already():
    found = replace(make_result("D30", "fail"), action="Run adaptive.")
    before = find_result(with_results(found), "D30").action
    cell = attack("h" * 100, "adaptive", {"method": "adaptive"})
    after = find_result(with_results(found, cells=(cell,)), "D30").action
    assert before == "Run adaptive."
    assert after.startswith("The attack adaptive ran already: what it broke counts")
    silent = replace(found, status="ok", action="")
    assert find_result(with_results(silent, cells=(cell,)), "D30").action == ""


# --- the diagnostics that compare cells ---------------------------------------------------------------------


@pytest.mark.parametrize(("missed", "status"), [(0, "ok"), (2, "info"), (3, "fail")])
def test_black_boxes_and_transfers_against_white_boxes(missed, status):
    white = attack("h" * 100, PGD_NAME, CE)
    for identifier, other in (
        ("D8", square("b" * missed + "h" * (100 - missed))),
        ("D9", attack("b" * missed + "h" * (100 - missed), "t", CE, knowledge="transfer", surrogate="s")),
    ):
        result = find_result(make_evidence(white, other), identifier)
        assert (result.status, result.n) == (status, 100)
    assert find_result(make_evidence(white), "D8").status == "not run"


@pytest.mark.parametrize(
    ("stages", "beside", "status", "ruling"),
    [
        ("c" * 37 + "s" * 3 + "h" * 60, "", "warn", "pass"),
        ("c" * 37 + "s" * 2 + "h" * 61, "", "info", "pass"),
        (
            "c" * 37 + "h" * 63,
            "h" * 97 + "b" * 3,
            "fail",
            "inconclusive",
        ),  # a black box beats adaptive as well
        ("c" * 20 + "s" * 3 + "h" * 17, "h" * 100, "fail", "inconclusive"),  # adaptive on a part
    ],
)
def test_what_adaptive_finds_without_gradients_counts_and_is_a_warning(stages, beside, status, ruling):
    cell = autoattack(stages)
    adaptive = replace(
        cell, record=replace(cell.record, parameters=cell.record.parameters | {"method": "adaptive"})
    )
    others = (attack("h" * 100, PGD_NAME, CE), square(beside)) if beside else ()
    evidence = make_evidence(adaptive, *others)
    result = find_result(evidence, "D8")
    assert result.status == status
    assert ("The attack adaptive, which searches" in result.sentence) == (status == "warn")
    assert judge_gate(evidence, min=0.3, on="estimate").ruling == ruling


@pytest.mark.parametrize(("method", "status"), [("autoattack", "fail"), ("adaptive", "warn")])
def test_an_ensemble_that_chooses_fails_until_its_networks_are_attacked(method, status):
    cell = autoattack("c" * 37 + "h" * 63)
    cell = replace(cell, record=replace(cell.record, parameters=cell.record.parameters | {"method": method}))
    evidence = with_results(make_result("D28", "warn"), make_result("D27", "warn"), cells=(cell,))
    assert find_result(evidence, "D28").status == status
    assert find_result(evidence, "D27").status == "warn"


@pytest.mark.parametrize(
    ("known", "status"),
    [(("0", "1"), "ok"), (("0", "99"), "warn"), (("98", "99"), "warn"), (("97", "98", "99"), "fail")],
)
def test_noise_that_attacks_do_not_match_is_named(known, status):
    cell = attack("b" * 40 + "h" * 60, PGD_NAME, CE)
    images = list(cell.verdicts)
    noise = make_result("D10", "ok", "linf-8", n=64, images=tuple(images[int(row)] for row in known))
    result = find_result(with_results(noise, cells=(cell,)), "D10")
    assert result.status == status
    assert not result.images
    assert find_result(with_results(replace(noise, status="not run")), "D10").status == "not run"


@pytest.mark.parametrize(("gained", "ratio", "status"), [(2, 2, "ok"), (3, 2, "fail"), (3, 1.9, "not run")])
def test_convergence_in_the_number_of_steps(gained, ratio, status):
    assert MIN_STEPS_RATIO == 2
    short = attack("b" * 10 + "h" * 90, "pgd10", {**CE, "steps": 10})
    long = attack("b" * (10 + gained) + "h" * (90 - gained), "pgd20", {**CE, "steps": 10 * ratio})
    assert find_result(make_evidence(short, long), "D13").status == status
    slower = attack("b" * (10 + gained) + "h" * (90 - gained), "pgd80", {**CE, "steps": 80})
    assert find_result(make_evidence(short, slower), "D13").status == "ok", "one image for each doubling"
    other = attack("h" * gained + "b" * 10 + "h" * (90 - gained), "pgd20", {**CE, "steps": 20})
    assert find_result(make_evidence(short, other), "D13").status == "ok", "as many images are lost"
    settled = make_evidence(short, long, autoattack("c" * (10 + gained) + "h" * (90 - gained)))
    assert find_result(settled, "D13").status in {"info", "ok", "not run"}


def test_contradictions_fail_where_numbers_rely_on_them_and_warn_where_others_decide():
    single, faulty = attack("b" * 20 + "h" * 80, "fgsm-linf-8", FGSM), attack("h" * 100, PGD_NAME, CE)
    assert find_result(make_evidence(single, faulty), "D15").status == "fail"
    settled = make_evidence(single, faulty, autoattack("c" * 20 + "h" * 80))
    assert find_result(settled, "D15").status == "warn"
    assert find_result(make_evidence(faulty), "D15").status == "not run"
    losses = make_evidence(*CELLS)
    assert find_result(losses, "D17").status == "ok"


def test_random_models_need_attacks_that_average():
    random = make_result("D4", "fail")
    assert find_result(with_results(random), "D21").status == "fail"
    averaged = attack("h" * 100, "autoattack-rand", {"method": "autoattack", "version": "rand"})
    assert find_result(with_results(random, cells=(averaged,)), "D21").status == "warn"
    for draws, status in ((1, "fail"), (20, "warn")):
        steps = [{"label": "EOT", "draws": draws}]
        adapted = replace(
            attack("h" * 100, "adaptive-linf-8", {"method": "adaptive"}),
            adaptation=AdaptationRecord(description={"steps": steps}),
        )
        assert find_result(with_results(random, cells=(adapted,)), "D21").status == status
    assert find_result(with_results(replace(random, status="ok")), "D21").status == "ok"
    assert find_result(make_evidence(*CELLS), "D21").status == "not run"


@pytest.mark.parametrize(("declared", "status"), [(1.0, "ok"), (0.965, "ok"), (0.9, "block")])
def test_another_clean_accuracy_than_declared_blocks(declared, status):
    """All 100 images are correct: the interval reaches down to 96.4 %."""
    assert MAX_DECLARED_GAP == 0.005
    subject = make_evidence(*CELLS).subjects[0]
    grid = {"declared": {"clean_accuracy": {subject.model: declared}}}
    evidence = with_results(grid=grid)
    assert find_result(evidence, "D22").status == status
    assert bool(select_blocks(evidence, subject)) == (status == "block")


@pytest.mark.parametrize(("correct", "status"), [(27, "block"), (45, "warn"), (49, "warn"), (50, "ok")])
def test_a_model_near_chance(correct, status):
    """Four classes: chance is 25 %, twice chance 50 %."""
    assert MIN_CHANCE_RATIO == 2
    cell = attack("h" * correct + "w" * (100 - correct), PGD_NAME, CE)
    evidence = with_results(cells=(cell,), data={"class_names": list("abcd")})
    assert find_result(evidence, "D22").status == status


@pytest.mark.parametrize(
    ("classes", "correct", "n", "status"),
    [
        (2, 5, 5, "warn"),  # all are right, and five images prove nothing
        (10, 3, 8, "warn"),
        (10, 3, MIN_GUESSING_IMAGES - 1, "warn"),
        (10, 3, MIN_GUESSING_IMAGES, "block"),
        (10, 4, MIN_GUESSING_IMAGES, "warn"),
        (2, 14, 20, "block"),
        (2, 15, 20, "ok"),
        (43, 4, 8, "ok"),
    ],
)
def test_few_images_do_not_void_a_model(classes, correct, n, status):
    assert (MIN_GUESSING_IMAGES, MIN_BINARY_ACCURACY) == (20, 0.75)
    cell = attack("h" * correct + "w" * (n - correct), PGD_NAME, CE)
    names = [f"class {number}" for number in range(classes)]
    assert find_result(with_results(cells=(cell,), data={"class_names": names}), "D22").status == status


@pytest.mark.parametrize(("images", "status"), [(99, "warn"), (100, "ok")])
def test_few_images_are_a_warning(images, status):
    assert find_result(make_evidence(attack("h" * images, PGD_NAME, CE)), "D23").status == status


def test_transferred_attacks_alone_are_no_robustness():
    moved = attack("h" * 100, "t", CE, knowledge="transfer", surrogate="s")
    assert find_result(make_evidence(moved), "D24").status == "warn"
    assert find_result(make_evidence(*CELLS, moved), "D24").status == "ok"


# --- the panel ----------------------------------------------------------------------------------------------


def test_the_panel_says_the_same_in_every_form():
    evidence = with_results(make_result(value=0.3, limit=0.95, n=12), make_result("D2", "ok"))
    content = TRUST.build_content(evidence, None)
    (trust,) = content.models
    assert trust.results[0].id == "D7"
    assert {one.status for one in trust.calm_results} == {"ok", "not run"}
    assert "5 passes, 5.0% of the 100" in content.cost_sentence
    markdown = "\n".join(TRUST.to_markdown(content, evidence))
    encoded = json.loads(json.dumps(TRUST.to_json(evidence)))
    for text in ("The check of D7 says so.", "Do it."):
        assert text in markdown
    (failed,) = [one for one in encoded["diagnostics"]["results"] if one["status"] == "fail"]
    assert (failed["value"], failed["limit"], failed["n"], failed["action"]) == (0.3, 0.95, 12, "Do it.")
    assert encoded["diagnostics"]["passes_share"] == 0.05
    subject = evidence.subjects[0]
    assert [one.id for one in select_distrust(evidence, subject, evidence.threats[0])] == ["D7"]


def test_the_checklist_tells_what_was_done_declared_and_left_out():
    grid = {"declared": {"source_code": "https://example.org/model", "ablation": "see table 3"}}
    lines = build_checklist(with_results(make_result("D10", "ok", "linf-8"), grid=grid))
    by_note = {line.note: line.status for line in lines}
    assert by_note["https://example.org/model"] == "declared by the user"
    assert by_note["see table 3"] == "declared by the user"
    assert by_note["Diagnostic D10."] == "done automatically"
    assert any(line.status == "not done" and "declared: threat_model" in line.note for line in lines)
    assert len(lines) == len({line.text for line in lines}) == 21


# --- questions that were not asked --------------------------------------------------------------------------


def make_unasked(identifier, reason=TOO_SMALL_REASON):
    return replace(make_result(identifier, "not run"), sentence=f"Not checked: {reason}.")


@pytest.mark.parametrize(("identifier", "level"), [("D7", "warning"), ("D6a", "warning"), ("D11", "note")])
def test_questions_that_were_not_asked_are_named_once_for_each_model(identifier, level):
    evidence = with_results(make_unasked(identifier), make_unasked("D10"))
    (line,) = [one for one in list_findings(evidence) if "not asked, because" in one.text]
    assert line.level == level
    assert "2 questions not asked, because the run is too small" in line.text
    assert (
        f"D10 (a check) and {identifier} (a check)" in line.text
        or f"{identifier} (a check) and D10" in line.text
    )
    assert ("run more images" in line.text) == (level == "warning")


@pytest.mark.parametrize(
    ("identifier", "reason", "is_noted"),
    [
        ("D7", TOO_SMALL_REASON, True),
        ("D6b", f"{UNENDED_REASON}: it hung", True),
        ("D6a", f"{RAISED_REASON} ValueError: no", True),
        ("D7", "the gradient is missing altogether (D6a, D6b)", False),
        ("D11", TOO_SMALL_REASON, False),
    ],
)
def test_a_gate_passes_on_unchecked_gradients_and_says_so(identifier, reason, is_noted):
    evidence = with_results(make_unasked(identifier, reason))
    verdict = judge_gate(evidence, min=0.5, on="estimate")
    assert verdict.ruling == "pass"
    assert ("can be trusted was not checked" in verdict.reason) == is_noted
    clean = judge_evidence(evidence, [{"metric": "clean_accuracy", "min": 0.5, "on": "estimate"}])
    assert "not checked" not in clean.verdicts[0].reason
    assert "not checked" not in judge_gate(evidence, min=0.9, on="estimate").reason


@pytest.mark.parametrize(
    ("cells", "is_noted"),
    [
        (CELLS, True),
        ((*CELLS, square("b" * 40 + "h" * 60)), False),
        ((CELLS[0], autoattack("b" * 40 + "h" * 60)), False),
        ((attack("b" * 40 + "h" * 60, PGD_NAME, CE | {"method": "adaptive"}),), False),
    ],
)
def test_a_gate_passes_on_attacks_that_all_follow_gradients_and_says_so(cells, is_noted):
    evidence = with_results(cells=cells)
    verdict = judge_gate(evidence, min=0.5, on="estimate")
    assert verdict.ruling == "pass"
    assert ("only attacks that follow gradients ran" in verdict.reason) == is_noted
    assert "follow gradients" not in judge_gate(evidence, min=0.9, on="estimate").reason
    named = judge_evidence(evidence, [{"attack": cells[0].record.attack, "min": 0.5, "on": "estimate"}])
    assert "follow gradients" not in named.verdicts[0].reason


def test_a_gate_that_fails_on_a_distrusted_number_is_marked():
    assert "not trustworthy (D7)" in judge_gate(with_results(make_result()), min=0.9, on="estimate").reason


@pytest.mark.parametrize("identifier", ["D5", "D18"])
@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ((attack("h" * 100, PGD_NAME, CE), attack("h" * 100, "fgsm-linf-8", FGSM)), "fail"),
        (CELLS, "warn"),
        ((attack("h" * 100, PGD_NAME, CE), square("h" * 100)), "warn"),
        ((autoattack("h" * 100),), "warn"),
    ],
)
def test_outputs_that_weaken_the_cross_entropy_fail_where_nothing_else_ran(identifier, cells, status):
    result = find_result(with_results(make_result(identifier, "warn"), cells=cells), identifier)
    assert result.status == status
    assert ("every attack of the run follows the cross-entropy" in result.sentence) == (status == "fail")
    assert find_result(with_results(make_result(identifier, "ok"), cells=cells), identifier).status == "ok"
