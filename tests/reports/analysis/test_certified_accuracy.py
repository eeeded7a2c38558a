"""The section 'Certified': shares, curves beside the attacks', words, gates, and every form of the report."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from sample_run import SamplePlan, SampleRun, build_run

from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.certified_accuracy import build_certified_groups
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_evidence, judge_run_dir
from robustbench_local.reports.analysis.read_run import find_worst_cases, read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.summary.headline import describe_answer
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore

PGD = SamplePlan(
    attack="pgd50-l2-0.5",
    card="pgd50-l2-0.5",
    norm="L2",
    eps=0.5,
    threat="l2-0.5",
    strength=0.5,
    passes_per_image=(2, 1),
)
RADII = (0.9, 0.6, 0.6, 0.5, 0.3, 0.3, 0.1, None, 0.0, -0.7)
"""Of ten images: None abstained, 0 is right and proven nowhere, a negative one is another class's."""


def record(attack: str = "certify-smoothing-l2-0.5", **changes) -> CellRecord:
    values = {
        "key": f"{attack} {changes.get('model', 'net')} {changes.get('defense', 'none')}",
        "position": 9,
        "model": "net",
        "defense": "none",
        "attack": attack,
        "card": attack,
        "norm": "L2",
        "eps": 0.5,
        "threat": "l2-0.5",
        "goal": "untargeted",
        "images": len(RADII),
        "parameters": {"method": "smoothing", "sigma": 0.25},
        "status": "done",
        "measure": "certificate",
        "concerns": "smoothed",
        "alpha": 0.001,
    }
    return CellRecord(**{**values, **changes})


def outcomes(cell: CellRecord, radii=RADII, *, graded: bool = True) -> list[OutcomeRecord]:
    rows = []
    for place, radius in enumerate(radii):
        size = abs(radius or 0.0)
        prediction = None if radius is None else 0 if math.copysign(1.0, radius) > 0 else 1
        proven = prediction == 0 and size >= cell.eps
        rows.append(
            OutcomeRecord(
                cell=cell.key,
                position=place,
                image=f"made/{place}",
                label=0,
                clean_prediction=prediction,
                adversarial_prediction=prediction,
                clean_correct=prediction == 0,
                broken=False,
                moved_elsewhere=False,
                margin=None,
                fragile=False,
                linf=0.0,
                l2=0.0,
                l1=0.0,
                broken_8bit=None,
                forward_passes=300,
                backward_passes=0,
                seconds=0.5,
                status="ok",
                certified=proven,
                radius=size if graded else cell.eps if proven else 0.0,
                abstained=prediction is None,
            )
        )
    return rows


def evidence(*cells: CellRecord, graded: bool = True) -> Evidence:
    judged = tuple(build_cell_result(cell, outcomes(cell, graded=graded)) for cell in cells)
    return Evidence(cells=judged, worst_cases=tuple(find_worst_cases(judged)))


def test_shares_are_over_all_images_and_attacks_have_none():
    (cell,) = evidence(record()).certificate_cells
    assert cell.certified_accuracy.count == 4
    assert cell.certified_accuracy.n == 10
    assert cell.clean_accuracy.count == 8
    assert (cell.tally.robust, cell.tally.certified, cell.tally.abstained) == (4, 4, 1)
    assert not cell.robust_accuracy.is_known
    assert not cell.attack_success.is_known
    unfinished = build_cell_result(record(status="running"), outcomes(record())[:3])
    assert not unfinished.certified_accuracy.is_known


def test_the_curve_is_the_share_proven_at_each_radius():
    (group,) = build_certified_groups(evidence(record()))
    (row,) = group.rows
    points = dict(row.points)
    assert points[0.0].count == 8
    for radius, share in row.points[1:]:
        assert share.count == sum(one is not None and one >= radius for one in RADII)
    values = [share.value for _, share in row.points]
    assert values == sorted(values, reverse=True)
    (panel,) = group.panels
    assert panel.value_name == "certified accuracy"
    assert panel.attack == "certify-smoothing, sigma 0.25"
    assert panel.radii == pytest.approx([0.2 * step for step in range(6)]), "marks are round numbers"


