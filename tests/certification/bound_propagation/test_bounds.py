"""Bounds against closed forms, every point of small balls, finite differences, and rounding."""

from __future__ import annotations

import bound_samples as samples
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_local.certification.bound_propagation.bounds import (
    build_margin_rows,
    compute_crown_ibp_margins,
    compute_ibp_bounds,
    compute_ibp_margins,
    list_other_classes,
)
from robustbench_local.certification.bound_propagation.crown import compute_crown_bounds, optimize_slopes
from robustbench_local.certification.bound_propagation.graph import Graph, trace_network
from robustbench_local.certification.bound_propagation.input_set import BoxRegion, L2Region
from robustbench_local.certification.bound_propagation.interval import Interval, propagate
from robustbench_local.certification.bound_propagation.linear import compute_linear_bounds
from robustbench_local.certification.bound_propagation.rounding import Rounding

NETWORKS = pytest.mark.parametrize(
    "make", [samples.build_plain_network, samples.ResidualNetwork], ids=["plain", "residual"]
)
FLOAT32 = Rounding.from_dtype(torch.float32)


def _box(images: Tensor, eps: float) -> Interval:
    images = images.double()
    return Interval.from_bounds((images - eps).clamp(0, 1), (images + eps).clamp(0, 1))


def _margins(graph: Graph, images: Tensor, labels: Tensor, eps: float, norm: str, method: str) -> Tensor:
    """Lower bounds of the margins, (N, K - 1), by one of the methods."""
    with torch.no_grad():
        return _bounded(graph, images, labels, eps, norm, method)


def _bounded(graph: Graph, images: Tensor, labels: Tensor, eps: float, norm: str, method: str) -> Tensor:
    ball = BoxRegion(_box(images, eps)) if norm == "Linf" else L2Region(images.double(), eps)
    rows = build_margin_rows(labels, graph.nodes[-1].shape[0]).double()
    last = len(graph.nodes) - 1
    bounds = propagate(graph, ball.box, rounding=FLOAT32)
    if method == "ibp":
        return compute_linear_bounds(bounds, last, rows, ball, through_activations=False)
    if method == "crown-ibp":
        return compute_linear_bounds(bounds, last, rows, ball)
    bounds = compute_crown_bounds(graph, ball, FLOAT32)
    return (
        optimize_slopes(bounds, rows, ball, 5)
        if method == "alpha"
        else compute_linear_bounds(bounds, last, rows, ball)
    )


def _true_margins(network: nn.Module, points: Tensor, label: int) -> Tensor:
    """Margins at the points, in the network's own precision, (P, K - 1)."""
    with torch.no_grad():
        logits = network(points.float()).double()
    others = list_other_classes(torch.tensor([label]), logits.shape[1])[0]
    return logits[:, label, None] - logits[:, others]


@NETWORKS
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha"])
def test_no_point_of_the_ball_lies_below_a_bound(make, norm: str, method: str):
    network, images, labels = (
        samples.build_seeded_network(make),
        samples.draw_images(3),
        torch.tensor([0, 1, 2]),
    )
    for eps in (0.02, 0.2, 0.7):
        bounds = _margins(trace_network(network, samples.IMAGE_SHAPE), images, labels, eps, norm, method)
        for image, label, bound in zip(images, labels, bounds, strict=True):
            points = samples.draw_ball_points(image.double(), eps, norm, 4000)
            assert (_true_margins(network, points, int(label)) >= bound).all()


@given(seed=st.integers(0, 10_000), eps=st.floats(0.001, 0.5), norm=st.sampled_from(["Linf", "L2"]))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_bounds_hold_for_any_network_of_two_pixels(seed: int, eps: float, norm: str):
    network = samples.build_seeded_network(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
        ),
        seed,
    )
    image, label = samples.draw_images(1, (1, 1, 2), seed), torch.tensor([seed % 2])
    side = torch.linspace(-eps, eps, 41, dtype=torch.float64)
    moved = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)
    inside = moved[moved.flatten(1).norm(dim=1) <= eps] if norm == "L2" else moved
    lowest = _true_margins(network, (image.double() + inside).clamp(0, 1), int(label)).amin()
    found = {
        method: _margins(trace_network(network, (1, 1, 2)), image, label, eps, norm, method).item()
        for method in ("ibp", "crown-ibp", "crown", "alpha")
    }
    assert max(found.values()) <= lowest
    assert found["alpha"] >= found["crown"]


