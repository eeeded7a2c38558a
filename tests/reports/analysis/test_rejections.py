"""Rejected images in the report, and rejecting outputs that nobody declares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.reports.analysis.image_verdict import ImagePrediction
from robustbench_local.reports.analysis.rejections import build_rejections, find_undeclared_rejections
from robustbench_local.reports.sections.rejections_section import REJECTIONS
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.store import RunStore


def read(folder, **changes):
    with RunStore.open_readonly(build_run(folder / "run", SampleRun(has_images=False, **changes))) as store:
        return read_report_data(store).evidence


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return read(tmp_path_factory.mktemp("plain"))


def test_both_shares_of_rejected_images_are_stated(tmp_path):
    evidence = read(tmp_path, abstains=True)
    results = build_rejections(evidence)
    assert len(results) == len([cell for cell in evidence.attack_cells if cell.is_done])
    for result in results:
        counts = result.cell.tally
        assert result.rejected_clean.n == counts.n
        assert result.rejected_adversarial.n == counts.clean_correct
        assert counts.rejected_adversarial <= counts.clean_correct - counts.broken
    assert any(result.rejected_adversarial.value > 0 for result in results)
    text = "\n".join(REJECTIONS.to_markdown(results, evidence))
    assert "rejected under attack" in text
    assert evidence.get_class_name("signs-plain", 16) == "rejected"


def test_models_that_never_reject_have_no_section(plain):
    assert build_rejections(plain) == ()
    assert plain.get_class_name("signs-plain", 16) == "class 16"


@pytest.mark.parametrize(("hits", "is_named"), [(2, False), (3, True)])
def test_an_undeclared_rejecting_output_is_named(plain, hits, is_named):
    cell = next(
        cell for cell in plain.attack_cells if cell.is_done and not cell.targeted and cell.tally.broken > 4
    )
    broken = [image for image, verdict in cell.verdicts.items() if verdict.broken][:4]
    predictions = {image: ImagePrediction(16 if place < hits else 1, 0) for place, image in enumerate(broken)}
    verdicts = {image: cell.verdicts[image] for image in broken}
    models = [{**about, "num_classes": 17} for about in plain.models]
    evidence = replace(
        plain, cells=(replace(cell, predictions=predictions, verdicts=verdicts),), models=models
    )
    findings = list(find_undeclared_rejections(evidence))
    assert bool(findings) == is_named
    if findings:
        assert "3 of 4 successes" in findings[0].text
        declared = replace(evidence, models=[{**about, "abstain": "last"} for about in models])
        assert list(find_undeclared_rejections(declared)) == []
