"""Whether a network is the twin of a model: the share of clean images with the same label."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.output_differences import compute_differences
from robustbench_local.evaluation.harness.twin_agreement import (
    TwinAgreement,
    compare_clean_labels,
    format_low_agreement,
)


def make_classifier(answer, access="scores") -> Classifier:
    return Classifier(answer, num_classes=2, access=access, name="made")


def read_first_pixel(images: torch.Tensor) -> torch.Tensor:
    first = images[:, 0, 0, 0]
    return torch.stack([first, 1 - first], dim=1)


def read_logarithms(images: torch.Tensor) -> torch.Tensor:
    probabilities = read_first_pixel(images)
    return (probabilities / probabilities.amax(dim=1, keepdim=True)).log()


@pytest.mark.parametrize(
    ("access", "answer", "outputs"),
    [
        ("scores", lambda images: 5 * read_first_pixel(images) - 2, "logits"),
        ("scores", read_first_pixel, "probabilities"),
        ("scores", read_logarithms, "probabilities"),
        ("labels", lambda images: read_first_pixel(images).argmax(dim=1), "labels"),
    ],
)
def test_labels_are_compared_on_the_first_images(access, answer, outputs):
    images = torch.rand(70, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    twin = make_classifier(lambda images: read_first_pixel(images).flip(1))
    agreement = compare_clean_labels(make_classifier(answer, access), twin, images)
    assert agreement == TwinAgreement(same=0, compared=64, outputs=outputs)
    own = make_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "gradients")
    assert compare_clean_labels(own, own, images).same == 64


@pytest.mark.parametrize(("same", "is_low"), [(57, True), (58, False)])
def test_a_twin_agrees_on_nine_of_ten_images(same, is_low):
    agreement = TwinAgreement(same=same, compared=64, outputs="logits")
    assert agreement.is_low is is_low
    text = format_low_agreement(agreement, "zoo:other")
    assert text.startswith("gives only 57 of 64 clean images the same label as its twin zoo:other") is is_low
    assert bool(text) is is_low


def test_logarithms_of_probabilities_are_compared_as_probabilities():
    images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    twin = make_classifier(
        lambda pixels: 3 + read_first_pixel(pixels).log()
    )  # logits are known up to a constant
    for answer in (read_first_pixel, read_logarithms):
        assert compute_differences(make_classifier(answer), twin, images) == pytest.approx([0] * 6, abs=1e-6)
    moved = make_classifier(lambda pixels: 3.5 + read_first_pixel(pixels).log())
    assert compute_differences(moved, twin, images) == pytest.approx([0.5] * 6, abs=1e-6)
