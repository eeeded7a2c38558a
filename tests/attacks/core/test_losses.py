"""Losses against the formulas written out for one row at a time."""

from __future__ import annotations

import math

import pytest
import torch

from robustbench_local.attacks.core import losses

LOGITS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double() * 4
LABELS = torch.randint(6, (40,), generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([1, 4])


def rows() -> list[tuple[list[float], int]]:
    return list(zip(LOGITS.tolist(), LABELS.tolist(), strict=True))


def check(values: torch.Tensor, expected: list[float]) -> None:
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def test_cross_entropy():
    check(
        losses.compute_cross_entropy(LOGITS, LABELS),
        [-math.log(math.exp(z[y]) / sum(map(math.exp, z))) for z, y in rows()],
    )


def test_margin():
    others = [max(v for k, v in enumerate(z) if k != y) - z[y] for z, y in rows()]
    check(losses.compute_margin(LOGITS, LABELS), others)
    assert torch.equal(losses.compute_margin(LOGITS, LABELS) > 0, LOGITS.argmax(dim=1) != LABELS)


def test_dlr():
    def by_hand(z: list[float], y: int) -> float:
        first, _, third, *_ = sorted(z, reverse=True)
        return -(z[y] - max(v for k, v in enumerate(z) if k != y)) / (first - third)

    check(losses.compute_dlr(LOGITS, LABELS), [by_hand(z, y) for z, y in rows()])


def test_targeted_dlr():
    targets = (LABELS + 2) % 6

    def by_hand(z: list[float], y: int) -> float:
        first, _, third, fourth, *_ = sorted(z, reverse=True)
        return -(z[y] - z[(y + 2) % 6]) / (first - (third + fourth) / 2)

    check(losses.compute_targeted_dlr(LOGITS, LABELS, targets), [by_hand(z, y) for z, y in rows()])


def test_dlr_does_not_change_with_shift_or_scale():
    for loss in (
        losses.compute_dlr(LOGITS, LABELS),
        losses.compute_targeted_dlr(LOGITS, LABELS, (LABELS + 1) % 6),
    ):
        assert torch.isfinite(loss).all()
    assert torch.allclose(
        losses.compute_dlr(LOGITS * 1000 - 77, LABELS), losses.compute_dlr(LOGITS, LABELS), atol=1e-6
    )


def test_margin_to_a_target_set():
    def by_hand(z: list[float], y: int) -> float:
        wanted = {1, 4} - {y}
        return max(z[k] for k in wanted) - max(v for k, v in enumerate(z) if k not in wanted)

    values = losses.compute_margin_to_target_set(LOGITS, LABELS, TARGETS)
    check(values, [by_hand(z, y) for z, y in rows()])
    predictions = LOGITS.argmax(dim=1)
    assert torch.equal(values > 0, torch.isin(predictions, TARGETS) & (predictions != LABELS))


def test_cross_entropy_to_a_target_set_is_the_log_of_its_probability():
    def by_hand(z: list[float], y: int) -> float:
        return math.log(sum(math.exp(z[k]) for k in {1, 4} - {y}) / sum(map(math.exp, z)))

    values = losses.compute_cross_entropy_to_target_set(LOGITS, LABELS, TARGETS)
    check(values, [by_hand(z, y) for z, y in rows()])
    one = losses.compute_cross_entropy_to_target_set(
        LOGITS[LABELS != 4], LABELS[LABELS != 4], torch.tensor([4])
    )
    assert torch.allclose(
        one, -losses.compute_cross_entropy(LOGITS[LABELS != 4], torch.full_like(LABELS[LABELS != 4], 4))
    )


def test_every_class_but_the_label_as_target_is_the_untargeted_margin():
    everything = torch.arange(6)
    assert torch.equal(
        losses.compute_margin_to_target_set(LOGITS, LABELS, everything), losses.compute_margin(LOGITS, LABELS)
    )


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_even_for_extreme_logits(scale: float):
    logits = (LOGITS.float() * scale).requires_grad_()
    targets = (LABELS + 1) % 6
    for values in (
        losses.compute_cross_entropy(logits, LABELS),
        losses.compute_margin(logits, LABELS),
        losses.compute_dlr(logits, LABELS),
        losses.compute_targeted_dlr(logits, LABELS, targets),
        losses.compute_margin_to_target_set(logits, LABELS, TARGETS),
        losses.compute_cross_entropy_to_target_set(logits, LABELS, TARGETS),
    ):
        assert values.shape == (40,)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert torch.isfinite(gradient).all()


def test_tied_logits_give_finite_losses():
    tied = torch.zeros(2, 6)
    labels = torch.tensor([0, 3])
    assert losses.compute_margin(tied, labels).tolist() == [0, 0]
    assert losses.compute_dlr(tied, labels).tolist() == [0, 0]
