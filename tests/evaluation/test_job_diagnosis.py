"""A single evaluation asks its model as a run does, and its result carries what was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.evaluation.diagnostics.training_mode import TrainingMode

IMAGES = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES.mean(dim=(1, 2, 3)) > 0.5).long()


class Shade(nn.Module):
    def __init__(self, change=lambda images: images) -> None:
        super().__init__()
        self.change = change

    def forward(self, images):
        level = 20 * (self.change(images).mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-level, level], dim=1)


def round_pixels(images):
    return (images * 15).round() / 15


def evaluate(model, **options):
    options = {"attack": "pgd", "steps": 20, "norm": "Linf", "eps": 0.01, **options}
    return rbl.evaluate(rbl.Classifier(model, num_classes=2), IMAGES, LABELS, **options)


def test_a_sound_model_has_diagnostics_and_no_mark():
    result = evaluate(Shade())
    assert {"D4", "D6b", "D7", "D20"} <= {one.id for one in result.diagnostics if one.status == "ok"}
    assert result.distrust == ()
    assert "not trustworthy" not in repr(result)
    alike = [
        table.drop(columns="seconds")
        for table in (result.outcomes, evaluate(Shade(), diagnostics=False).outcomes)
    ]
    assert alike[0].equals(alike[1])


def test_a_broken_model_is_marked():
    result = evaluate(Shade(round_pixels))
    assert "D6b" in [one.id for one in result.distrust]
    assert "not trustworthy: D6b" in repr(result)
    assert any(note.startswith("D6b (fail): On all") for note in result.notes)


def test_diagnostics_can_be_left_out_and_transfers_have_none():
    assert evaluate(Shade(round_pixels), diagnostics=False).diagnostics == ()
    surrogate = rbl.Classifier(Shade(), num_classes=2, name="other")
    assert evaluate(Shade(round_pixels), surrogate=surrogate).diagnostics == ()


def test_a_declared_surrogate_of_a_wrapper_is_known():
    defended = rbl.defend(rbl.Classifier(Shade(), num_classes=2), "bit-depth-3")
    result = rbl.evaluate(defended, IMAGES, LABELS, attack="pgd", steps=20, norm="Linf", eps=0.01)
    assert {one.id: one.status for one in result.diagnostics}["D7"] == "info"
    assert result.distrust == ()


def test_diagnostics_that_end_badly_are_told(monkeypatch):
    monkeypatch.setattr(TrainingMode, "check_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Shade())
    monkeypatch.setattr(TrainingMode, "check_model", lambda *_: (_ for _ in ()).throw(SystemExit(3)))
    found = evaluate(Shade()).diagnostics
    assert all(one.is_unasked for one in found if one.status == "not run")
    assert any("did not come to an end" in one.sentence for one in found)


def find_statuses(result):
    return {one.id: one.status for one in result.diagnostics}


@pytest.mark.parametrize(("loss", "status"), [("ce", "fail"), ("margin", "warn")])
def test_probabilities_fail_under_an_attack_on_the_cross_entropy_alone(loss, status):
    class Shares(Shade):
        def forward(self, images):
            return super().forward(images).softmax(dim=1)

    result = evaluate(Shares(), loss=loss)
    assert find_statuses(result)["D5"] == status
    assert ("D5" in [one.id for one in result.distrust]) == (status == "fail")


@pytest.mark.parametrize(("wrong", "status"), [(0, "ok"), (6, "ok"), (7, "block")])
def test_a_clean_accuracy_near_chance_is_named(wrong, status):
    labels = LABELS.clone()
    labels[:wrong] = 1 - labels[:wrong]
    model = rbl.Classifier(Shade(), num_classes=2)
    result = rbl.evaluate(model, IMAGES, labels, attack="pgd", steps=20, norm="Linf", eps=0.01)
    assert find_statuses(result)["D22"] == status
    assert any(note.startswith(f"D22 ({status})") for note in result.notes) == (status != "ok")


def test_questions_that_a_small_run_cannot_afford_stand_in_one_line():
    result = evaluate(Shade(), steps=5)
    assert [note for note in result.notes if "to the model not asked, because the run is too small" in note]
