"""What is noticed about a model, before or while it is attacked, reaches every form of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.execution.model_notes import save_model_notes
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.reports import write_report
from robustbench_local.store import RunStore


class Softmax(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4].softmax(dim=1)


class Random(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4] + torch.rand(len(images), 4)


def noted(module, data, *notes):
    """A subject that was asked once, with more notes."""
    classifier = Classifier(module, num_classes=4, name="m")
    with classifier.evaluation_mode(), torch.no_grad():
        classifier(data.images[:2])
    for note in notes:
        classifier.add_note(note)
    return EvaluationSubject(id="m", classifier=classifier, data=data, digest="", description={})


def make_run(directory: Path) -> Path:
    with RunStore.create_or_open(directory, resolved_yaml="schema: 1\n", identity={"grid": "x"}) as store:
        store.set_meta("models", [{"id": "m", "defense": "none", "notes": ["made by hand"]}])
    return directory


@pytest.mark.parametrize(
    ("module", "told"),
    [(Softmax(), "probabilities, not logits"), (Random(), "random numbers in its forward")],
)
def test_notes_made_while_a_model_is_attacked_reach_all_forms(tmp_path, data, module, told):
    run = make_run(tmp_path / "run")
    subject = noted(module, data, "weight changed while it was attacked; put back afterwards")
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"grid": "x"}) as store:
        save_model_notes(store, [subject, subject])
    folder = write_report(run).parent
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert results["models"][0]["notes"][0] == "made by hand"
    assert len(results["models"][0]["notes"]) == len({*results["models"][0]["notes"]}) == 4
    found = {one["level"]: one["text"] for one in results["findings"] if "Note on" in one["text"]}
    assert told in found["warning"]
    assert "changed while it was attacked" in found["warning"]
    assert "made by hand" in found["note"]
    for form in ("report.md", "report.html"):
        assert told in (folder / form).read_text("utf-8")


def test_a_subject_that_the_run_does_not_describe_is_left_out(tmp_path, data):
    run = make_run(tmp_path / "run")
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"grid": "x"}) as store:
        subject = noted(Softmax(), data)
        save_model_notes(
            store,
            [
                EvaluationSubject(
                    id="other", classifier=subject.classifier, data=data, digest="", description={}
                )
            ],
        )
        assert store.read_meta("models") == [{"id": "m", "defense": "none", "notes": ["made by hand"]}]