def test_answers_about_several_radii_become_one_curve():
    cells = [record(f"certify-crown-l2-{eps}", eps=eps, concerns="model", alpha=0.0) for eps in (0.3, 0.6)]
    (group,) = build_certified_groups(evidence(*cells, graded=False))
    (panel,) = group.panels
    (curve,) = panel.curves
    assert [(radius, share.count) for radius, share in curve.points] == [(0.0, 8), (0.3, 6), (0.6, 3)]
    (note,) = group.notes
    assert "Such an image counts as not certified" in note


def test_words_keep_the_vote_and_the_model_apart():
    own = record(concerns="model", defense="smoothing-0.25")
    (group,) = build_certified_groups(evidence(record(), own))
    first, second = group.rows
    assert first.certified_classifier == "its majority vote under noise, sigma 0.25"
    assert second.certified_classifier == "the defended model itself"
    assert first.guarantee == "with probability 99.9% for each image"
    assert group.notes[0].startswith("Of net: these certificates are for the majority vote")
    assert "each image on its own" in group.notes[2]
    (proof,) = build_certified_groups(evidence(record(concerns="model", alpha=0.0)))
    assert (proof.rows[0].certified_classifier, proof.rows[0].guarantee) == (
        "the model itself",
        "deterministic",
    )


def test_only_certificates_that_are_about_what_was_attacked_are_compared_with_attacks(tmp_path: Path):
    for concerns, curves in (("smoothed", 1), ("model", 2)):
        with RunStore.open_readonly(_run(tmp_path / concerns, concerns=concerns)) as store:
            read = read_evidence(store)
        (group,) = build_certified_groups(read)
        (panel,) = group.panels
        assert len(panel.curves) == curves
        assert group.has_attack_curves == (curves == 2)
        if group.has_attack_curves:
            worst = read.get_worst_case(panel.curves[1].subject, read.threats[0])
            assert panel.curves[1].points[-1] == (0.5, worst.robust_accuracy)
            assert panel.curves[1].dotted


def test_without_any_attack_the_answer_is_what_is_certified():
    told = describe_answer(evidence(record()))
    assert told.startswith("net, its majority vote under noise, certified accuracy at L2")
    assert "40.0" in told
    assert "whatever the attack; no attack was run" in told


def test_untouched_accuracy_is_never_that_of_a_vote():
    found = evidence(record())
    assert not found.compute_clean_accuracy(found.subjects[0]).is_known
    own = evidence(record(concerns="model", alpha=0.0))
    assert own.compute_clean_accuracy(own.subjects[0]).count == 8


@pytest.mark.parametrize(
    ("limit", "ruling"),
    [
        ({"min": 0.1}, "pass"),
        ({"min": 0.3}, "inconclusive"),
        ({"min": 0.8}, "fail"),
        ({"min": 0.35, "on": "estimate"}, "pass"),
        ({"max": 0.9}, "pass"),
    ],
)
def test_a_gate_on_certified_accuracy(limit, ruling):
    gate = {"metric": "certified_accuracy", "threat": "l2-0.5", **limit}
    (verdict,) = judge_evidence(evidence(record()), [gate]).verdicts
    assert verdict.ruling == ruling
    assert verdict.estimate.count == 4
    assert "for its majority vote under noise" in verdict.reason


def test_several_certificates_prove_together_and_one_that_is_missing_can_only_add():
    first, second = (
        record(name, concerns="model") for name in ("certify-ibp-l2-0.5", "certify-crown-l2-0.5")
    )
    rows = outcomes(second, radii=tuple(reversed(RADII)))
    judged = (build_cell_result(first, outcomes(first)), build_cell_result(second, rows))
    gate = {"metric": "certified_accuracy", "threat": "l2-0.5", "min": 0.5, "on": "estimate"}
    (verdict,) = judge_evidence(Evidence(cells=judged, worst_cases=()), [gate]).verdicts
    assert (verdict.estimate.count, verdict.ruling) == (8, "pass")
    unfinished = build_cell_result(replace(second, status="error", error="it broke"), rows[:2])
    missing = Evidence(cells=(judged[0], unfinished), worst_cases=())
    (verdict,) = judge_evidence(missing, [gate]).verdicts
    assert verdict.ruling == "inconclusive"
    assert "without certify-crown-l2-0.5, which did not finish" in verdict.reason
    (verdict,) = judge_evidence(missing, [gate | {"min": 0.4}]).verdicts
    assert verdict.ruling == "pass", "a further proof can only raise it"


