"""Gradient views: answers are the real model's to the bit, gradients are those of a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adaptive_samples import (
    CLASSES,
    Behind,
    build_images,
    build_linear,
    get_linear_gradient,
    wrap_model,
)
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustbench_local.attacks.adaptive.findings import PartFinding, PartInput
from robustbench_local.attacks.adaptive.gradient_views import ViewSpec, build_view
from robustbench_local.classifier import Classifier
from robustbench_local.defenses.wrappers.bit_depth import BitDepth
from robustbench_local.errors import ConfigError

BPDA = ViewSpec(kind="bpda", label="BPDA")


def compute_view(classifier: Classifier, spec: ViewSpec) -> tuple[Tensor, Tensor]:
    """Logits and gradient of the first logit through a view, after checking its answers."""
    images = build_images()
    view = build_view(classifier, spec)
    with torch.no_grad():
        assert torch.equal(view(images), classifier(images))
    logits, losses, gradient = view.compute_gradient(images, lambda logits: logits[:, 0])
    with torch.no_grad():
        assert torch.equal(logits, classifier(images))
    assert not logits.requires_grad
    assert losses.shape == (len(images),)
    return logits, gradient


def quantize_in_numpy(images: Tensor) -> Tensor:
    pixels = images.detach().permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.round(pixels * 8) / 8).permute(0, 3, 1, 2)


def drop_in_no_grad(images: Tensor) -> Tensor:
    with torch.no_grad():
        return images * 1.0


@torch.inference_mode()
def drop_in_inference_mode(images: Tensor) -> Tensor:
    return images * 1.0


def round_in_place(images: Tensor) -> Tensor:
    scaled = images * 8
    scaled.round_()
    return scaled / 8


class RoundLayer(torch.autograd.Function):
    """Rounds, with a backward of zeros; `RoundLayer.apply` is kept under another name as users do."""

    @staticmethod
    def forward(ctx, images):
        return (images * 8).round() / 8

    @staticmethod
    def backward(ctx, slope):
        return torch.zeros_like(slope)


class ModernRound(torch.autograd.Function):
    @staticmethod
    def forward(images, levels):
        return (images * levels).round() / levels

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.levels = inputs[1]

    @staticmethod
    def backward(ctx, slope):
        return torch.randn_like(slope), None


round_layer = RoundLayer.apply

IDENTITY_FRONTS = {
    "round": lambda images: (images * 8).round() / 8,
    "torch.round with decimals": lambda images: torch.round(images, decimals=1),
    "floor": lambda images: torch.floor(images * 8) / 8,
    "ceil": lambda images: (images * 8).ceil() / 8,
    "trunc": lambda images: (images * 8).trunc() / 8,
    "in place": round_in_place,
    "floor division": lambda images: (images * 255) // 32 * 32 / 255,
    "rounded division": lambda images: torch.div(images, 0.125, rounding_mode="floor") * 0.125,
    "remainder": lambda images: images - images % 0.125,
    "detach": lambda images: images.detach(),
    "data": lambda images: images.data * 1.0,
    "no_grad": drop_in_no_grad,
    "inference_mode": drop_in_inference_mode,
    "uint8": lambda images: (images * 255).to(torch.uint8).float() / 255,
    "byte": lambda images: (images * 255).byte() / 255.0,
    "int, shifted": lambda images: ((images * 255).int() >> 5 << 5) / 255.0,
    "numpy": quantize_in_numpy,
    "fake quantization": lambda images: torch.fake_quantize_per_tensor_affine(images, 1 / 8, 0, 0, 15),
    "quantized tensor": lambda images: torch.quantize_per_tensor(images, 1 / 8, 0, torch.quint8).dequantize(),
    "custom function": round_layer,
    "modern custom function": lambda images: ModernRound.apply(images, 8),
    "declared surrogate": lambda images: images + ((images * 8).round() / 8 - images).detach(),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", IDENTITY_FRONTS)
def test_bpda_gradient_is_that_of_the_model_without_its_front(name: str) -> None:
    classifier = wrap_model(Behind(IDENTITY_FRONTS[name]))
    _, gradient = compute_view(classifier, BPDA)
    torch.testing.assert_close(gradient, get_linear_gradient(len(gradient)), atol=1e-5, rtol=1e-4)


def test_a_model_that_is_a_function_has_views_too() -> None:
    linear = build_linear()
    classifier = wrap_model(lambda images: linear(images.round().flatten(1)))
    _, gradient = compute_view(classifier, BPDA)
    torch.testing.assert_close(gradient, get_linear_gradient(len(gradient)))


def test_only_the_named_modules_and_operators_are_replaced() -> None:
    rounding = Behind(lambda images: (images * 8).round() / 8)
    model = nn.Sequential(rounding, nn.Identity())
    _, gradient = compute_view(
        wrap_model(model), ViewSpec(kind="bpda", paths=("0",), operators=("round",), label="")
    )
    torch.testing.assert_close(gradient, get_linear_gradient(len(gradient)))
    _, gradient = compute_view(wrap_model(model), ViewSpec(kind="bpda", paths=("1",), label=""))
    assert not gradient.any()


def test_sign_has_the_slope_of_a_tanh_at_the_scale_of_the_image() -> None:
    classifier = wrap_model(Behind(lambda images: torch.sign(images - 0.5)))
    _, gradient = compute_view(classifier, BPDA)
    shifted = build_images() - 0.5
    scale = shifted.abs().mean(dim=(1, 2, 3), keepdim=True)
    slope = (1 - torch.tanh(shifted / scale).square()) / scale
    torch.testing.assert_close(gradient, slope * get_linear_gradient(len(gradient)))


@pytest.mark.parametrize(
    "front",
    [
        lambda images: (images > 0.5).float(),
        lambda images: 1.0 - (images <= 0.5).to(images.dtype),
        lambda images: torch.where(images > 0.5, 1.0, 0.0),
        lambda images: torch.ones_like(images).masked_fill(images < 0.5, 0.0),
        lambda images: torch.heaviside(images - 0.5, torch.tensor(1.0)),
        lambda images: (~((images <= 0.5) | (images > 2.0))).float(),
    ],
)
def test_thresholds_have_the_slope_of_a_sigmoid(front) -> None:
    _, gradient = compute_view(wrap_model(Behind(front)), BPDA)
    shifted = build_images() - 0.5
    scale = shifted.abs().mean(dim=(1, 2, 3), keepdim=True)
    level = torch.sigmoid(shifted / scale)
    expected = level * (1 - level) / scale * get_linear_gradient(len(gradient))
    aligned = F.cosine_similarity(gradient.flatten(1), expected.flatten(1), dim=1)
    assert aligned.min() > 0.98  # two comparisons in one mask shade each other a little


def test_winners_take_all_pass_gradients_to_near_losers() -> None:
    def keep_winners(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        winners = flat.topk(20, dim=1)
        return torch.zeros_like(flat).scatter_(1, winners.indices, winners.values).view_as(images)

    classifier = wrap_model(Behind(keep_winners))
    _, gradient = compute_view(classifier, BPDA)
    expected = get_linear_gradient(len(gradient))
    assert (gradient == 0).sum() == 0
    assert torch.equal(gradient.sign(), expected.sign())
    kept = keep_winners(build_images()) > 0
    ratio = gradient / expected
    assert ratio[kept].mean() > 1.5 * ratio[~kept].mean()


def test_an_inner_optimization_gets_the_gradient_of_the_identity() -> None:
    def smooth_images(images: Tensor) -> Tensor:
        steps = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            for _ in range(3):
                loss = steps.diff(dim=3).square().sum()
                (slope,) = torch.autograd.grad(loss, steps)
                steps = (steps - 0.05 * slope).detach().requires_grad_()
        return steps

    def smooth_backward(images: Tensor) -> Tensor:
        steps = images.detach().clone()
        steps.requires_grad = True
        with torch.enable_grad():
            for _ in range(3):
                steps.diff(dim=3).square().sum().backward()
                steps = (steps - 0.05 * steps.grad).detach().requires_grad_()
        return steps

    for front in (smooth_images, smooth_backward):
        _, gradient = compute_view(wrap_model(Behind(front)), BPDA)
        torch.testing.assert_close(gradient, get_linear_gradient(len(gradient)))


def test_codebooks_and_bins_pass_a_gradient_of_the_right_sign() -> None:
    levels = torch.linspace(0, 1, 9)
    fronts = [
        lambda images: levels[torch.bucketize(images, levels[1:-1])],
        lambda images: levels[(images[..., None] - levels).abs().argmin(dim=-1)],
        lambda images: F.embedding(
            (images[..., None] - levels).square().argmin(dim=-1), levels[:, None]
        ).squeeze(-1),
        lambda images: F.one_hot((images[..., None] - levels).abs().argmin(dim=-1), 9).float() @ levels,
    ]
    for front in fronts:
        _, gradient = compute_view(wrap_model(Behind(front)), BPDA)
        aligned = F.cosine_similarity(
            gradient.flatten(1), get_linear_gradient(len(gradient)).flatten(1), dim=1
        )
        assert aligned.min() > 0.7


def test_saturated_sigmoids_get_the_slope_of_a_lower_temperature() -> None:
    classifier = wrap_model(Behind(lambda images: torch.sigmoid(400 * (images - 0.5))))
    _, own = compute_view(classifier, ViewSpec(kind="own", label=""))
    _, gradient = compute_view(classifier, BPDA)
    assert ((own / own.abs().amax()).abs() > 1e-6).float().mean() < 0.2
    assert torch.equal(gradient.sign(), get_linear_gradient(len(gradient)).sign())
    gentle = wrap_model(Behind(lambda images: torch.sigmoid(4 * (images - 0.5))))
    plain = compute_view(gentle, ViewSpec(kind="own", label=""))[1]
    assert torch.equal(compute_view(gentle, BPDA)[1], plain)


def test_smoothed_rectifiers_reach_dead_units() -> None:
    classifier = wrap_model(Behind(lambda images: F.relu(images - 2)))
    _, gradient = compute_view(classifier, ViewSpec(kind="smooth", label=""))
    assert torch.equal(gradient.sign(), get_linear_gradient(len(gradient)).sign())
    assert not compute_view(classifier, BPDA)[1].any()


def test_log_view_is_the_gradient_of_log_probabilities() -> None:
    linear = build_linear()
    classifier = wrap_model(lambda images: linear(images.flatten(1)).softmax(dim=1))
    images = build_images().requires_grad_()
    expected = torch.autograd.grad(linear(images.flatten(1)).log_softmax(dim=1)[:, 0].sum(), images)[0]
    _, gradient = compute_view(classifier, ViewSpec(kind="log", label=""))
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_rescaled_view_keeps_cross_entropy_from_vanishing() -> None:
    classifier = wrap_model(Behind(lambda images: images, scale=1e5))
    images = build_images()
    labels = classifier(images).argmax(dim=1)

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    assert not classifier.compute_gradient(images, loss)[2].any()
    view = build_view(classifier, ViewSpec(kind="rescaled", scale=1e6, label=""))
    logits, losses, gradient = view.compute_gradient(images, loss)
    assert torch.equal(logits, classifier(images))
    assert (losses > 0).all()
    assert gradient.flatten(1).abs().amax(dim=1).min() > 0


class Members(nn.Module):
    """An ensemble of two linear models that rounds what each of them gets."""

    def __init__(self) -> None:
        super().__init__()
        self.members = [nn.Sequential(nn.Flatten(), build_linear(seed)) for seed in (0, 1)]

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images.round()) for member in self.members]).mean(dim=0)


def test_views_of_parts_are_gradients_of_members_and_of_their_mean() -> None:
    classifier, images = wrap_model(Members()), build_images()
    singles = []
    for number in (0, 1):
        spec = ViewSpec(kind="part", paths=(f"members.{number}",), label="")
        singles.append(compute_view(classifier, spec)[1])
        expected = build_linear(number).weight[0].view(1, 3, 6, 6).expand_as(images)
        torch.testing.assert_close(singles[-1], expected)
    paths = ("members.0", "members.1")
    _, gradient = compute_view(classifier, ViewSpec(kind="part", paths=paths, label=""))
    leaf = images.clone().requires_grad_()
    outputs = [build_linear(number)(leaf.flatten(1)).log_softmax(dim=1) for number in (0, 1)]
    expected = torch.autograd.grad(torch.stack(outputs).mean(dim=0)[:, 0].sum(), leaf)[0]
    torch.testing.assert_close(gradient, expected)


def test_a_part_is_fed_with_the_line_that_was_fitted() -> None:
    part = PartFinding(
        path="linear",
        role="base",
        agreement=1.0,
        input=PartInput(slopes=(2.0, 2.0, 2.0), offsets=(0.5, 0.5, 0.5)),
    )
    model = nn.Module()
    model.linear = nn.Sequential(nn.Flatten(), build_linear())
    model.forward = lambda images: model.linear((2 * images + 0.5).round())
    _, gradient = compute_view(
        wrap_model(model), ViewSpec(kind="part", paths=("linear",), parts=(part,), label="")
    )
    torch.testing.assert_close(gradient, 2 * get_linear_gradient(len(gradient)))


def test_a_missing_part_or_wrapper_is_refused() -> None:
    classifier = wrap_model(Members())
    with pytest.raises(ConfigError, match=r"no part 'members\.7'"):
        build_view(classifier, ViewSpec(kind="part", paths=("members.7",), label=""))
    with pytest.raises(ConfigError, match="no wrapper defense"):
        build_view(classifier, ViewSpec(kind="undefended", label=""))


def test_the_undefended_view_is_the_gradient_without_the_wrapper() -> None:
    inner = wrap_model(Behind(lambda images: images.square()))
    classifier = BitDepth(bits=2).wrap(inner)
    _, gradient = compute_view(classifier, ViewSpec(kind="undefended", label=""))
    images = build_images()
    torch.testing.assert_close(gradient, 2 * images * get_linear_gradient(len(images)))


class StairLayer(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.from_numpy(np.floor(values.detach().numpy() * 50) / 50) * 3


class Stairs(nn.Module):
    """A linear model whose logits go through stairs that only finite differences see."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.stairs = build_linear(), StairLayer()

    def forward(self, images: Tensor) -> Tensor:
        return self.stairs(self.linear(images.flatten(1)))


