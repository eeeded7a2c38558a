"""What attackers climb, and when it has arrived."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.attacks.core import losses
from robustbench_local.attacks.core.objective import (
    build_objective,
    check_loss,
    check_loss_defined,
    compute_success_margin,
    evaluate_goal,
)
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.threat_model import ThreatModel

LEAVE = ThreatModel(norm="Linf", eps=0.1)
REACH = ThreatModel(norm="Linf", eps=0.1, targets=(0, 3))
LOGITS = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threat", [LEAVE, REACH], ids=["untargeted", "set"])
@pytest.mark.parametrize("name", ["ce", "margin"])
def test_climbing_any_loss_leads_to_the_goal(name: str, threat: ThreatModel):
    logits = LOGITS.clone()
    for _ in range(200):
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(build_objective(name, threat, LABELS)(logits).sum(), logits)
        logits = (logits + 0.5 * gradient).detach()
    assert threat.is_success(logits.argmax(dim=1), LABELS).all()


def test_one_target_uses_the_targeted_dlr_loss():
    threat = ThreatModel(norm="Linf", eps=0.1, targets=(2,))
    expected = losses.compute_targeted_dlr(LOGITS, LABELS, torch.full_like(LABELS, 2))
    assert torch.equal(build_objective("dlr", threat, LABELS)(LOGITS), expected)
    assert torch.equal(build_objective("dlr", LEAVE, LABELS)(LOGITS), losses.compute_dlr(LOGITS, LABELS))


@pytest.mark.parametrize("threat", [LEAVE, REACH], ids=["untargeted", "set"])
def test_the_success_margin_is_positive_exactly_on_success(threat: ThreatModel):
    expected = threat.is_success(LOGITS.argmax(dim=1), LABELS)
    assert torch.equal(compute_success_margin(LOGITS, LABELS, threat) > 0, expected)
    assert expected.any()
    assert not expected.all()


def test_an_answer_that_is_not_finite_is_beyond_every_goal():
    inf, nan = torch.inf, torch.nan
    rows = [[0.0, nan], [0.0, inf], [inf, 0.0], [0.0, -inf], [-inf, 0.0], [inf, inf], [-inf, inf], [nan, nan]]
    for label in (0, 1):
        margins, done = evaluate_goal(torch.tensor(rows), torch.full((8,), label), LEAVE)
        assert margins.tolist() == [inf] * 8
        assert done.all()


def test_large_logits_are_no_success_by_themselves():
    """Not even where their range is beyond float32."""
    logits = torch.tensor([[3e38, -3e38], [-3e38, -3.1e38], [1.0, 0.0]])
    margins, done = evaluate_goal(logits, torch.zeros(3, dtype=torch.int64), LEAVE)
    assert (margins < 0).all()
    assert not done.any()
    assert compute_success_margin(logits, torch.ones(3, dtype=torch.int64), LEAVE).gt(0).all()


def test_a_goal_that_cannot_be_reached_is_infinitely_far():
    """The only target is the label."""
    margins, done = evaluate_goal(
        torch.tensor([[1.0, 2.0]]), torch.tensor([1]), ThreatModel(norm="L2", eps=1, targets=(1,))
    )
    assert margins.tolist() == [-torch.inf]
    assert not done.any()


def test_unknown_and_undefined_losses_are_refused():
    with pytest.raises(ConfigError, match=r"unknown loss 'cross'\. Use ce, margin, dlr"):
        check_loss("cross")
    with pytest.raises(ThreatError, match="DLR loss takes one target"):
        check_loss_defined("dlr", REACH, 10)
    with pytest.raises(ThreatError, match="untargeted DLR loss needs 3 classes, the model has 2"):
        check_loss_defined("dlr", LEAVE, 2)
    with pytest.raises(ThreatError, match="targeted DLR loss needs 4 classes, the model has 3"):
        check_loss_defined("dlr", ThreatModel(norm="L2", eps=1, targets=(1,)), 3)
    check_loss_defined("dlr", LEAVE, 3)
    check_loss_defined("margin", REACH, 2)


def test_steering_for_a_class_of_ones_own_climbs_to_that_class():
    steer = (LABELS + 1) % 5
    for name in ("ce", "margin", "dlr"):
        logits = LOGITS.clone()
        for _ in range(300):
            logits.requires_grad_()
            loss = build_objective(name, LEAVE, LABELS, steer)(logits)
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            logits = (logits + 0.3 * gradient).detach()
        reached = (logits.argmax(dim=1) == steer).float().mean()
        assert float(reached) > (0.4 if name == "dlr" else 0.99), (
            name
        )  # DLR stops rising at a tie of the others


def test_a_break_within_floating_point_noise_is_not_confirmed():
    logits = torch.tensor([[1000.0, 1000.001, 0.0], [1.0, 1.1, 0.0], [7.0, 7.0, 7.0], [torch.nan, 0.0, 0.0]])
    _, reached = evaluate_goal(logits, torch.zeros(4, dtype=torch.int64), LEAVE)
    assert reached.tolist() == [False, True, False, True]