def test_attacks_and_certificates_are_never_judged_by_each_others_gates(tmp_path: Path):
    run = _run(tmp_path)
    robust = judge_run_dir(run, [{"metric": "robust_accuracy", "threat": "l2-0.5", "min": 0.0}])
    assert len(robust.verdicts) == 2, "one for each model that was attacked"
    proven = judge_run_dir(run, [{"metric": "certified_accuracy", "threat": "l2-0.5", "min": 0.0}])
    assert len(proven.verdicts) == 1


def test_a_proof_about_the_wrong_class_voids_its_certificate():
    rows = outcomes(record())
    rows[0] = replace(rows[0], status="rejected", certified=False, clean_correct=False)
    found = list_findings(Evidence(cells=(build_cell_result(record(), rows),), worst_cases=()))
    assert any(one.level == "void" and "does not predict" in one.text for one in found)


def _run(folder: Path, **changes) -> Path:
    """A run of two models under an attack, the first of them certified."""
    run = build_run(folder / "run", SampleRun(plans=(PGD,), failing_cell=None, has_images=False))
    with RunStore.open_readonly(run) as store:
        known = {"resolved_yaml": (run / "run.yaml").read_text("utf-8"), "identity": store.read_identity()}
        attacked = store.read_cells()[0]
        images = [row.image for row in store.read_outcomes(attacked.key)]
    cell = record(model=attacked.model, images=len(images), position=99, key="c" * 64, **changes)
    radii = [RADII[place % len(RADII)] for place in range(len(images))]
    rows = [replace(row, image=image) for row, image in zip(outcomes(cell, radii), images, strict=True)]
    with RunStore.create_or_open(run, **known) as store:
        store.put_cell(cell)
        store.add_outcomes(cell.key, rows)
        store.set_status(cell.key, "done", None)
    return run


def test_every_form_of_the_report_has_it(tmp_path: Path):
    page = write_report(_run(tmp_path))
    folder = page.parent
    text = page.read_text("utf-8")
    assert '<h2 id="certified">Certified accuracy <a' in text
    assert "its majority vote under noise, sigma 0.25" in text
    assert "Certified accuracy in percent." in text
    assert (folder / "figures" / "certified-l2.png").stat().st_size > 5000
    results = json.loads((folder / "results.json").read_text("utf-8"))
    (cell,) = (one for one in results["cells"] if one["measure"] == "certificate")
    proven = cell["certified_accuracy"]
    assert proven["n"] == cell["n"]
    assert proven["low"] < proven["value"] < proven["high"]
    assert proven["value"] == pytest.approx(cell["certified"] / cell["n"])
    assert (cell["concerns"], cell["alpha"]) == ("smoothed", 0.001)
    assert cell["abstained"] > 0
    assert cell["curve"][0]["radius"] == 0
    markdown = (folder / "report.md").read_text("utf-8")
    section = markdown.partition("## Certified")[2].partition("\n## ")[0]
    assert "certify-smoothing-l2-0.5" in section
    assert "majority vote" in section
    assert "certify-smoothing" not in markdown.partition("## Results of each attack")[2]
    rows = list(csv.DictReader((folder / "results.csv").read_text("utf-8").splitlines()))
    (row,) = (one for one in rows if one["measure"] == "certificate")
    assert float(row["certified_accuracy"]) == proven["value"]
    assert row["robust_accuracy"] == ""
    assert {one["certified_accuracy"] for one in rows if one["measure"] != "certificate"} == {""}
    found = list(csv.DictReader((folder / "outcomes.csv").read_text("utf-8").splitlines()))
    assert {one["certified"] for one in found} == {"", "True", "False"}
