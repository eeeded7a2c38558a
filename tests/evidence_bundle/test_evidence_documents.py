"""The bill of materials and the evidence map of the embedded run."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from robustbench_local.evidence_bundle.attestation import build_statement
from robustbench_local.evidence_bundle.evidence_map import (
    EVIDENCE_KINDS,
    build_evidence_map,
    format_evidence_map,
    read_requirements,
)
from robustbench_local.evidence_bundle.ml_bom import build_bom

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads((ROOT / "reports/signs/results.json").read_text(encoding="utf-8"))


def find_item(results: dict, name: str) -> dict:
    return next(item for item in build_evidence_map(results)["items"] if item["id"] == name)


def test_every_place_of_evidence_is_there(results):
    items = build_evidence_map(results)["items"]
    assert len(items) == len(read_requirements())
    for item in items:
        assert item["status"] in {"tested", "partly tested", "not tested"}
        assert (item["status"] == "not tested") == (not item["evidence"])
        for entry in item["evidence"]:
            for pointer in entry["pointers"]:
                value = results
                for part in pointer.split("/")[1:]:
                    value = value[int(part)] if isinstance(value, list) else value[part]
                assert value
    assert {kind for requirement in read_requirements() for kind in requirement["evidence"]} == set(
        EVIDENCE_KINDS
    )


def test_a_map_judges_nothing(results):
    page = format_evidence_map(build_evidence_map(results)).lower()
    for word in ("compliant", "compliance", "conforms", "certified by", "passed"):
        assert word not in page


def test_what_is_tested_depends_on_the_run(results):
    assert find_item(results, "formal methods")["status"] == "tested"
    assert find_item(results, "AML.T0043.002")["status"] == "not tested"
    assert find_item(results, "Art. 15(4)")["missing"] == ["common corruptions"]
    doubted = find_item(results, "AML.T0043.000")
    assert doubted["status"] == "partly tested"
    assert "void or not trustworthy" in doubted["caveats"][0]
    sound = copy.deepcopy(results)
    for cell in sound["cells"]:
        cell["trustworthy"] = True
    assert find_item(sound, "AML.T0043.000")["status"] == "tested"
    for cell in sound["cells"]:
        cell["status"] = "error"
    assert find_item(sound, "AML.T0043.000")["status"] == "not tested"
    sound["cells"][0].update(status="stopped", knowledge="transfer")
    assert find_item(sound, "section 2.2, transferability")["caveats"] == [
        "1 of 1 place of evidence is about part of the images"
    ]


def test_metrics_have_intervals_and_carry_distrust(results):
    bill = build_bom(results, "0" * 64, has_model_card=False)
    models = [one for one in bill["components"] if one["type"] == "machine-learning-model"]
    assert [one["name"] for one in models] == [about["id"] for about in results["models"]]
    metrics = models[0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    worst = results["worst_case"][0]["robust_accuracy"]
    assert metrics[1] == {
        "type": "robust accuracy",
        "value": f"{worst['value']:.10g}",
        "slice": f"linf-8, worst case over 4 attacks, n = {worst['n']}",
        "confidenceInterval": {"lowerBound": f"{worst['low']:.10g}", "upperBound": f"{worst['high']:.10g}"},
    }
    distilled = next(one for one in models if one["name"] == "signs-distilled")["modelCard"]
    assert "not trustworthy (D6c, D17)" in distilled["quantitativeAnalysis"]["performanceMetrics"][0]["slice"]
    assert any("D6c" in line for line in distilled["considerations"]["technicalLimitations"])
    assert models[0]["hashes"] == [
        {"alg": "SHA-256", "content": results["models"][0]["provenance"]["sha256"]}
    ]


def test_failures_and_quarantined_files_are_carried_over(results):
    changed = copy.deepcopy(results)
    changed["cells"][0].update(status="error", reported_status="error", error="it broke")
    changed["data"]["quarantined"] = [["bad.png", "not an image"]]
    bill = build_bom(changed, "0" * 64, has_model_card=False)
    assert "robustbench_local:quarantined file" in {one["name"] for one in bill["metadata"]["properties"]}
    limits = bill["components"][0]["modelCard"]["considerations"]["technicalLimitations"]
    assert "fgsm-linf-8: error: it broke" in limits


@pytest.mark.extra
def test_the_bill_is_valid_cyclonedx(results):
    pytest.importorskip("cyclonedx.validation.json", reason="its schema is in cyclonedx-python-lib")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for has_model_card in (False, True):
        text = json.dumps(build_bom(results, "0" * 64, has_model_card=has_model_card))
        assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(text) is None


@pytest.mark.parametrize(
    ("verdicts", "violations", "outcome"),
    [
        (["pass"], [], "PASSED"),
        (["pass", "inconclusive"], [], "WARNED"),
        ([], [], "WARNED"),
        (["pass", "fail"], [], "FAILED"),
        (["pass"], ["an attack contradicts a certificate"], "FAILED"),
    ],
)
def test_the_statement_says_what_the_gates_say(verdicts, violations, outcome):
    gates = [
        {"id": str(number), "verdict": verdict, "evaluated_model": {"label": "m"} if number else None}
        for number, verdict in enumerate(verdicts)
    ]
    results = {"gates": {"verdicts": gates, "violations": violations}}
    predicate = build_statement({"run.yaml": "0" * 64}, results)["predicate"]
    assert predicate["result"] == outcome
    named = [*predicate["passedTests"], *predicate["warnedTests"], *predicate["failedTests"]]
    assert len(named) == len(verdicts) + len(violations)
