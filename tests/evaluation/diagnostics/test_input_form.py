"""D27: images in another form than the model was made for, by how much better it is on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_diagnostics import check, make_model
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.class_order import ClassOrderCheck
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.input_form import (
    FIRST_IMAGES,
    FORMS,
    MAX_CHANCE,
    InputForm,
    compute_gain_chance,
)
from robustbench_local.evaluation.diagnostics.pass_budget import PassBudget
from robustbench_local.store.preprocessing_record import BetterForm, PreprocessingCheck

BETTER = BetterForm(
    kind="images",
    form="BGR channels",
    remedy="preprocessing: {channel_order: bgr}",
    is_yaml=True,
    correct=57,
    correct_before=12,
    gains=45,
    losses=0,
    n=64,
    chance=1e-12,
)


class Pattern(nn.Module):
    """Class 1 where pixels resemble a fixed pattern more than its opposite, as it expects them."""

    def __init__(self, change, pattern=None) -> None:
        super().__init__()
        self.change = change
        random = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        self.register_buffer("pattern", random if pattern is None else 0.5 + 0.5 * pattern)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = ((self.change(images) - 0.5) * (self.pattern - 0.5)).flatten(1).sum(dim=1)
        return torch.stack([-score, score], dim=1)


COLOURS = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 6, 6)
CORNERS = (torch.ones(6, 6).triu(1) - torch.ones(6, 6).tril(-1)).expand(1, 3, 6, 6)
"""Patterns that become their opposite if channels are reversed, or rows and columns exchanged."""


def make_subject(change, pattern=COLOURS, n=48, limit=100_000) -> DiagnosedModel:
    """Images that are near the pattern or near its opposite, and a model that sees them changed."""
    model = Pattern(change, pattern)
    labels = torch.arange(n) % 2
    noise = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = 0.6 * noise + 0.4 * torch.where(labels.view(-1, 1, 1, 1) == 1, model.pattern, 1 - model.pattern)
    subject = DiagnosedModel(
        id="m", defense="none", classifier=Classifier(model, num_classes=2), images=images, labels=labels,
        ids=tuple(map(str, range(n))), budget=PassBudget(limit=limit), seed=0,
    )  # fmt: skip
    with subject.classifier.evaluation_mode():
        subject.logits = subject.compute_logits(images)
    return subject


@pytest.mark.parametrize(
    ("change", "pattern", "words"),
    [
        (lambda images: images.flip(1), COLOURS, "reverse order"),
        (lambda images: images.transpose(2, 3), CORNERS, "rows and columns"),
        (lambda images: 1 - images, None, "black and white"),
    ],
)
def test_a_mistake_in_loading_is_named(change, pattern, words):
    reading = check(InputForm(), make_subject(change, pattern))
    assert reading.status == "fail", reading.sentence
    assert words in reading.sentence


def test_a_model_that_gets_what_it_expects_passes():
    reading = check(InputForm(), make_subject(lambda images: images))
    assert (reading.status, reading.n) == ("ok", 48)


def test_grey_and_oblong_images_have_fewer_forms():
    assert check(InputForm(), make_model()).status == "ok"
    assert len(FORMS) == 7


@pytest.mark.parametrize(
    ("gains", "losses", "status"), [(10, 0, "fail"), (9, 0, "ok"), (14, 1, "fail"), (13, 2, "ok")]
)
def test_the_gain_has_to_be_beyond_chance(gains, losses, status):
    assert InputForm().judge_figures("turned", gains, losses, 48).status == status
    assert (compute_gain_chance(gains, losses) <= MAX_CHANCE) == (status == "fail")


@pytest.mark.parametrize(("n", "status"), [(9, "not run"), (10, "fail")])
def test_too_few_images_say_nothing(n, status):
    assert check(InputForm(), make_subject(lambda images: images.flip(1), n=n)).status == status


def test_too_few_passes_ask_nothing():
    few = make_subject(lambda images: images.flip(1), limit=5 * len(FORMS) * FIRST_IMAGES - 1)
    assert check(InputForm(), few).status == "not run"
    enough = make_subject(lambda images: images.flip(1), limit=5 * len(FORMS) * FIRST_IMAGES)
    assert check(InputForm(), enough).status == "fail"


def test_the_first_look_at_a_model_is_not_repeated():
    """The record decides; behind a wrapper the whole is asked, unless the record found something."""
    subject = make_subject(lambda images: images.flip(1))
    subject.preprocessing_check = PreprocessingCheck(correct=47, n=48, passes=48)
    reading = check(InputForm(), subject)
    assert (reading.status, reading.n) == ("ok", 48)
    assert "47 of 48 images are classified correctly; no other form could be" in reading.sentence
    subject.preprocessing_check = replace(subject.preprocessing_check, forms=30)
    assert "none of 30 other forms" in check(InputForm(), subject).sentence
    subject.is_wrapped = True
    assert "reverse order" in check(InputForm(), subject).sentence
    subject.preprocessing_check = replace(subject.preprocessing_check, better=BETTER)
    reading = check(InputForm(), subject)
    assert (reading.status, reading.value, reading.n) == ("fail", BETTER.chance, BETTER.n)
    assert (
        "12 of 64 images are classified correctly as they are, and 57 with BGR channels" in reading.sentence
    )
    assert reading.action == "Set preprocessing: {channel_order: bgr}, and measure again."
    subject.preprocessing_check = PreprocessingCheck(unchecked="it hangs")
    assert "reverse order" in check(InputForm(), subject).sentence


def test_an_order_of_the_classes_that_fits_better_fails():
    """D31: from the record of the first look, or from the answers that are there anyway."""
    subject = make_subject(lambda images: images)
    assert check(ClassOrderCheck(), subject).status == "ok"
    subject.labels = 1 - subject.labels
    subject.class_names = ("no", "yes")
    reading = check(ClassOrderCheck(), subject)
    assert reading.status == "fail"
    assert "The order of the classes looks wrong: 0 of 48 images" in reading.sentence
    assert reading.action == "Set class_names: ['yes', 'no'], and measure again."
    subject.preprocessing_check = PreprocessingCheck(correct=48, n=48)
    assert check(ClassOrderCheck(), subject).status == "ok"
    subject.preprocessing_check = replace(subject.preprocessing_check, better=BETTER)
    assert check(ClassOrderCheck(), subject).status == "ok"
    assert check(InputForm(), subject).status == "fail"
    shifted = replace(BETTER, kind="classes", form="its first output as a background class")
    subject.preprocessing_check = replace(subject.preprocessing_check, better=shifted)
    assert "57 with its first output" in check(ClassOrderCheck(), subject).sentence
    assert check(InputForm(), subject).status == "ok"
    subject.preprocessing_check, subject.logits = None, subject.logits[:0]
    assert check(ClassOrderCheck(), subject).status == "not run"
