"""Stickers crafted on a float twin: the shipped model decides, and the twin's answers stand beside."""

from __future__ import annotations

import pytest
import torch
from viewing_samples import TEST_VIEWS, make_colour_classifier, make_signs, make_sticker_job, run_job

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView


def see_all_as_red(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(images), 3)


def see_colours(images: torch.Tensor) -> torch.Tensor:
    return 20 * images.mean(dim=(2, 3)) * torch.tensor([1.0, 1.15, 1.0])


@pytest.mark.parametrize(("answer", "is_lost"), [(see_all_as_red, False), (see_colours, True)])
def test_the_model_decides_about_stickers_that_were_crafted_on_its_twin(answer, is_lost):
    artefact = Classifier(answer, num_classes=3, access="scores", name="artefact")
    twin = make_colour_classifier()
    job = make_sticker_job(artefact, data=make_signs(1), view=TwinView(artefact, twin))
    assert job.queried_model is job.attacked_model is job.view
    row = run_job(job).outcomes[0]
    assert (row.clean_correct, row.broken, row.search_phase) == (True, is_lost, "search" if is_lost else "")
    assert (row.twin_clean_correct, row.twin_broken) == (True, True)
    assert (row.clean_prediction, row.twin_clean_prediction) == (0, 0)
    assert (row.adversarial_prediction == row.twin_prediction) is is_lost
    assert row.twin_forward_passes == 2 * TEST_VIEWS + 4
    assert (row.clean_difference == pytest.approx(0, abs=1e-5)) is is_lost
    assert row.forward_passes + row.twin_forward_passes <= job.max_passes[0]
