"""L0 through the harness: what is recorded, 8-bit successes, noise, and refusals in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.errors import ThreatError
from robustbench_local.evaluation.diagnostics.random_noise import _sample_noise
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

IMAGES = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def build_network() -> nn.Module:
    layer = nn.Linear(75, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 75, generator=generator))
        layer.bias.copy_(-(layer.weight @ IMAGES.flatten(1).mean(dim=0)))
    return nn.Sequential(nn.Flatten(), layer).eval()


def evaluate(attack, **parameters):
    network = build_network()
    labels = network(IMAGES).argmax(dim=1)
    return rbl.evaluate(network, IMAGES, labels, attack=attack, norm="L0", diagnostics=False, **parameters)


def test_outcomes_have_the_number_of_changed_pixels_and_8bit_successes():
    result = evaluate("sigma-zero", eps=25, steps=20, paths=1)
    table = result.outcomes
    assert table["broken"].all()
    assert table["broken_8bit"].all()
    assert table["l0"].between(1, 25).all()
    assert (table["l0"] == table["l0"].round()).all()


def test_attacks_and_certificates_without_l0_say_so_in_one_line():
    with pytest.raises(ThreatError, match="PGD does not support the norm 'L0'"):
        evaluate("pgd", eps=2)
    labels = build_network()(IMAGES).argmax(dim=1)
    with pytest.raises(ThreatError, match="IBP does not support the norm 'L0'"):
        rbl.certify(build_network(), IMAGES, labels, certificate=rbl.IBP(), norm="L0", eps=2)


def test_noise_has_the_colors_of_corners_on_that_many_pixels():
    threat, stream = ThreatModel(norm="L0", eps=4), RandomStream(0, tuple("abcdef"), "noise")
    noisy = IMAGES + _sample_noise(IMAGES, stream, threat, 0)
    assert (compute_norms(noisy - IMAGES, "L0") == 4).all()
    assert set(noisy[(noisy - IMAGES).abs() > 0].round(decimals=6).unique().tolist()) == {0.0, 1.0}
