"""The network of the shipped weights: its size, its shapes, what it depends on."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.models.networks.signs_resnet import (
    CHANNEL_MEAN,
    CHANNEL_STD,
    INPUT_SHAPE,
    NUM_CLASSES,
    signs_resnet,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return signs_resnet().eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, *INPUT_SHAPE, generator=torch.Generator().manual_seed(1))


def test_logits_have_a_column_for_each_of_the_43_classes(network, images):
    assert network(images).shape == (5, NUM_CLASSES) == (5, 43)


def test_weights_stay_below_one_megabyte(network):
    assert sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()) < 1_000_000


def test_another_number_of_classes():
    assert signs_resnet(7).eval()(torch.zeros(2, *INPUT_SHAPE)).shape == (2, 7)


def test_in_evaluation_an_image_does_not_see_its_batch(network, images):
    alone = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(network(images), alone, atol=1e-5)


def test_every_parameter_matters(network, images):
    network.zero_grad()
    network(images).square().sum().backward()
    unused = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    network.zero_grad()
    assert unused == []


def test_where_a_stroke_lies_reaches_the_logits(network):
    """Mirror images of each other must be told apart: the head sees four quarters, not one average."""
    image = torch.zeros(1, *INPUT_SHAPE)
    image[..., :16] = 1
    assert not torch.allclose(network(image), network(image.flip(-1)), atol=1e-3)


def test_the_declared_normalisation_fits_the_channels():
    assert len(CHANNEL_MEAN) == len(CHANNEL_STD) == INPUT_SHAPE[0]
    assert min(CHANNEL_STD) > 0
