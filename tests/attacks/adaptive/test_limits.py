"""The limits of the inspection, as numbers: a little to either side of each the finding is another one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustbench_local.attacks.adaptive.activation_rules import _name_activation
from robustbench_local.attacks.adaptive.findings import (
    GradientFindings,
    LogitFindings,
    ModelFindings,
    RandomnessFindings,
)
from robustbench_local.attacks.adaptive.local_slopes import find_local_fault
from robustbench_local.attacks.adaptive.measured_jacobian import is_nearly_affine
from robustbench_local.attacks.adaptive.operator_scan import _Record
from robustbench_local.attacks.adaptive.part_search import _is_linear, find_parts
from robustbench_local.attacks.adaptive.view_spec import are_gradients_unsound, has_extreme_logits
from robustbench_local.classifier import Classifier

GRADIENTS = GradientFindings(has_graph=True, cosine=1.0, relative_error=0.0, informative_share=1.0, images=12)
FINDINGS = ModelFindings(
    gradients=GRADIENTS,
    logits=LogitFindings(range=10.0, are_probabilities=False, saturated_share=0.0),
    randomness=RandomnessFindings(max_difference=0.0, changed_labels=0, is_repeated_by_seed=True),
    images=12,
    passes=(0, 0),
)


@pytest.mark.parametrize(
    ("changes", "is_unsound"),
    [
        ({"cosine": 0.951}, False),
        ({"cosine": 0.949}, True),
        ({"relative_error": 0.199}, False),
        ({"relative_error": 0.201}, True),
        ({"zero_margin_share": 0.0099}, False),
        ({"zero_margin_share": 0.0101}, True),
    ],
)
def test_when_gradients_are_unsound(changes, is_unsound):
    assert are_gradients_unsound(replace(GRADIENTS, **changes)) == is_unsound


@pytest.mark.parametrize(
    ("size", "changes", "is_extreme"),
    [
        (99.0, {}, False),
        (101.0, {}, True),
        (0.101, {"cosine": 0.5}, False),
        (0.099, {"cosine": 0.5}, True),
        (0.099, {}, False),
        (10.0, {"zero_cross_entropy_share": 0.0099}, False),
        (10.0, {"zero_cross_entropy_share": 0.0101}, True),
    ],
)
def test_when_logits_are_extreme(size, changes, is_extreme):
    findings = replace(
        FINDINGS, logits=replace(FINDINGS.logits, range=size), gradients=replace(GRADIENTS, **changes)
    )
    assert has_extreme_logits(findings) == is_extreme


@pytest.mark.parametrize(("error", "fault"), [(0.29, None), (0.31, "contradicted")])
def test_how_wrong_the_slope_of_a_layer_may_be(error, fault):
    def change_slope(values):
        still = values.detach()
        return still + (1 + error) * (values - still)

    assert find_local_fault(change_slope, torch.rand(8, 6)) == fault


@pytest.mark.parametrize(("cut", "fault"), [(4, None), (6, "zero")])
def test_how_many_rows_may_have_no_slope(cut, fault):
    def cut_rows(values):
        return torch.cat([values[:cut].detach() + 0 * values[:cut], values[cut:]])

    assert find_local_fault(cut_rows, torch.rand(20, 6)) == fault


@pytest.mark.parametrize(("bend", "is_affine"), [(0.64, True), (0.70, False)])
def test_how_bent_an_affine_layer_may_be(bend, is_affine):
    """Halfway between 0 and 1 the deviation is a quarter of the bend, of a distance of 1 plus the bend."""
    points = torch.tensor([[0.0], [1.0]])
    assert is_nearly_affine(lambda values: values + bend * values.square(), points) == is_affine


@pytest.mark.parametrize(("near", "jumps"), [(0.29, False), (0.31, True)])
def test_when_a_threshold_jumps(near, jumps):
    record = _Record(near_weights=[torch.tensor(near)], weights=[torch.tensor(1.0)])
    assert record.jumps == jumps


@pytest.mark.parametrize(("share", "name"), [(0.49, "tanh"), (0.51, "saturated tanh")])
def test_when_an_activation_is_saturated(share, name):
    assert _name_activation("tanh", torch.arange(100) < 100 * share) == name


class Partial(nn.Module):
    """A linear network whose answer is another one on dark images."""

    def __init__(self, darkest: float) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        self.darkest = darkest
        generator = torch.Generator().manual_seed(0)
        self.part[1].weight.data = torch.randn(4, 16, generator=generator)

    def forward(self, images):
        logits = self.part(images)
        is_dark = images.mean(dim=(1, 2, 3)) < self.darkest
        return torch.where(is_dark[:, None], logits.roll(1, dims=1), logits) * 1.5 + 0.1 * logits.square()


def find_paths(model: nn.Module, images: torch.Tensor) -> list[str]:
    classifier = Classifier(model.eval(), num_classes=4)
    with classifier.evaluation_mode():
        return [part.path for part in find_parts(classifier, images)]


@pytest.mark.parametrize(("agreeing", "found"), [(9, []), (11, ["part"])])
def test_how_often_a_part_has_to_agree(agreeing, found):
    levels = torch.linspace(0.2, 0.8, 20).view(-1, 1, 1, 1)
    images = levels + 0.05 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    images = images[images.mean(dim=(1, 2, 3)).argsort()]
    middle = float(images[[19 - agreeing, 20 - agreeing]].mean())
    assert find_paths(Partial(darkest=middle), images) == found


@pytest.mark.parametrize(("deviation", "is_linear"), [(0.9e-3, True), (1.1e-3, False)])
def test_how_bent_the_input_of_a_part_may_be(deviation, is_linear):
    source = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    error = torch.ones_like(source) / source.numel() ** 0.5 * deviation * (source - source.mean()).norm()
    mixed = (source + source.roll(1, 0)) / 2 + error
    assert _is_linear(SimpleNamespace(source=source), SimpleNamespace(source=mixed)) == is_linear
