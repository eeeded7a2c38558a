"""When a success is beyond floating-point noise, from both sides."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.attacks.core.objective import evaluate_goal
from robustbench_local.threats.threat_model import ThreatModel

UNTARGETED = ThreatModel(norm="Linf", eps="8/255")
TARGETED = ThreatModel(norm="Linf", eps="8/255", targets=(1,))


@pytest.mark.parametrize("threat", [UNTARGETED, TARGETED])
@pytest.mark.parametrize(("share", "done"), [(-1e-3, False), (0.5e-5, False), (2e-5, True), (1e-3, True)])
def test_an_image_leaves_the_search_beyond_a_hundred_thousandth_of_the_range(threat, share, done):
    logits = torch.tensor([[0.0, 10 * share, -10.0]], dtype=torch.float64).float()
    margins, leaves = evaluate_goal(logits, torch.tensor([0]), threat)
    assert leaves.tolist() == [done]
    assert (float(margins[0]) > 0) == (share > 0)
