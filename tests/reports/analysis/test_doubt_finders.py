"""Images in doubt: no gate is decided by them, and every form of the report names them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis import doubt_finders
from robustbench_local.reports.analysis.doubt_finders import Doubt, doubt_answers, find_doubts
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.page import render
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.writers.report_markdown import render_markdown
from robustbench_local.reports.writers.results_json import encode_results
from robustbench_local.store import RunStore

HARDENED = EvaluatedModel(model="signs-pgd-at", defense="none")
GATE = {"metric": "robust_accuracy", "threat": "linf-8", "model": "signs-pgd-at"}


@pytest.fixture
def doubting(monkeypatch):
    """A function: from now on, every run is doubted like this; evidence keeps its doubts, a copy has none."""

    def doubt(finder):
        monkeypatch.setattr(doubt_finders, "DOUBT_FINDERS", (finder,))

    return doubt


def unbroken(evidence, count):
    """The first few images that no attack broke, as a doubt."""
    worst = next(
        one for one in evidence.worst_cases if (one.subject, one.threat.name) == (HARDENED, "linf-8")
    )
    images = [image for image, verdict in worst.verdicts.items() if verdict.robust]
    return Doubt(
        subject=HARDENED,
        threat=worst.threat,
        images=frozenset(images[:count]),
        reason="its gradients are not finite",
        hint="add a black-box attack",
    )


# 41 of 96 images hold: 42.7% (32.7-53.2%). One less is 41.7% (31.7-52.2%), 41 less 0% (0-3.8%).
@pytest.mark.parametrize(
    ("count", "rulings"),
    [
        (0, [({"min": 0.32}, "pass", 0)]),
        (1, [({"min": 0.32}, "inconclusive", 4), ({"min": 0.31}, "pass", 0)]),
        (
            41,
            [
                ({"min": 0.31}, "inconclusive", 4),
                ({"min": 0.80}, "fail", 1),
                ({"max": 0.80}, "pass", 0),
                ({"max": 0.30}, "inconclusive", 4),
                ({"max": 0.50}, "inconclusive", 4),
            ],
        ),
    ],
)
def test_a_ruling_that_hangs_on_images_in_doubt_is_none(content, doubting, count, rulings):
    doubting(lambda evidence: iter([unbroken(evidence, count)]))
    evidence = replace(content.evidence)  # which keeps what it has computed
    for limit, ruling, code in rulings:
        report = judge_evidence(evidence, [GATE | limit])
        assert (report.verdicts[0].ruling, report.exit_code) == (ruling, code), limit


def test_the_reason_has_both_figures_the_doubt_and_what_would_settle_it(content, doubting):
    doubting(lambda evidence: iter([unbroken(evidence, 41)]))
    reason = judge_evidence(replace(content.evidence), [GATE | {"min": 0.3}]).verdicts[0].reason
    for part in (
        "42.7",
        "the robustness of 41 images is in doubt",
        "its gradients are not finite",
        "counted as not robust",
        "0.0",
        "fail",
        "black-box",
    ):
        assert part in reason


def test_attack_success_is_judged_with_images_in_doubt_as_successes(content, doubting):
    gate = GATE | {"metric": "attack_success", "max": 0.7}
    assert judge_evidence(replace(content.evidence), [gate]).verdicts[0].ruling == "pass"
    doubting(lambda evidence: iter([unbroken(evidence, 41)]))
    assert judge_evidence(replace(content.evidence), [gate]).verdicts[0].ruling == "inconclusive"


def test_other_models_and_threats_are_judged_as_before(content, doubting):
    gates = [GATE | {"threat": "linf-4", "min": 0.3}, GATE | {"model": "signs-plain", "min": 0.3}]
    before = [one.ruling for one in judge_evidence(replace(content.evidence), gates).verdicts]
    doubting(lambda evidence: iter([unbroken(evidence, 41)]))
    assert [one.ruling for one in judge_evidence(replace(content.evidence), gates).verdicts] == before


@pytest.mark.parametrize("limit", [{"min": 0.3}, {"min": 0.8}, {"max": 0.8}, {"max": 0.3}])
@pytest.mark.parametrize("metric", ["robust_accuracy", "clean_accuracy", "attack_success"])
def test_no_gate_is_decided_on_a_model_whose_answers_are_in_doubt(content, doubting, metric, limit):
    doubting(lambda evidence: doubt_answers(evidence, HARDENED, "its answers depend on the batch"))
    report = judge_evidence(replace(content.evidence), [GATE | {"metric": metric} | limit])
    assert report.verdicts[0].ruling == "inconclusive"


def test_doubt_about_answers_covers_every_image_of_every_threat(content):
    found = list(doubt_answers(content.evidence, HARDENED, "why"))
    assert {one.threat.name for one in found} == {"linf-2", "linf-4", "linf-8", "l2-0.5"}
    assert all(len(one.images) == 96 for one in found if not one.threat.sources)


def test_a_doubt_without_images_is_none(content, doubting):
    doubting(lambda evidence: iter([unbroken(evidence, 0)]))
    assert find_doubts(replace(content.evidence)) == ()


def test_every_form_of_the_report_names_the_doubts(sample, doubting):
    doubting(lambda evidence: iter([unbroken(evidence, 3)]))
    with RunStore.open_readonly(sample.run_dir) as store:
        content = read_report_data(store)
    (finding,) = [one for one in content.findings if "its gradients are not finite" in one.text]
    assert "signs-pgd-at: 3 images under" in finding.text.replace("\u2068", "").replace("\u2069", "")
    assert finding.level == "warning"
    assert "its gradients are not finite" in render_markdown(content, [])
    assert "its gradients are not finite" in render(content)
    (doubt,) = encode_results(content.evidence, content.gate_report)["doubts"]
    assert (doubt["model"], doubt["threat"], doubt["n"]) == ("signs-pgd-at", "linf-8", 3)
    assert len(doubt["images"]) == 3
