"""The steps of an adaptive attack in the report: who was first, what the extra steps were worth, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import build_run

from robustbench_local.reports.analysis.adaptive_steps import build_adaptive_cells
from robustbench_local.reports.sections.adaptive_steps_section import ADAPTIVE_STEPS
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.store import AdaptationRecord, RunStore

VIEW = "BPDA through round in preprocess"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    folder = build_run(tmp_path_factory.mktemp("adaptive") / "run")
    with RunStore.open_readonly(folder) as store:
        return read_report_data(store).evidence


def adapt_first_cell(evidence, stages, **fields):
    """The evidence with its first finished attack cell as an adaptive one."""
    cell = next(cell for cell in evidence.cells if cell.is_done and not cell.is_certificate)
    broken = [image for image, verdict in cell.verdicts.items() if verdict.broken]
    adapted = replace(
        cell,
        adaptation=AdaptationRecord(images=4, forward_passes=90, backward_passes=10, **fields),
        successful_stages=dict(zip(broken, stages, strict=False)),
    )
    return replace(evidence, cells=(adapted,)), cell.tally.clean_correct


def test_an_image_counts_for_the_first_step_and_extra_steps_are_summed(evidence):
    steps = {"steps": [{"label": name} for name in ("apgd-ce", VIEW, "square")]}
    adapted, n = adapt_first_cell(evidence, ["apgd-ce", VIEW, VIEW], description=steps)
    (entry,) = build_adaptive_cells(adapted)
    counted = [(step.name, step.first_successes.value, step.is_extra) for step in entry.steps]
    assert counted == [("apgd-ce", 1 / n, False), (VIEW, 2 / n, True), ("square", 0.0, False)]
    assert (entry.extra_successes.value, entry.extra_successes.n) == (2 / n, n)
    assert entry.reason.startswith(
        "A look at the model (100 passes on 4 images) found gradients that mislead"
    )
    (encoded,) = ADAPTIVE_STEPS.to_json(adapted)["adaptive_steps"]
    assert [(step["name"], step["is_extra"]) for step in encoded["steps"]] == [
        (step.name, step.is_extra) for step in entry.steps
    ]
    assert encoded["steps"][1]["first_successes"] == {**encoded["extra_successes"]}
    assert (encoded["look_images"], encoded["look_passes"]) == (4, [90, 10])
    assert encoded["sentence"] == entry.reason
    text = "\n".join(ADAPTIVE_STEPS.to_markdown((entry,), adapted))
    assert f"{VIEW} +" in text
    assert "apgd-ce +" not in text


def test_a_sound_model_and_a_failed_look_say_so_in_one_sentence(evidence):
    standard = {"steps": [{"label": name} for name in ("apgd-ce", "apgd-t", "fab-t", "square")]}
    (sound,) = build_adaptive_cells(adapt_first_cell(evidence, ["apgd-ce"], description=standard)[0])
    assert "found nothing that misleads AutoAttack" in sound.reason
    assert sound.extra_successes.value == 0
    more = {"steps": [*standard["steps"], {"label": "mean slopes"}]}
    (tried,) = build_adaptive_cells(adapt_first_cell(evidence, ["mean slopes"], description=more)[0])
    assert "found no fault, but" in tried.reason
    (failed,) = build_adaptive_cells(adapt_first_cell(evidence, ["apgd-ce"], problem="no answer")[0])
    assert failed.reason == "Not adapted, so only AutoAttack's stages ran: no answer."


def test_without_an_adaptive_attack_the_section_is_not_shown(evidence):
    assert build_adaptive_cells(evidence) == ()
    assert not ADAPTIVE_STEPS.is_shown(())
