"""Networks read by tracing: what comes out equals the module, and what cannot be bounded is named."""

from __future__ import annotations

import operator

import bound_samples as samples
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_local.certification.bound_propagation.graph import check_layers, trace_network
from robustbench_local.errors import ModelError
from robustbench_local.models.networks.signs_resnet import signs_resnet
from robustbench_local.models.networks.small_networks import ResNet2b, SmallCNN, strided_cnn


class Function(nn.Module):
    """A function of the images behind a convolution, then a linear layer."""

    def __init__(self, function, features: int) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.register_buffer("steep", torch.tensor(0.2))
        self.register_buffer("image", torch.ones(1, 2, 4, 4))
        self.register_buffer("each", torch.ones(2, 1, 1, 1))
        self.mix = nn.Linear(2, 2)
        self.head = nn.Linear(features, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.function(self.conv(images), self).flatten(1))


KNOWN = {
    "avg_pool2d": (lambda x, _: functional.avg_pool2d(x, 3, stride=2, padding=1), 8),
    "torch.mean": (lambda x, _: torch.mean(x, dim=(2, 3)), 2),
    "mean kept": (lambda x, _: x.mean([2, 3], keepdim=True), 2),
    "leaky_relu": (lambda x, _: functional.leaky_relu(x, 0.2), 32),
    "view": (lambda x, _: x.view(x.size(0), -1), 32),
    "reshape": (lambda x, _: x.reshape(x.shape[0], 16, 2), 32),
    "a layer's constant": (lambda x, m: x + m.mix(m.scale).view(1, -1, 1, 1), 32),
    "parameters": (lambda x, m: x * m.scale.view(1, -1, 1, 1) + m.scale.view(-1, 1, 1), 32),
    "numbers": (lambda x, _: (1.0 - x) / 0.5 + 2, 32),
    "difference": (lambda x, _: x.relu() - torch.relu(-1 * x), 32),
    "in place": (lambda x, _: operator.iadd(x.relu_(), 1.0), 32),
    "itself": (lambda x, _: x + x, 32),
    "squeeze": (lambda x, _: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), 2),
    "dropout": (lambda x, m: functional.dropout(x, 0.5, m.training), 32),
    "a size": (lambda x, _: x / x.size(2) + x.shape[-1] * x.ndim, 32),
    "as many as a size": (lambda x, _: x + torch.arange(x.size(3), dtype=x.dtype, device=x.device), 32),
    "a window of a size": (lambda x, _: functional.avg_pool2d(x, x.size(3)), 2),
    "axes from a size": (lambda x, _: x.mean((x.dim() - 2, 3)), 2),
}
"""Functions that have bounds, and how many features they leave."""
UNKNOWN = {
    "max_pool2d": (lambda x, _: functional.max_pool2d(x, 2), 8, "max_pool2d"),
    "sigmoid": (lambda x, _: torch.sigmoid(x), 32, "sigmoid"),
    "method": (lambda x, _: x.exp(), 32, "exp"),
    "product": (lambda x, _: x * x, 32, "mul of two nodes"),
    "broadcast": (lambda x, _: x + x.mean([2, 3], keepdim=True), 32, "add of two nodes"),
    "division": (lambda x, _: 1 / x, 32, "divides by the images"),
    "batch": (lambda x, _: x.reshape(-1, 16), 16, "mixes the images"),
    "uneven": (lambda x, _: functional.adaptive_avg_pool2d(x, 3), 18, "windows of unequal size"),
    "ceil": (lambda x, _: functional.avg_pool2d(x, 3, ceil_mode=True), 8, "ceil_mode"),
    "channels": (lambda x, _: x.mean(1), 16, "mean over other axes"),
    "keyword": (lambda x, _: torch.add(x, other=x), 32, "as a keyword"),
    "list": (lambda x, _: torch.cat([x, x], 1), 64, "in a list"),
    "scaled": (lambda x, _: torch.add(x, x, alpha=2), 32, "without exactly two arguments"),
    "slope": (lambda x, _: functional.leaky_relu(x, 2.0), 32, "slope 2"),
    "tensor slope": (lambda x, m: functional.leaky_relu(x, m.steep), 32, "slope is a tensor"),
    "trained slope": (lambda x, m: functional.leaky_relu(x, m.scale[0]), 32, "raises TypeError"),
    "count": (lambda x, _: x / x.size(0), 32, "truediv depends on the number of images"),
    "counted": (lambda x, _: x + torch.ones(4).view(x.size(0), 2).sum(), 32, "the number of images"),
    "more channels": (
        lambda x, m: x.mean([2, 3], keepdim=True) + m.image,
        32,
        "add of values (2, 1, 1) and a constant (1, 2, 4, 4)",
    ),
    "one an image": (lambda x, m: x * m.each, 32, "mul of values (2, 4, 4) and a constant (2, 1, 1, 1)"),
    "numbers of pixels": (lambda x, _: x + torch.ones(4) * x.stride(0), 32, "is the operation stride"),
    "pieces": (lambda x, _: x.chunk(2, 1)[0], 16, "is the operation chunk"),
    "decision": (lambda x, _: x if x.sum() > 0 else -x, 32, "cannot be traced"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_function_with_bounds_computes_what_the_module_does(name: str):
    function, features = KNOWN[name]
    module = samples.build_seeded_network(lambda: Function(function, features))
    images = samples.draw_images(3)
    with torch.no_grad():
        expected = module.double()(images.double())
        torch.testing.assert_close(trace_network(module, samples.IMAGE_SHAPE)(images.double()), expected)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_function_without_bounds_is_named_in_one_line(name: str):
    function, features, expected = UNKNOWN[name]
    with pytest.raises(ModelError) as caught:
        trace_network(
            samples.build_seeded_network(lambda: Function(function, features)),
            samples.IMAGE_SHAPE,
            name="mine",
        )
    text = str(caught.value)
    assert text.startswith("mine: ")
    assert expected in text
    assert "\n" not in text


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MaxPool2d(2), "1 is a MaxPool2d"),
        (nn.Sequential(nn.Identity(), nn.GELU()), "1.1 is a GELU"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode reflect"),
        (nn.Conv2d(1, 1, 2, padding="same"), "padded on one side"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "count_include_pad=False"),
        (nn.BatchNorm2d(1, track_running_stats=False), "without running statistics"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_layer_without_bounds_is_named_with_its_place(layer: nn.Module, expected: str):
    module = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), layer, nn.Flatten(), nn.LazyLinear(2))
    module.eval()(samples.draw_images(2))
    with pytest.raises(ModelError, match=expected):
        trace_network(module, samples.IMAGE_SHAPE)


def test_a_layer_is_refused_before_the_images_are_known():
    check_layers(ResNet2b(), "mine")
    with pytest.raises(ModelError, match=r"mine: feature_extractor\.pool1 is a MaxPool2d.*smoothing"):
        check_layers(SmallCNN(), "mine")


@pytest.mark.parametrize("name", ["max_pool2d", "sigmoid", "method", "pieces"])
def test_a_function_that_images_meet_is_refused_before_they_are_known(name: str):
    function, features, expected = UNKNOWN[name]
    with pytest.raises(ModelError, match=f"^mine: .* is the operation {expected.split()[-1]}, for which"):
        check_layers(Function(function, features), "mine")


@pytest.mark.parametrize("name", KNOWN)
def test_what_has_bounds_is_not_refused_before_the_images_are_known(name: str):
    check_layers(Function(*KNOWN[name]), "mine")


def test_what_only_constants_meet_needs_no_bounds():
    check_layers(Function(lambda x, m: x * torch.softmax(m.scale, 0).exp().view(1, -1, 1, 1), 32), "mine")


def test_a_constant_follows_its_parameter_and_keeps_what_it_read_off_shapes():
    module = samples.build_seeded_network(
        lambda: Function(lambda x, m: x / x.size(2) * m.scale[0], 32)
    ).double()
    graph = trace_network(module, samples.IMAGE_SHAPE)
    with torch.no_grad():
        module.scale.mul_(3)
        images = samples.draw_images(5).double()
        torch.testing.assert_close(graph(images), module(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, (1, 3), padding="valid"),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d((2, 4)),
        nn.LeakyReLU(0.3),
        nn.Dropout2d(),
        nn.BatchNorm2d(2, affine=False),
        nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(2)),
    ],
    ids=str,
)
def test_a_layer_with_bounds_computes_what_the_module_does(layer: nn.Module):
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), layer, nn.Flatten(), nn.LazyLinear(2)).eval()
    images = samples.draw_images(3)
    expected = module(images)
    torch.testing.assert_close(
        trace_network(module, samples.IMAGE_SHAPE)(images), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (strided_cnn, (1, 28, 28)),
        (ResNet2b, (3, 32, 32)),
        (signs_resnet, (3, 32, 32)),
    ],
)
def test_our_own_networks_are_read(make, shape: tuple[int, int, int]):
    module, images = samples.build_seeded_network(make), samples.draw_images(2, shape)
    with torch.no_grad():
        torch.testing.assert_close(trace_network(module, shape)(images), module(images), rtol=1e-3, atol=1e-3)


def test_tracing_leaves_the_module_as_it_was():
    module = samples.ResidualNetwork().train()
    module.drop.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace_network(module, samples.IMAGE_SHAPE)
    assert module.training
    assert module.norm.training
    assert not module.drop.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_value_changed_in_place_behind_the_traces_back_is_refused():
    def spoiled(x: Tensor, _: nn.Module) -> Tensor:
        functional.relu(x, inplace=True)
        return x

    with pytest.raises(ModelError, match="does not compute what its layers describe"):
        trace_network(samples.build_seeded_network(lambda: Function(spoiled, 32)), samples.IMAGE_SHAPE)


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda self, x: (self.head(x.flatten(1)), x), "not return a single tensor of logits"),
        (lambda self, x: x, "Return logits"),
        (lambda self, x, y: x, "second input"),
    ],
)
def test_a_forward_of_another_form_is_refused(forward, expected: str):
    kind = type("Odd", (nn.Module,), {"forward": forward})
    module = kind()
    module.head = nn.Linear(16, 2)
    with pytest.raises(ModelError, match=expected):
        trace_network(module, samples.IMAGE_SHAPE)
