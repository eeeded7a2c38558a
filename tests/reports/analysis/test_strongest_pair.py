"""The strongest targeted finding: which classes, how often, and an interval for having been chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.strongest_pair import describe_strongest_pair, find_strongest_pair
from robustbench_local.reports.summary.headline import describe_answer, describe_comparisons
from robustbench_local.reports.writers.results_json import encode_results
from robustbench_local.statistics import compute_clopper_pearson

HELD, BROKEN = ImageVerdict(True, False, True), ImageVerdict(True, True, False)


@pytest.fixture
def build(content):
    """A function: evidence of targeted cells, each model with (label, prediction) of its images."""
    template = next(cell for cell in content.evidence.cells if cell.targeted)

    def build_evidence(targets, **readings):
        cells = []
        for model, pairs in readings.items():
            name = f"pgd-{model}"
            record = replace(template.record, key=name, model=model, attack=name, targets=targets, sources=())
            verdicts = {f"i{n}": BROKEN if end in targets else HELD for n, (_, end) in enumerate(pairs)}
            ends = {f"i{n}": (end, label) for n, (label, end) in enumerate(pairs)}
            predictions = {
                image: replace_prediction(template, end, label) for image, (end, label) in ends.items()
            }
            cells.append(replace(template, record=record, verdicts=verdicts, predictions=predictions))
        return replace(content.evidence, cells=tuple(cells), worst_cases=(), question="")

    return build_evidence


def replace_prediction(template, prediction, label):
    kind = type(next(iter(template.predictions.values())))
    return kind(prediction, label)


def test_the_pair_with_the_highest_success_leads_and_its_interval_accounts_for_the_choice(build):
    evidence = build(
        (1, 2),
        a=[(10, 1)] * 3 + [(10, 10)] * 7 + [(11, 11)] * 10,
        b=[(10, 2)] * 8 + [(10, 1)] * 2 + [(11, 1)] * 2 + [(11, 11)] * 8,
    )
    found = find_strongest_pair(evidence)
    assert (found.pair.cell.record.model, found.pair.source, found.pair.target) == ("b", 10, 2)
    assert (found.success_count, found.pair_count) == (8, 8)
    alone = compute_clopper_pearson(8, 10)
    assert (found.success.value, found.success.n) == (pytest.approx(0.8), 10)
    assert found.success.low < alone.low
    assert found.success.high >= alone.high - 1e-9
    sentence = describe_strongest_pair(evidence)
    assert "b misclassifies Stop as Speed limit 50 on 8 of 10 images: 80.0% (" in sentence
    assert "corrected for the choice among 8 combinations" in sentence
    assert describe_answer(evidence).endswith(f"only raise this. {sentence}")  # 10 of 10 for both together
    assert sentence not in describe_comparisons(evidence)  # without an untargeted headline it is the answer
    entry = json.loads(json.dumps(encode_results(evidence, judge_evidence(evidence))))["strongest_pair"]
    assert (entry["model"], entry["source"], entry["target"]) == ("b", "Stop", "Speed limit 50")
    assert entry["success"] == found.success.to_json()


@pytest.mark.parametrize(
    ("targets", "readings"),
    [((1,), [(10, 1)] * 4), ((1, 2), [(10, 10)] * 4), ((1, 2), [(10, 3)] * 4), ((1, 2), [])],
    ids=["one pair", "no success", "another class", "no image"],
)
def test_without_a_choice_or_a_success_there_is_none(build, targets, readings):
    evidence = build(targets, a=readings)
    assert find_strongest_pair(evidence) is None
    assert describe_strongest_pair(evidence) == ""


def test_of_equal_pairs_the_one_of_most_images_leads(build):
    evidence = build((1,), a=[(10, 1)] * 2 + [(11, 1)] * 3)
    assert find_strongest_pair(evidence).pair.source == 11