def test_a_linear_networks_margin_is_exact_under_linf():
    network = samples.build_seeded_network(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    image, eps = samples.draw_images(1).clamp(0.3, 0.7), 0.1  # the box does not matter
    bound = _margins(
        trace_network(network, samples.IMAGE_SHAPE), image, torch.tensor([0]), eps, "Linf", "ibp"
    )
    weight = network[1].weight.detach().double()
    direction = weight[0] - weight[1:]
    exact = _true_margins(network, image, 0) - eps * direction.abs().sum(dim=1)
    torch.testing.assert_close(bound, exact, rtol=0, atol=2e-5)
    assert (bound < exact).all()  # rounding is covered


def test_a_linear_networks_margin_is_exact_under_l2_and_the_box_can_only_help():
    network = samples.build_seeded_network(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    weight = network[1].weight.detach().double()
    direction = weight[0] - weight[1:]
    for image, inside in (
        (samples.draw_images(1).clamp(0.3, 0.7), True),
        (samples.draw_images(1).round(), False),
    ):
        bound = _margins(
            trace_network(network, samples.IMAGE_SHAPE), image, torch.tensor([0]), 0.2, "L2", "crown"
        )
        whole_ball = _true_margins(network, image, 0) - 0.2 * direction.norm(dim=1)
        if inside:
            torch.testing.assert_close(bound, whole_ball, rtol=0, atol=2e-5)
        else:
            assert (bound > whole_ball + 0.01).all()


@NETWORKS
def test_each_method_proves_at_least_what_the_cheaper_one_does(make):
    network, images, labels = samples.build_seeded_network(make), samples.draw_images(8), torch.arange(8) % 3
    graph = trace_network(network, samples.IMAGE_SHAPE)
    found = {
        method: _margins(graph, images, labels, 0.02, "Linf", method)
        for method in ("ibp", "crown-ibp", "crown", "alpha")
    }
    exact = torch.stack(
        [
            _true_margins(
                network, samples.draw_ball_points(image.double(), 0.02, "Linf", 2000), int(label)
            ).amin(dim=0)
            for image, label in zip(images, labels, strict=True)
        ]
    )
    gaps = [(exact - found[method]).mean().item() for method in ("ibp", "crown-ibp", "crown", "alpha")]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1.5 * gaps[2]
    assert (found["alpha"] >= found["crown"]).all()


@NETWORKS
def test_the_differentiable_bounds_are_those_of_the_certificates_without_rounding(make):
    network, labels = samples.build_seeded_network(make).double(), torch.tensor([0, 1, 2])
    box = _box(samples.draw_images(3), 0.05)
    graph = trace_network(network, samples.IMAGE_SHAPE)
    exact = propagate(graph, box)
    rows, last = build_margin_rows(labels, 3).double(), len(graph.nodes) - 1
    places = list_other_classes(labels, 3)
    for function, through in ((compute_ibp_margins, False), (compute_crown_ibp_margins, True)):
        margins = function(network, box.lower, box.upper, labels)
        expected = compute_linear_bounds(exact, last, rows, BoxRegion(box), through_activations=through)
        torch.testing.assert_close(margins.gather(1, places), expected)
        assert (margins.gather(1, labels[:, None]) == 0).all()
    lower, upper = compute_ibp_bounds(graph, box.lower, box.upper)
    spread = lower.gather(1, labels[:, None]) - upper.gather(1, places)
    assert (
        compute_ibp_margins(graph, box.lower, box.upper, labels).gather(1, places) >= spread - 1e-12
    ).all()


@pytest.mark.parametrize("function", [compute_ibp_margins, compute_crown_ibp_margins])
def test_gradients_of_bounds_are_those_of_finite_differences(function):
    network, labels = samples.build_seeded_network(samples.ResidualNetwork).double(), torch.tensor([0, 1])
    box, graph = _box(samples.draw_images(2), 0.05), trace_network(network, samples.IMAGE_SHAPE)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(-function(graph, box.lower, box.upper, labels), labels)

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    assert all(gradient.abs().amax() > 0 for gradient in gradients)
    values = []
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in parameters]
    for step in (1e-6, -2e-6):
        for parameter, along in zip(parameters, direction, strict=True):
            parameter.data.add_(along, alpha=step)
        values.append(loss().item())
    slope = sum((a * b).sum().item() for a, b in zip(gradients, direction, strict=True))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_bounds_follow_the_parameters_of_the_module():
    network, box = samples.build_seeded_network(samples.ResidualNetwork), _box(samples.draw_images(1), 0.1)
    graph = trace_network(network, samples.IMAGE_SHAPE)
    before = compute_ibp_bounds(graph, box.lower, box.upper)[0].detach()
    with torch.no_grad():
        network.head.bias.add_(1.0)
        network.norm.running_mean.add_(1.0)
    after = compute_ibp_bounds(graph, box.lower, box.upper)[0].detach()
    torch.testing.assert_close(after, compute_ibp_bounds(network, box.lower, box.upper)[0].detach())
    assert not torch.allclose(after, before + 1.0)


@NETWORKS
def test_the_noise_of_every_node_covers_what_float32_does_there(make):
    network, images = samples.build_seeded_network(make), samples.draw_images(64)
    graph = trace_network(network, samples.IMAGE_SHAPE)
    exact, rounded = _values(graph, images.double()), _values(graph, images)
    bounds = propagate(graph, Interval.from_bounds(images.double(), images.double()), rounding=FLOAT32)
    for interval, single, double in zip(bounds.intervals, rounded, exact, strict=True):
        assert (interval.lower <= single).all()
        assert (single <= interval.upper).all()
        assert (interval.radius <= 1e-4 * (1 + double.abs().amax())).all()


def _values(graph: Graph, images: Tensor) -> list[Tensor]:
    """Every node's values, in the images' precision."""
    with torch.no_grad():
        return [Graph(graph.nodes[: place + 1])(images).double() for place in range(len(graph.nodes))]


def test_a_margin_that_rounding_eats_up_is_not_proven():
    """(1e7 x + 1) - 1e7 x is 1 exactly and 0 or 2 in float32: a bound for real numbers would prove it."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[3e8], [3e8]]))
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
        network[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    image = torch.full((1, 1, 1, 1), 0.7)
    graph, label = trace_network(network.double(), (1, 1, 1)), torch.tensor([0])
    box = _box(image, 0.0)
    rows = build_margin_rows(label, 2).double()
    real = compute_linear_bounds(propagate(graph, box), len(graph.nodes) - 1, rows, BoxRegion(box))
    rounded = compute_linear_bounds(
        propagate(graph, box, rounding=FLOAT32), len(graph.nodes) - 1, rows, BoxRegion(box)
    )
    assert real.item() == pytest.approx(1.0)
    with torch.no_grad():
        assert network.float()(image).diff().abs().item() != pytest.approx(1.0)
    assert rounded.item() < 0


def test_an_image_does_not_depend_on_its_batch():
    network, images, labels = (
        samples.build_seeded_network(samples.ResidualNetwork),
        samples.draw_images(3),
        torch.arange(3),
    )
    graph = trace_network(network, samples.IMAGE_SHAPE)
    for method in ("ibp", "alpha"):
        together = _margins(graph, images, labels, 0.1, "Linf", method)
        alone = torch.cat(
            [_margins(graph, images[i : i + 1], labels[i : i + 1], 0.1, "Linf", method) for i in range(3)]
        )
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
