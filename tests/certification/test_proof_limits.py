"""A certificate covers what the harness lets an attack reach, and hardly more."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.certification.bound_propagation import certificate as proof
from robustbench_local.threats import lp_ball
from robustbench_local.threats.threat_model import ThreatModel

IMAGE = torch.full((1, 1, 1, 1), 0.5)


def test_the_ball_of_a_proof_is_at_least_that_of_the_harness():
    assert proof.LINF_SLACK >= lp_ball.LINF_SLACK
    assert proof.RELATIVE_SLACK >= lp_ball.RELATIVE_SLACK


def test_it_is_hardly_wider():
    box = proof.build_input_region(IMAGE, ThreatModel(norm="Linf", eps=0.1))
    assert float(box.box.centre) == pytest.approx(0.5, abs=1e-9)
    assert float(box.box.radius) == pytest.approx(0.1 + 1e-6, abs=1e-9)
    euclidean = proof.build_input_region(IMAGE, ThreatModel(norm="L2", eps=0.1))
    assert float(euclidean.eps) == pytest.approx(0.1 * (1 + 1e-5), rel=1e-8)
