"""The harness's tolerances, from both sides: a hair inside counts, a hair outside does not."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.success_refinement import CLEAR_MARGIN_SHARE
from robustbench_local.evaluation.harness.verify import find_ball_violations, predict
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.transformations import find_parameter_violations

IMAGE = torch.full((1, 3, 4, 4), 0.5)


@pytest.mark.parametrize(("beyond", "legal"), [(0.0, True), (0.8e-6, True), (1.3e-6, False), (1e-5, False)])
def test_linf_may_exceed_eps_by_what_float32_rounds(beyond, legal):
    threat = ThreatModel(norm="Linf", eps=0.03)
    candidate = IMAGE.double().add(0.03 + beyond).float()
    assert (find_ball_violations(candidate, IMAGE, threat) == [None]) == legal


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize(("share", "legal"), [(0.0, True), (0.5e-5, True), (3e-5, False), (1e-4, False)])
def test_sums_over_pixels_may_exceed_eps_by_a_share(norm, share, legal):
    change = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    change[0, 0, 0, 0] = 0.25 * (1 + share)  # one pixel: both norms are its change
    threat = ThreatModel(norm=norm, eps=0.25)
    assert (find_ball_violations((IMAGE.double() + change).float(), IMAGE, threat) == [None]) == legal


@pytest.mark.parametrize(
    ("share", "fragile"), [(0.5e-4, True), (0.9e-4, True), (1.2e-4, False), (1e-3, False)]
)
@pytest.mark.parametrize("label", [0, 1])
def test_a_margin_is_fragile_below_a_share_of_the_range_of_the_logits(share, fragile, label):
    logits = torch.tensor([[0.5, 0.5 - 10 * share, -9.5]])  # a range of ten
    classifier = Classifier(lambda _: logits, num_classes=3)
    with classifier.evaluation_mode():
        reading = predict(classifier, IMAGE, torch.tensor([label]))
    assert reading.fragile.tolist() == [fragile]
    assert reading.correct.tolist() == [label == 0]


@pytest.mark.parametrize(
    ("degrees", "shift", "legal"),
    [
        (30.0, 0.1, True),
        (-30.0, -0.1, True),
        (30.00001, 0.0, True),  # what float32 rounds
        (30.0002, 0.0, False),
        (0.0, 0.0999, True),
        (0.0, 0.1001, False),
        (0.0, 0.1, True),
        (torch.nan, 0.0, False),
    ],
)
def test_thirty_degrees_go_with_a_tenth_of_the_side(degrees, shift, legal):
    threat = ThreatModel(norm="spatial", eps=30)
    parameters = torch.tensor([[degrees, 0.0, shift]])
    (reason,) = find_parameter_violations(parameters, IMAGE, threat)
    assert (reason is None) == legal


@pytest.mark.parametrize(("share", "clear"), [(1.5e-4, False), (1.9e-4, False), (2.1e-4, True)])
def test_the_search_on_a_success_goes_on_to_twice_the_fragile_margin(share, clear):
    """Another pass may round otherwise: the search leaves room for it."""
    assert (share > CLEAR_MARGIN_SHARE) == clear
