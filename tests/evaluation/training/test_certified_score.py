"""What a training's card says is proven: linear classifiers have the closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import find_card
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.recipe_registry import read_recipe
from robustbench_local.evaluation.training.certified_score import count_certified, list_certificates
from robustbench_local.threats.threat_model import ThreatModel


def _linear(weights, images):
    """Two classes that differ by the weights; all images are of the second."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[0.0] * len(weights), weights]))
        module[1].bias.copy_(torch.tensor([0.0, -0.5 * sum(weights)]))
    count = len(images)
    data = Dataset(
        images=images,
        labels=torch.ones(count, dtype=torch.int64),
        ids=tuple(map(str, range(count))),
        class_names=("below", "above"),
        name="points",
    )
    return Classifier(module, num_classes=2), data


@pytest.mark.parametrize("name", ["ibp-linf-2", "crown-ibp-linf-2"])
def test_bounds_prove_what_is_further_from_the_boundary_than_the_radius(name):
    """The margin of x is w (x - 1/2), and falls by eps |w|_1."""
    recipe = replace(read_recipe(find_card(name)), threat=ThreatModel(norm="Linf", eps=0.1))
    heights = torch.linspace(0.5, 0.8, 120)
    classifier, data = _linear([2.0, 1.0], heights.view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous())
    expected = int((heights > 0.6).sum())
    found = [
        (said["certificate"], count_certified(classifier, data, way, ball))
        for said, way, ball in list_certificates(recipe)
    ]
    assert found == [("ibp", expected), ("crown-ibp", expected)]


def test_votes_prove_what_is_further_from_the_boundary_than_the_radius():
    recipe = read_recipe(find_card("gaussian-0.25"))
    distances = torch.tensor([-0.3, 0.1, 0.2, 0.32, 0.42, 0.7, 0.9])
    images = (0.5 + distances / 2).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    classifier, data = _linear([1.0] * 4, images)  # |w| is 2, so the boundary is as far away as listed
    asked = list_certificates(recipe)
    assert [(said["sigma"], ball.norm, ball.eps) for said, _, ball in asked] == [
        (0.25, "L2", 0.25),
        (0.25, "L2", 0.5),
    ]
    assert [count_certified(classifier, data, certificate, ball) for _, certificate, ball in asked] == [4, 2]


def test_other_recipes_train_for_no_certificate():
    assert list_certificates(read_recipe(find_card("standard"))) == []
