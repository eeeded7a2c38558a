"""D28: an ensemble that chooses among its members is told from one that averages them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.chosen_members import ChosenMembers
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.pass_budget import PassBudget
from robustbench_local.randomness import RandomStream


class Ensemble(nn.Module):
    """Three networks of the same classes, and how their scores become one."""

    def __init__(self, combine, members: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(4, 48, generator=generator)
        self.members = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(members)
        )
        for member in self.members:
            noise = 0.1 * torch.randn(4, 48, generator=generator)
            member[1].weight.data, member[1].bias.data = 0.1 * (base + noise), torch.zeros(4)
            member[3].weight.data, member[3].bias.data = torch.eye(4), torch.zeros(4)
        self.combine = combine

    def forward(self, images: Tensor) -> Tensor:
        return self.combine(torch.stack([member(images) for member in self.members]))


def vote(scores: Tensor) -> Tensor:
    return nn.functional.one_hot(scores.argmax(dim=2), 4).float().mean(dim=0)


def diagnose(model: nn.Module):
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(model.eval(), num_classes=4, access="gradients")
    with torch.no_grad():
        logits = classifier(images)
    labels, ids = logits.argmax(dim=1), tuple(f"image-{row}" for row in range(8))
    findings = inspect_model(classifier, images, labels, RandomStream(0, ids, "x"))
    return ChosenMembers().check_model(
        DiagnosedModel(
            id="m",
            defense="none",
            classifier=classifier,
            images=images,
            labels=labels,
            ids=ids,
            budget=PassBudget(limit=10**6),
            seed=0,
            logits=logits,
            findings=findings,
            knows_parts=True,
        )
    )


@pytest.mark.parametrize(
    ("combine", "name"),
    [
        (lambda scores: scores.median(dim=0).values, "median"),
        (lambda scores: scores.sort(dim=0).values[1], "sort"),
        (lambda scores: scores.kthvalue(2, dim=0).values, "kthvalue"),
        (lambda scores: scores.argsort(dim=2).argsort(dim=2).float().mean(dim=0), "rank"),
        (vote, "argmax"),
    ],
)
def test_an_ensemble_that_chooses_is_named_with_how_it_does(combine, name):
    reading = diagnose(Ensemble(combine))
    assert reading.status == "warn"
    assert "3 networks" in reading.sentence
    assert name in reading.sentence


def test_a_mean_and_a_single_network_are_no_choice():
    assert diagnose(Ensemble(lambda scores: scores.mean(dim=0))).status == "ok"
    assert diagnose(Ensemble(lambda scores: scores.median(dim=0).values, members=1)).status == "ok"


def test_a_median_inside_of_the_members_is_theirs():
    ensemble = Ensemble(lambda scores: scores.mean(dim=0))

    class Filtered(nn.Module):
        def forward(self, images):
            return images + 0 * images.median(dim=3, keepdim=True).values

    for member in ensemble.members:
        member.insert(0, Filtered())
    assert diagnose(ensemble).status == "ok"
