"""Mean slopes: the answer stays the model's, and the gradient is that of the course of steep functions."""

from __future__ import annotations

import pytest
import torch
from adaptive_samples import SHAPE, Behind, build_images, get_linear_gradient, wrap_model
from torch import nn
from torch.nn import functional

from robustbench_local.attacks.adaptive.gradient_views import build_view, draw_offsets
from robustbench_local.attacks.adaptive.rank_rules import CHOSEN_SCORES, estimate_ranks
from robustbench_local.attacks.adaptive.surrogate_model import SurrogateModel
from robustbench_local.attacks.adaptive.view_spec import ViewSpec

TABLE = torch.linspace(0, 1, 17)


def scale_in_place(values):
    values = values * 1
    values.mul_(16).round_().div_(16)
    return values


FRONTS = {
    "steep arithmetic": lambda x: 1 / (1 + torch.exp(-80 * (x - 0.5))),
    "steep softsign": lambda x: functional.softsign(300 * (x - 0.5)),
    "root": lambda x: (x - 0.5) / torch.sqrt((x - 0.5) ** 2 + 1e-5),
    "minimum": lambda x: torch.minimum(torch.maximum(50 * (x - 0.5), torch.zeros(())), torch.ones(())),
    "gate": lambda x: x * torch.sigmoid(200 * (x - 0.5)),
    "ripple": lambda x: x + 0.01 * torch.sin(700 * x),
    "sawtooth": lambda x: x - 1.5 * torch.atan(torch.tan(torch.pi * 20 * x)) / (torch.pi * 20),
    "remainder": lambda x: x - 1.5 * (x % 0.05),
    "table": lambda x: TABLE[(x * 16 + 0.5).long()],
    "bytes": lambda x: (x * 255).byte().float() / 255,
    "steps": lambda x: torch.where(x > 0.5, 1.0, 0.0) + (x > 0.25).float(),
    "thermometer": lambda x: (x.unsqueeze(-1) > (torch.arange(16) + 0.5) / 16).float().mean(dim=-1),
    "in place": scale_in_place,
    "flat": lambda x: (x.flatten(1) * 15).floor().view(-1, *SHAPE) / 15,
    "detached": lambda x: torch.tanh(x.detach()),
}


def compute_view_gradient(model: nn.Module, spec: ViewSpec, images):
    view = build_view(wrap_model(model), spec)
    logits, _, gradient = view.compute_gradient(images, lambda logits: logits[:, 0])
    with torch.no_grad():
        assert torch.equal(logits, model(images))
    return gradient


@pytest.mark.parametrize("name", list(FRONTS))
def test_the_mean_slope_is_the_course_of_the_function(name):
    images = build_images()
    spec = ViewSpec(kind="wide", label="wide", width=1.0)
    gradient = compute_view_gradient(Behind(FRONTS[name]), spec, images)
    linear = get_linear_gradient(len(images))
    assert functional.cosine_similarity(gradient.flatten(1), linear.flatten(1)).min() > 0.6


def test_a_smooth_chain_keeps_its_own_slope():
    images = build_images()
    model = Behind(lambda x: functional.gelu(2 * x + 1).square())
    leaf = images.clone().requires_grad_()
    (own,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    spec = ViewSpec(kind="wide", label="wide", width=0.5)
    assert torch.equal(compute_view_gradient(model, spec, images), own)


def test_the_slope_is_the_mean_over_the_interval():
    values = torch.tensor([[0.0, 0.4, 2.0]])
    width = 0.5 / float(values.std(correction=0))  # half the length is 0.5
    model = SurrogateModel(nn.Hardtanh(-0.1, 0.1), selects=lambda *_: False, width=width)
    leaf = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert slope.tolist() == [pytest.approx([0.2, 0.2, 0.0], abs=1e-5)]


def test_a_median_shares_its_gradient_with_the_values_next_to_it():
    scores = torch.tensor([[1.0], [2.0], [5.0]]).requires_grad_()

    class Median(nn.Module):
        def forward(self, values):
            return values.median(dim=0).values

    for width, nearest in ((0.5, 1), (0.0, 1)):
        model = SurrogateModel(Median(), selects=lambda *_: True, width=width)
        (slope,) = torch.autograd.grad(model(scores).sum(), scores)
        assert float(slope.sum()) == pytest.approx(1)
        assert slope.argmax() == nearest
        assert slope[0] > slope[2] > 0


class ChannelMedian(nn.Module):
    """Two scores from the median channel of each pixel."""

    def forward(self, images):
        level = images.median(dim=1).values.mean(dim=(1, 2))
        return torch.stack([level, -level], dim=1)


@pytest.mark.parametrize(("side", "is_choice"), [(36, True), (37, False)])
def test_a_median_of_many_pixels_is_no_choice_among_scores(side, is_choice):
    """2 images of 3 x 36 x 36 are 7,776 values, one pixel more on each side 8,214; the limit is 8,192."""
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    gradients = []
    for operators in ((CHOSEN_SCORES,), ()):
        spec = ViewSpec(kind="wide", label="wide", width=0.1, operators=operators)
        view = build_view(wrap_model(ChannelMedian(), classes=2), spec)
        gradients.append(view.compute_gradient(images, lambda logits: logits[:, 0])[2])
    assert torch.equal(*gradients) is is_choice


class Borda(nn.Module):
    """Ranks of the scores instead of the scores."""

    def __init__(self, *, descending: bool) -> None:
        super().__init__()
        self.scores, self.sign, self.descending = Behind(lambda x: x), -1 if descending else 1, descending

    def forward(self, images):
        order = self.scores(images).argsort(dim=1)
        return self.sign * order.argsort(dim=1, descending=self.descending).float()


@pytest.mark.parametrize("descending", [False, True])
def test_ranks_have_the_gradient_of_comparisons(descending):
    images = build_images()
    model = Borda(descending=descending)
    gradient = compute_view_gradient(model, ViewSpec(kind="bpda", label="all"), images)
    weight = model.scores.linear.weight
    expected = (weight[0] - weight[1:].mean(dim=0)).expand(len(images), -1)
    assert functional.cosine_similarity(gradient.flatten(1), expected).min() > 0.7


@pytest.mark.parametrize("count", [10, 300])
def test_smooth_ranks_follow_the_ranks(count):
    scores = torch.randn(2, count, generator=torch.Generator().manual_seed(0))
    ranks = estimate_ranks(scores, 1)
    true = scores.argsort(dim=1, descending=True).argsort(dim=1).float()
    assert torch.equal(ranks.argsort(dim=1), true.argsort(dim=1))
    assert (ranks - true).abs().max() < 0.25 * count


@pytest.mark.parametrize(("norm", "order"), [("L2", 2), ("L1", 1)])
def test_a_neighborhood_has_the_size_of_the_ball_and_is_the_same_for_all_images(norm, order):
    offsets = draw_offsets(torch.zeros(3, *SHAPE), 0.25, norm)
    assert [float(offset.norm(p=order)) for offset in offsets] == pytest.approx([0.25] * 4)
    assert float(sum(offsets).abs().max()) < 1e-8
    assert float(torch.stack(draw_offsets(torch.zeros(1, *SHAPE), 0.1, "Linf")).std()) == pytest.approx(
        0.1, abs=0.01
    )
    assert torch.equal(draw_offsets(torch.zeros(1, *SHAPE), 0.25, norm)[0], offsets[0])