def test_small_layers_have_a_measured_jacobian_and_others_can_be_bypassed() -> None:
    classifier = wrap_model(Stairs())
    _, gradient = compute_view(classifier, ViewSpec(kind="bpda", measured=("stairs",), label=""))
    expected = 3 * get_linear_gradient(len(gradient))
    torch.testing.assert_close(gradient, expected, rtol=0.2, atol=0.2)
    _, gradient = compute_view(
        classifier, ViewSpec(kind="bpda", bypassed=("stairs",), operators=("none",), label="")
    )
    torch.testing.assert_close(gradient, get_linear_gradient(len(gradient)))


def test_draws_are_averaged_and_every_pass_is_counted() -> None:
    classifier = wrap_model(Behind(lambda images: images + 0.3 * images * torch.randn_like(images)))
    images, view = build_images(), build_view(classifier, ViewSpec(kind="own", draws=20, label=""))
    with classifier.evaluation_mode(), classifier.count_passes(len(images)) as counter:
        torch.manual_seed(0)
        single = classifier.compute_gradient(images, lambda logits: logits[:, 0])[2]
        averaged = view.compute_gradient(images, lambda logits: logits[:, 0])[2]
    expected = get_linear_gradient(len(images))
    assert (averaged - expected).norm() < 0.35 * (single - expected).norm()
    assert set(counter.backward_passes.tolist()) == {21}
    assert counter.forward_passes.min() >= 21


def test_a_view_counts_its_passes_at_the_real_classifier_and_needs_no_second_one_for_long() -> None:
    classifier, images = wrap_model(Behind(lambda images: images.round())), build_images()
    view = build_view(classifier, BPDA)
    with classifier.count_passes(len(images)) as counter:
        for _ in range(10):
            view.compute_gradient(images, lambda logits: logits[:, 0])
    assert set(counter.backward_passes.tolist()) == {10}
    assert set(counter.forward_passes.tolist()) == {13}  # three comparisons with the real model


def test_a_view_leaves_model_hooks_and_random_state_as_they_were() -> None:
    model = Behind(lambda images: torch.dropout(images.round(), 0.5, train=True))
    classifier = wrap_model(model).configure(batch_size=4)
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    state, torch_from_numpy = torch.get_rng_state(), torch.from_numpy
    view = build_view(classifier, BPDA)
    assert view.settings.batch_size == 4
    with classifier.evaluation_mode():
        view.compute_gradient(build_images(), lambda logits: logits[:, 0])
    after = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert before == after
    assert not torch.nn.modules.module._has_any_global_hook()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.from_numpy is torch_from_numpy
    assert view.num_classes == CLASSES
