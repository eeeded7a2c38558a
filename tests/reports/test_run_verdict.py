"""The banner of the page: one sentence that says pass or fail, which models, and why."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.formatting.text import EN_DASH
from robustbench_local.reports.page import MAX_SHOWN_LINES, render
from robustbench_local.reports.summary.deciding_numbers import list_deciding_worst_cases, list_other_lines
from robustbench_local.reports.summary.run_verdict import (
    MAX_NAME_CHARACTERS,
    MAX_NAMED_MODELS,
    build_run_verdict,
)
from robustbench_local.reports.writers.report_markdown import render_markdown

# With 96 images: signs-pgd-at has a worst case of 42.7% (32.7-53.2%) under linf-8, signs-plain 0 to 4%.
BOTH = {"metric": "robust_accuracy", "threat": "linf-8"}
HARDENED = BOTH | {"model": "signs-pgd-at"}
CLEAN = {"metric": "clean_accuracy", "min": 0.01}
VALUE = f"robust accuracy under L∞ ≤ 8/255 is 42.7% (32.7{EN_DASH}53.2%, n = 96)"


def build(content, *gates):
    report = judge_evidence(content.evidence, list(gates))
    return build_run_verdict(content.evidence, report), report


@pytest.mark.parametrize(
    ("gates", "ruling", "advice", "parts"),
    [
        ([], "none", "No limit decides what is good enough", [""]),
        (
            [HARDENED | {"min": 0.3}],
            "pass",
            "By the limits that were set, signs-pgd-at can be deployed.",
            [f"The limit is met: on signs-pgd-at, {VALUE}, and its lower bound must be at least 30.0%"],
        ),
        (
            [HARDENED | {"max": 0.8, "on": "estimate"}, CLEAN],
            "pass",
            "signs-pgd-at and signs-plain can be deployed.",
            ["All 3 limits are met: ", "and it must be at most 80.0%."],
        ),
        (
            [CLEAN, BOTH | {"min": 0.3}],
            "fail",
            "By the limits that were set, do not deploy signs-plain.",
            ["1 of 4 limits is not met: on signs-plain, robust accuracy", "signs-pgd-at meets every limit."],
        ),
        (
            [HARDENED | {"min": 0.4}],
            "inconclusive",
            "Do not deploy signs-pgd-at yet: the evidence does not decide.",
            [
                "The limit is not decided: ",
                "its lower bound must be at least 40.0%; the interval straddles the limit; ",
            ],
        ),
        ([HARDENED | {"min": 0.4}, BOTH | {"min": 0.9}], "fail", "signs-plain and signs-pgd-at.", ["2 of 3"]),
        (
            [BOTH | {"min": 0.4}],
            "fail",
            "do not deploy signs-plain. Do not deploy signs-pgd-at yet: the evidence does not decide.",
            ["1 of 2 limits is not met: "],
        ),
        (
            [HARDENED | {"min": 0.9, "level": "warn"}],
            "none",
            "No limit decides what is good enough",
            ["its lower bound must be at least 90.0% (not met, but the gate only warns)."],
        ),
        (
            [HARDENED | {"min": 0.1, "model": "nobody"}],
            "inconclusive",
            "Do not deploy these models yet",
            ["on nobody, robust accuracy under L∞ ≤ 8/255 is not measured"],
        ),
        (
            [{"metric": "attack_success", "attack": "stop-to-speed-limit", "max": 0.99}],
            "inconclusive",
            "Do not deploy signs-plain yet: the evidence does not decide.",
            ["1 of 2 limits is not decided: on signs-plain, attack success under stop-to-speed-limit, L"],
        ),
    ],
)
def test_the_sentence_says_what_the_exit_code_does(content, gates, ruling, advice, parts):
    verdict, report = build(content, *gates)
    assert verdict.ruling == ruling
    assert report.exit_code == {"pass": 0, "none": 0, "fail": 1, "inconclusive": 4}[ruling]
    assert advice in verdict.advice
    for part in parts:
        assert part in verdict.sentence
    counted = (*verdict.failed, *verdict.undecided, *verdict.not_counted, *verdict.passed)
    assert sorted(map(id, (line.verdict for line in counted))) == sorted(map(id, report.verdicts))


def test_a_contradicted_certificate_and_gates_that_were_not_read_outweigh_all(content):
    _, report = build(content, HARDENED | {"min": 0.3})
    broken = build_run_verdict(content.evidence, replace(report, violations=("x",)))
    assert (broken.ruling, broken.label, broken.advice) == ("invalid", "INVALID", "Do not use these numbers.")
    unread = build_run_verdict(content.evidence, replace(report, verdicts=(), unread_reason="it stopped"))
    assert (unread.ruling, unread.sentence) == ("inconclusive", "It stopped.")


@pytest.mark.parametrize("count", [MAX_NAMED_MODELS, MAX_NAMED_MODELS + 1])
def test_many_models_are_counted(content, count):
    _, report = build(content, HARDENED | {"min": 0.9})
    (verdict,) = report.verdicts
    many = [
        replace(verdict, subject=replace(verdict.subject, label=f"m{i}", model=f"m{i}")) for i in range(count)
    ]
    advice = build_run_verdict(content.evidence, replace(report, verdicts=tuple(many))).advice
    assert ("these 5 models" in advice) == (count > MAX_NAMED_MODELS)
    assert ("m3" in advice) == (count <= MAX_NAMED_MODELS)


@pytest.mark.parametrize("length", [MAX_NAME_CHARACTERS, MAX_NAME_CHARACTERS + 1])
def test_long_names_are_cut_in_the_middle(content, length):
    _, report = build(content, HARDENED | {"min": 0.9})
    (verdict,) = report.verdicts
    long = replace(verdict, subject=replace(verdict.subject, label="m" * length))
    sentence = build_run_verdict(content.evidence, replace(report, verdicts=(long,))).sentence
    assert ("m" * length in sentence) == (length == MAX_NAME_CHARACTERS)
    assert f"{'m' * 20}" in sentence


@pytest.mark.parametrize("count", [MAX_SHOWN_LINES, MAX_SHOWN_LINES + 1])
def test_the_page_begins_with_the_verdict_and_folds_a_long_list(content, count):
    limits = [BOTH | {"min": 0.9, "id": f"g{i}", "model": "signs-plain"} for i in range(count)]
    report = judge_evidence(content.evidence, limits)
    shown = replace(content, gate_report=report)
    html = render(shown)
    assert html.index('class="verdict fail"') < html.index('class="answer"') < html.index('id="results"')
    banner = html.partition('class="verdict fail"')[2].partition("</section>")[0]
    assert banner.count("<li>") == count - 1  # the sentence names the first
    assert ("1 more</summary>" in banner) == (count > MAX_SHOWN_LINES)
    assert (
        render_markdown(shown, []).splitlines()[2].startswith("**FAIL.** By the limits that were set, do not")
    )


def test_numbers_that_decide_stand_in_the_first_tables(content):
    gates = [
        BOTH | {"threat": "linf-4", "min": 0.9, "id": "first"},
        BOTH | {"threat": "linf-4", "min": 0.8, "id": "second"},
        BOTH | {"min": 0.4},
        BOTH | {"threat": None, "attack": "fgsm-linf-8", "min": 0.9},
        CLEAN | {"min": 0.999},
        CLEAN | {"min": 0.999, "true_class": "Stop"},
        HARDENED | {"threat": "linf-2", "min": 0.01},
        HARDENED | {"threat": "linf-9", "min": 0.01},
    ]
    report = judge_evidence(content.evidence, gates)
    verdict = build_run_verdict(content.evidence, report)
    cases = list_deciding_worst_cases(content.evidence, verdict)
    assert {(str(case.subject), case.threat.name, case.line.verdict.gate.id) for case in cases} == {
        ("signs-plain", "linf-4", "first"),
        ("signs-pgd-at", "linf-4", "first"),
    }
    others = list_other_lines(content.evidence, verdict)
    quantities = {line.quantity for line in others}
    assert "robust accuracy under fgsm-linf-8, L∞ ≤ 8/255" in quantities
    assert "clean accuracy on images of Stop" in quantities
    assert "clean accuracy" not in quantities
    head = (
        render(replace(content, gate_report=report)).partition('id="results"')[2].partition('id="gates"')[0]
    )
    assert len(re.findall(r"<tr class=\"deciding\">.*?under L\u221e[^<]*4/255", head)) == 2
    assert head.count(">fail</span>: its lower bound must be at least 90.0%") >= 2
    assert "other limits not met or not decided, the first 3" in head
    passed = build_run_verdict(content.evidence, judge_evidence(content.evidence, [HARDENED | {"min": 0.1}]))
    assert not list_deciding_worst_cases(content.evidence, passed)
    assert not list_other_lines(content.evidence, passed)


@pytest.mark.parametrize("length", [MAX_NAME_CHARACTERS, MAX_NAME_CHARACTERS + 1])
def test_a_long_attack_is_cut_in_the_banner_and_whole_in_its_tooltip(content, length):
    _, report = build(content, {"metric": "attack_success", "attack": "stop-to-speed-limit", "max": 0.01})
    long = replace(report.verdicts[0], attack_label="a" * length)
    html = render(replace(content, gate_report=replace(report, verdicts=(long, long))))
    banner = html.partition('class="verdict ')[2].partition("</section>")[0]
    text = re.sub("<[^>]*>", "", banner)
    assert ("a" * length in text) == (length == MAX_NAME_CHARACTERS)
    assert re.search(f'title="[^"]*{"a" * length}', banner)


def test_results_json_has_the_verdict(sample):
    verdict = json.loads(sample.read_text("results.json"))["verdict"]
    assert (verdict["ruling"], set(verdict)) == ("fail", {"ruling", "advice", "sentence"})
    shown = sample.html.replace("\N{NO-BREAK SPACE}", " ").replace("\N{WORD JOINER}", "")
    assert verdict["sentence"] in shown
