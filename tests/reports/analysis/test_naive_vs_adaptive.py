"""Naive and adaptive attackers: two numbers, one that counts, and a sentence on what lies between them."""

from __future__ import annotations

import html
import json
from dataclasses import replace

import pytest
from sample_run import EPS_8_OF_255, SamplePlan, SampleRun, build_run
from test_report_page import HtmlReader

from robustbench_local.cli.result_tables import build_results_table
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.naive_vs_adaptive import build_naive_vs_adaptive
from robustbench_local.reports.sections.heatmap_section import HEATMAP
from robustbench_local.reports.sections.naive_vs_adaptive_section import NAIVE_VS_ADAPTIVE
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.sections.targets_section import TARGETS
from robustbench_local.reports.sections.transfers_section import TRANSFERS
from robustbench_local.store import RunStore

pytestmark = pytest.mark.usefixtures("blank_figures")

STRENGTHS = {"jpeg-75": (0.2, 0.9), "noise-0.1": (0.5, 0.5), "hidden": (0.9, 0.2)}
"""Of the naive and of the adaptive attack on each defense."""


def _pgd(attack, strength, defense="none", **changes):
    ball = {
        "card": "pgd50-linf-8",
        "norm": "Linf",
        "eps": EPS_8_OF_255,
        "threat": "linf-8",
        "passes_per_image": (252, 250),
    }
    return SamplePlan(attack=attack, strength=strength, defense=defense, **(ball | changes))


PLANS = (
    _pgd("pgd50-linf-8", 0.97),
    *(
        _pgd(f"pgd50-linf-8{suffix}", strength, defense, knowledge=knowledge)
        for defense, (naive, adaptive) in STRENGTHS.items()
        for suffix, strength, knowledge in (("", adaptive, "white-box"), ("[naive]", naive, "naive"))
    ),
    _pgd("stop-to-80[naive]", 0.9, "jpeg-75", knowledge="naive", targets=(5,), card="stop-to-80"),
)  # fmt: skip
GATES = (
    {"metric": "robust_accuracy", "threat": "linf-8", "defense": "jpeg-75", "min": 0.3},
    {"metric": "robust_accuracy", "attack": "pgd50-linf-8", "defense": "jpeg-75", "min": 0.3},
    {"metric": "robust_accuracy", "attack": "pgd50-linf-8[naive]", "defense": "jpeg-75", "min": 0.3},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = SampleRun(models=("signs-plain",), plans=PLANS, failing_cell=None, has_images=False, gates=GATES)
    return build_run(tmp_path_factory.mktemp("naive") / "run", made)


@pytest.fixture(scope="module")
def content(run):
    with RunStore.open_readonly(run) as store:
        return read_report_data(store)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run)


def test_both_numbers_stand_side_by_side_with_the_model_as_it_is(content):
    first, second, third, targeted = content.get_content(NAIVE_VS_ADAPTIVE)
    assert [str(one.subject) for one in content.get_content(NAIVE_VS_ADAPTIVE)[:3]] == [
        f"signs-plain + {name}" for name in STRENGTHS
    ]
    cells = {(cell.record.defense, cell.record.attack): cell for cell in content.evidence.cells}
    assert first.undefended.estimate == cells["none", "pgd50-linf-8"].robust_accuracy
    assert first.naive.estimate == cells["jpeg-75", "pgd50-linf-8[naive]"].robust_accuracy
    assert first.adaptive.estimate == cells["jpeg-75", "pgd50-linf-8"].robust_accuracy
    gone = first.naive.estimate.count - first.adaptive.estimate.count
    assert (first.comparison.n, first.comparison.only_first, first.comparison.only_second) == (96, gone, 0)
    assert gone > 20
    assert f"{gone} images robust only while the attack does not know of the defense" in first.sentence
    assert first.sentence.endswith("p < 0.001).")
    assert second.comparison.p_value == 1
    assert "The difference is not significant" in second.sentence
    assert "weaker than the non-adaptive one, so it is not adaptive enough" in third.sentence
    assert targeted.adaptive.status_text == "not run"
    assert "did not finish" in targeted.sentence


def test_no_worst_case_no_gate_and_no_other_section_counts_the_naive_one(content):
    evidence = content.evidence
    worst = {str(one.subject): one for one in evidence.worst_cases}
    assert worst["signs-plain + jpeg-75"].attacks == ("pgd50-linf-8",)
    assert (
        worst["signs-plain + jpeg-75"].robust_accuracy
        == content.get_content(NAIVE_VS_ADAPTIVE)[0].adaptive.estimate
    )
    assert [column.attack for column in content.get_content(HEATMAP).columns] == ["pgd50-linf-8"]
    assert content.get_content(TARGETS).matrices == ()
    assert not content.has_section("sight")
    assert not content.get_content(TRANSFERS)
    verdicts = judge_evidence(evidence).verdicts
    assert [one.estimate for one in verdicts] == [
        content.get_content(NAIVE_VS_ADAPTIVE)[0].adaptive.estimate,
        content.get_content(NAIVE_VS_ADAPTIVE)[0].adaptive.estimate,
        content.get_content(NAIVE_VS_ADAPTIVE)[0].naive.estimate,
    ]


def test_a_number_that_a_naive_attack_beats_is_not_trustworthy(content):
    told = [one.text for one in content.findings if one.level == "untrusted" and one.text.startswith("D9")]
    assert len(told) == 1
    assert "signs-plain + hidden" in told[0]
    assert "pgd50-linf-8[naive]" in told[0]


def test_every_form_of_the_report_shows_the_lesson(page, content):
    shown = HtmlReader(page.read_text("utf-8"))
    ids = {attributes.get("id") for _, attributes in shown.elements}
    assert "defenses" in ids
    assert "#defenses" in {attributes.get("href") for attributes in shown.list_attributes("a")}
    lesson = content.get_content(NAIVE_VS_ADAPTIVE)[0]
    markdown = (page.parent / "report.md").read_text("utf-8")
    for text in (shown.page_text, html.unescape(markdown.replace("\\", ""))):
        assert " ".join(lesson.sentence.split()) in " ".join(text.split())
        assert "Non-adaptive and adaptive attacks" in text
    results = json.loads((page.parent / "results.json").read_text("utf-8"))
    first = results["naive_vs_adaptive"][0]
    assert (first["model"], first["defense"], first["attack"]) == ("signs-plain", "jpeg-75", "pgd50-linf-8")
    assert first["naive"] == lesson.naive.estimate.to_json("")
    assert (first["n"], first["only_naive"]) == (96, lesson.comparison.only_first)
    assert first["sentence"] == lesson.sentence
    assert results["naive_vs_adaptive"][3]["p_value"] is None
    assert "pgd50-linf-8[naive]" in (page.parent / "results.csv").read_text("utf-8")
    names = [str(cell) for cell in build_results_table(results).columns[1]._cells]
    assert names.count("pgd50-linf-8[naive]") == 3


def test_without_a_naive_cell_there_is_nothing_to_learn(content):
    cells = tuple(cell for cell in content.evidence.cells if not cell.is_naive)
    assert not build_naive_vs_adaptive(replace(content.evidence, cells=cells))
    alone = tuple(cell for cell in content.evidence.cells if cell.is_naive and not cell.targeted)
    lessons = build_naive_vs_adaptive(replace(content.evidence, cells=alone))
    assert [one.undefended.status_text for one in lessons] == ["not run"] * 3
    assert lessons[0].subject == EvaluatedModel(model="signs-plain", defense="jpeg-75")
