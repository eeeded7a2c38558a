"""The inspection finds each operator at its module, and nothing in sound networks."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from adaptive_samples import CLASSES, SHAPE, Behind, build_images, build_linear, inspect_sample, wrap_model
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustbench_local.attacks.adaptive.activation_rules import MIN_SATURATED_SHARE
from robustbench_local.attacks.adaptive.findings import (
    MAX_ROUNDING_DIFFERENCE,
    GradientFindings,
    ModelFindings,
    RandomnessFindings,
)
from robustbench_local.attacks.adaptive.gradient_checks import DIRECTIONS, STEP_SIZES
from robustbench_local.attacks.adaptive.inspection import MAX_PROBE_IMAGES
from robustbench_local.attacks.adaptive.local_slopes import find_local_fault
from robustbench_local.attacks.adaptive.view_spec import (
    MAX_RELATIVE_ERROR,
    MIN_COSINE,
    MIN_FAULT_SHARE,
    ViewSpec,
    are_gradients_unsound,
    has_extreme_logits,
    list_views,
)
from robustbench_local.classifier import Classifier
from robustbench_local.defenses.wrappers.bit_depth import BitDepth
from robustbench_local.defenses.wrappers.gaussian_noise import GaussianNoise


def build_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, CLASSES)
        )


class Front(nn.Module):
    """A network behind a layer of its own."""

    def __init__(self, function, seed: int = 0) -> None:
        super().__init__()
        self.front, self.network = FunctionLayer(function), build_network(seed)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.front(images))


class FunctionLayer(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def keep_winners(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    last = flat.topk(flat.shape[1] // 5, dim=1).values[:, -1:]
    return values * (flat >= last).view_as(values)


def keep_winners_by_index(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    chosen = flat.topk(flat.shape[1] // 5, dim=1).indices
    return values * torch.zeros_like(flat).scatter(1, chosen, 1.0).view_as(values)


def quantize_in_numpy(values: Tensor) -> Tensor:
    return torch.from_numpy(np.round(values.detach().numpy() * 8) / 8)


@torch.no_grad()
def scale_without_graph(values: Tensor) -> Tensor:
    return values * 0.9


class RandomBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.tanh()

    @staticmethod
    def backward(ctx, slope):
        return torch.randn_like(slope)


class TanhWithBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        result = values.tanh()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, slope):
        (result,) = ctx.saved_tensors
        return slope * (1 - result.square())


MASKING = {
    "round": (lambda values: (values * 8).round() / 8, "round"),
    "floor": (lambda values: torch.floor(values * 8) / 8, "floor"),
    "ceil": (lambda values: torch.ceil(values * 8) / 8, "ceil"),
    "trunc": (lambda values: torch.trunc(values * 8) / 8, "trunc"),
    "remainder": (lambda values: values - values % 0.125, "floor"),
    "sign": (lambda values: torch.sign(values - 0.5), "sign"),
    "threshold": (lambda values: (values > 0.5).float(), "threshold"),
    "gate with a jump": (lambda values: values * (values > 0.5), "threshold"),
    "where": (lambda values: torch.where(values > 0.5, 1.0, values), "threshold"),
    "masked assignment": (lambda values: values.masked_fill(values > 0.5, 0.0), "threshold"),
    "winners": (keep_winners, "threshold"),
    "winners by index": (keep_winners_by_index, "top-k mask"),
    "detach": (lambda values: values.detach() * 0.9, "detach"),
    "no_grad": (scale_without_graph, "no_grad"),
    "uint8": (lambda values: (values * 255).byte() / 255.0, "integer cast"),
    "numpy": (quantize_in_numpy, "numpy"),
    "bins": (lambda values: torch.bucketize(values, torch.linspace(0.1, 0.9, 9)) / 9.0, "bins"),
    "saturated sigmoid": (lambda values: torch.sigmoid(500 * (values - 0.5)), "saturated sigmoid"),
    "saturated tanh": (lambda values: torch.tanh(500 * (values - 0.5)), "saturated tanh"),
    "saturated clamp": (lambda values: (500 * (values - 0.5)).clamp(0, 1), "saturated clamp"),
    "codebook": (
        lambda values: torch.linspace(0, 1, 9)[
            (values[..., None] - torch.linspace(0, 1, 9)).abs().argmin(-1)
        ],
        "argmax",
    ),
    "custom function": (RandomBackward.apply, "custom function RandomBackward"),
}


SELDOM = {
    "floor",
    "winners by index",
    "saturated sigmoid",
    "ceil",
    "trunc",
    "remainder",
    "where",
    "masked assignment",
    "saturated tanh",
    "saturated clamp",
    "bins",
}
"""Operators that share their code with another one: tested with the slow ones."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SELDOM else name for name in MASKING]
)
def test_each_operator_is_found_in_its_module(name: str) -> None:
    function, operator = MASKING[name]
    findings = inspect_sample(wrap_model(Front(function)))
    assert ("front", operator) in {(finding.path, finding.operator) for finding in findings.operators}
    assert all(finding.path == "front" and finding.count >= 1 for finding in findings.operators)
    assert any(view.kind == "bpda" and view.paths == ("front",) for view in list_views(findings))


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pose = nn.Sequential(nn.Flatten(), nn.Linear(108, 6))
        nn.init.normal_(self.pose[1].weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        theta = torch.eye(2, 3) + 0.1 * self.pose(images).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 2, stride=2), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Sequential(nn.GELU(), nn.Linear(16, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(self.norm(tokens), tokens, tokens)
        return self.head((tokens + mixed).mean(dim=1))


def gate_by_mask(values: Tensor) -> Tensor:
    """A leaky rectifier written with masks, and one with `where`: continuous, whatever they look like."""
    gated = values * (values > 0).float() + 0.1 * values * (values <= 0)
    return torch.where(gated > 0.4, 0.4 + 0.5 * (gated - 0.4), gated)


def count_pixels(values: Tensor) -> Tensor:
    """Index arithmetic and logs beside the path of the values."""
    side = int(torch.tensor(values.shape[-1] / 2).floor().item())
    count_pixels.last = values.detach().round()
    return values.roll(side, dims=-1) / (values.shape[-1] // 2)


SOUND = {
    "convolutions": build_network,
    "batch norm and dropout": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.AvgPool2d(2), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(32, CLASSES),
    ),
    "smooth activations": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Tanh(),
        nn.Linear(32, CLASSES),
    ),
    "attention": Attention,
    "spatial transformer": lambda: nn.Sequential(SpatialTransformer(), build_network()),
    "normalization and resizing": lambda: Front(
        lambda images: F.interpolate((images - 0.5) / 0.2, size=(6, 6), mode="bilinear")
    ),
    "clamp": lambda: Front(lambda images: images.clamp(0.1, 0.9)),
    "gates written with masks": lambda: Front(gate_by_mask),
    "index arithmetic": lambda: Front(count_pixels),
    "log-softmax": lambda: nn.Sequential(build_network(), nn.LogSoftmax(dim=1)),
    "own backward": lambda: Front(TanhWithBackward.apply),
    "weight norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(108, CLASSES))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_in_sound_networks(name: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        model = SOUND[name]()
    findings = inspect_sample(wrap_model(model))
    assert findings.operators == ()
    assert findings.layers == ()
    assert not findings.optimizes_inside
    assert not findings.randomness.is_random
    assert findings.gradients.has_graph
    assert findings.gradients.cosine > 0.99
    assert findings.gradients.relative_error < 0.05
    assert [view for view in list_views(findings) if view.kind != "part"] == []
    is_fed_directly = name not in {"spatial transformer", "clamp", "gates written with masks", "own backward"}
    assert (findings.parts == ()) is is_fed_directly


@pytest.mark.slow
def test_the_cost_is_below_5_percent_of_autoattack_on_20_images() -> None:
    for function in (lambda values: values, lambda values: values.round(), keep_winners):
        images = build_images(20)
        findings = inspect_sample(wrap_model(Front(function)), images)
        assert findings.images == MAX_PROBE_IMAGES
        assert sum(findings.passes) < 0.05 * 20 * 7000 / 4
        assert findings.passes[0] >= 2 * DIRECTIONS * len(STEP_SIZES) * MAX_PROBE_IMAGES


def test_passes_count_at_the_real_classifier() -> None:
    classifier, images = wrap_model(Front(lambda values: values.round())), build_images()
    with classifier.count_passes(len(images)) as counter:
        findings = inspect_sample(classifier, images)
    forward = counter.forward_passes.sum() - len(images)  # one of them for the labels
    assert findings.passes == (int(forward), int(counter.backward_passes.sum()))


def test_findings_travel_as_json_and_pickle() -> None:
    findings = inspect_sample(wrap_model(Ensemble()))
    assert findings.parts
    assert ModelFindings.from_json(json.loads(json.dumps(findings.to_json()))) == findings
    assert pickle.loads(pickle.dumps(findings)) == findings
    views = list_views(findings)
    assert pickle.loads(pickle.dumps(views)) == views
    assert tuple(ViewSpec(**json.loads(json.dumps(asdict(view)))) for view in views) == views


class Ensemble(nn.Module):
    """Members in a plain list; the shares are probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = [build_network(0), build_network(0)]
        with torch.no_grad():
            self.networks[1][4].weight += 0.01

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([network(images).softmax(dim=1) for network in self.networks]).mean(dim=0)


def test_members_of_an_ensemble_are_found_in_lists_and_closures() -> None:
    members = [build_network(0), build_network(0)]

    def answer(images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in members]).mean(dim=0)

    for model, paths in ((Ensemble(), ["networks.0", "networks.1"]), (answer, ["members.0", "members.1"])):
        findings = inspect_sample(wrap_model(model))
        assert [(part.path, part.role) for part in findings.parts] == [(path, "member") for path in paths]
        assert all(part.agreement == 1 for part in findings.parts)
        labels = [view.label for view in list_views(findings) if view.kind == "part"]
        assert labels[0] == "transfer from the mean of all members"
        assert len(labels) == 3


def test_the_network_under_a_purifier_is_found_with_the_line_that_feeds_it() -> None:
    findings = inspect_sample(wrap_model(Front(lambda images: ((images * 4).round() / 4 - 0.5) * 2)))
    (part,) = findings.parts
    assert (part.path, part.role) == ("network", "base")
    assert part.input.slopes == pytest.approx((2.0, 2.0, 2.0), abs=0.1)
    assert part.input.offsets == pytest.approx((-1.0, -1.0, -1.0), abs=0.1)
    assert part.input.size is None


def test_a_part_that_disagrees_is_no_part() -> None:
    class Opposite(Front):
        def forward(self, images: Tensor) -> Tensor:
            return -self.network(images.round())

    assert inspect_sample(wrap_model(Opposite(None))).parts == ()


def test_gradients_that_vanish_or_break_are_measured() -> None:
    zero = inspect_sample(wrap_model(Front(lambda values: values.round()))).gradients
    assert (zero.zero_margin_share, zero.cosine, zero.surrogate_cosine) == (1.0, 0.0, 0.0)
    cut = inspect_sample(wrap_model(Front(lambda values: values.detach()))).gradients
    assert not cut.has_graph
    assert cut.cosine is None
    broken = inspect_sample(wrap_model(Front(lambda values: (values - values).sqrt() + values))).gradients
    assert broken.nonfinite_share == 1.0
    large = inspect_sample(wrap_model(Behind(lambda images: images, scale=1e5))).gradients
    assert large.zero_cross_entropy_share > 0.9
    assert large.tiny_cross_entropy_share >= large.zero_cross_entropy_share
    assert large.zero_margin_share == 0.0


def test_a_backward_pass_that_raises_is_a_finding() -> None:
    class Raising(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values * 1.0

        @staticmethod
        def backward(ctx, slope):
            raise RuntimeError("no gradients here")

    findings = inspect_sample(wrap_model(Front(Raising.apply)))
    assert "no gradients here" in findings.gradients.error
    assert findings.gradients.has_graph
    assert list_views(findings)[0].kind == "bpda"


def test_declared_surrogates_need_no_view() -> None:
    def quantize(values: Tensor) -> Tensor:
        return values + ((values * 8).round() / 8 - values).detach()

    findings = inspect_sample(wrap_model(Front(quantize)))
    assert findings.gradients.surrogate_cosine == pytest.approx(1.0)
    assert {finding.operator for finding in findings.operators} == {"round", "detach"}
    assert [view.kind for view in list_views(findings)] == ["part"]


def test_logits_and_probabilities_are_measured() -> None:
    plain = inspect_sample(wrap_model(build_network())).logits
    assert not plain.are_probabilities
    assert plain.saturated_share == 0
    softmax = inspect_sample(wrap_model(nn.Sequential(build_network(), nn.Softmax(dim=1))))
    assert softmax.logits.are_probabilities
    assert [view.kind for view in list_views(softmax)] == ["log"]
    large = inspect_sample(wrap_model(Behind(lambda images: images, scale=1e5)))
    assert large.logits.range > 1e5
    assert large.logits.saturated_share == 1
    assert [view.kind for view in list_views(large)] == ["rescaled"]


@pytest.mark.slow
def test_random_models_are_measured_with_the_draws_that_their_gradients_need() -> None:
    def draw(strength: float) -> RandomnessFindings:
        return inspect_sample(
            wrap_model(Behind(lambda images: images * (1 + strength * torch.randn_like(images))))
        ).randomness

    weak, strong = draw(0.05), draw(5.0)
    assert weak.is_random
    assert weak.is_repeated_by_seed
    assert 1 <= weak.draws < strong.draws <= 20
    assert strong.changed_labels > 0
    steady = inspect_sample(wrap_model(build_network())).randomness
    assert (steady.max_difference, steady.draws, steady.is_repeated_by_seed) == (0.0, 1, True)
    generator = np.random.default_rng(0)
    private = inspect_sample(
        wrap_model(Behind(lambda images: images + torch.from_numpy(generator.normal(size=1)).float()))
    ).randomness
    assert private.is_random
    assert not private.is_repeated_by_seed


def test_rounding_is_not_randomness() -> None:
    sides = [
        RandomnessFindings(max_difference=value, changed_labels=0, is_repeated_by_seed=True)
        for value in (MAX_ROUNDING_DIFFERENCE, 1.01 * MAX_ROUNDING_DIFFERENCE)
    ]
    assert [side.is_random for side in sides] == [False, True]


def test_an_optimization_inside_is_counted_for_its_model_alone() -> None:
    def purify(images: Tensor) -> Tensor:
        steps = images.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(steps.square().sum(), steps)
        return images - 0.05 * slope

    assert inspect_sample(wrap_model(Front(purify))).optimizes_inside
    assert not inspect_sample(wrap_model(Front(lambda values: values))).optimizes_inside


@pytest.mark.slow
def test_nothing_of_the_model_or_the_process_changes() -> None:
    class Counting(Front):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(images)

    model = Counting(lambda values: F.dropout(values.round(), 0.1))
    model.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    classifier, images = wrap_model(model), build_images()
    labels, calls = classifier(images).argmax(dim=1), model.calls
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    from robustbench_local.attacks.adaptive.inspection import inspect_model
    from robustbench_local.randomness import RandomStream

    stream = RandomStream(0, tuple(map(str, range(len(images)))), "inspection")
    first = inspect_model(classifier, images, labels, stream)
    assert model.training
    assert model.calls == calls  # a copy was asked
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not torch.nn.modules.module._has_any_global_hook()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert inspect_model(classifier, images, labels, stream) == first


@pytest.mark.slow
def test_layers_are_located_innermost_and_only_where_gradients_fail() -> None:
    class Nested(nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), FunctionLayer(function))
            self.network = build_network()

        def forward(self, images: Tensor) -> Tensor:
            return self.network(self.stem(images))

    kinds = {
        "zero": lambda values: (values * 3).round() / 3,
        "cut": quantize_in_numpy,
        "contradicted": RandomBackward.apply,
    }
    for kind, function in kinds.items():
        findings = inspect_sample(wrap_model(Nested(function)))
        assert [(layer.path, layer.kind, layer.keeps_shape) for layer in findings.layers] == [
            ("stem.1", kind, True)
        ]
        assert findings.layers[0].inputs == 108
        assert any(view.bypassed == ("stem.1",) for view in list_views(findings))


@pytest.mark.parametrize(
    ("unit", "fault"),
    [
        (lambda values: values.relu(), None),
        (lambda values: values * 0 + 1, None),
        (lambda values: F.max_pool1d(values, 2), None),
        (lambda values: (values * 2).round(), "zero"),
        (lambda values: values.detach(), "cut"),
        (lambda values: (values - values).sqrt() + values, "nonfinite"),
        (RandomBackward.apply, "contradicted"),
        (TanhWithBackward.apply, None),
    ],
)
def test_a_layer_is_compared_with_its_own_differences(unit, fault) -> None:
    values = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert find_local_fault(unit, values) == fault


@pytest.mark.slow
def test_a_wrapped_classifier_is_inspected_inside_and_can_be_attacked_without_its_wrapper() -> None:
    inner = Classifier(build_network(), num_classes=CLASSES, channels=SHAPE[0])
    findings = inspect_sample(BitDepth(bits=3).wrap(inner))
    assert findings.is_wrapped
    assert findings.operators == ()
    assert findings.layers == ()
    assert [view.kind for view in list_views(findings)][-1] == "undefended"
    noisy = inspect_sample(GaussianNoise(sigma=0.1).wrap(inner))
    assert noisy.gradients.cosine > 0.99
    assert not noisy.randomness.is_random  # its draws belong to the point


def test_models_without_gradients_have_findings_too() -> None:
    linear = build_linear()
    scores = Classifier(lambda images: linear(images.flatten(1)), num_classes=CLASSES)
    findings = inspect_sample(scores)
    assert not findings.gradients.has_graph
    assert findings.gradients.error == "gives scores only"
    assert list_views(findings) == ()
    assert findings.passes[1] == 0


def test_saturation_of_the_softmax_counts_only_where_the_margin_has_a_gradient() -> None:
    findings = inspect_sample(wrap_model(Front(lambda values: values.round())))
    assert findings.gradients.zero_cross_entropy_share == 1
    assert not has_extreme_logits(findings)


def test_models_that_hold_themselves_or_answer_a_constant_are_inspected() -> None:
    class Circular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.owners = build_network(), [self]
            self.owners.append(self.owners)

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images)

    assert list_views(inspect_sample(wrap_model(Circular()))) == ()
    constant = inspect_sample(wrap_model(lambda images: torch.zeros(len(images), CLASSES)))
    assert not constant.gradients.has_graph
    assert "no gradient path" in constant.surrogate_error
    assert list_views(constant) == ()


@pytest.mark.parametrize(
    ("cosine", "error", "is_unsound"),
    [
        (MIN_COSINE, 0.0, False),
        (MIN_COSINE - 1e-3, 0.0, True),
        (1.0, MAX_RELATIVE_ERROR, False),
        (1.0, MAX_RELATIVE_ERROR + 1e-3, True),
        (None, None, False),
    ],
)
def test_gradients_are_unsound_beyond_the_limits(cosine, error, is_unsound) -> None:
    gradients = GradientFindings(has_graph=True, cosine=cosine, relative_error=error)
    assert are_gradients_unsound(gradients) is is_unsound


@pytest.mark.parametrize(("share", "is_unsound"), [(MIN_FAULT_SHARE - 1e-4, False), (MIN_FAULT_SHARE, True)])
def test_a_share_of_vanishing_gradients_is_unsound_from_its_limit_on(share, is_unsound) -> None:
    sound = {"has_graph": True, "cosine": 1.0, "relative_error": 0.0}
    assert are_gradients_unsound(GradientFindings(**sound, zero_margin_share=share)) is is_unsound
    assert are_gradients_unsound(GradientFindings(**sound, nonfinite_share=share)) is is_unsound
    assert are_gradients_unsound(GradientFindings(has_graph=True, tiny_margin_share=share)) is is_unsound


@pytest.mark.parametrize(
    ("share", "is_saturated"), [(MIN_SATURATED_SHARE - 0.02, False), (MIN_SATURATED_SHARE + 0.02, True)]
)
def test_activations_are_saturated_from_a_share_of_their_units_on(share, is_saturated) -> None:
    def saturate(values: Tensor) -> Tensor:
        count = round(share * 108)
        factors = torch.where(torch.arange(108) < count, 1e3, 1.0).view(1, *SHAPE)
        return torch.sigmoid((values + 0.5) * factors)

    operators = {finding.operator for finding in inspect_sample(wrap_model(Front(saturate))).operators}
    assert operators == ({"saturated sigmoid"} if is_saturated else set())
