from __future__ import annotations

import pytest
import torch

from robustbench_local.errors import ConfigError
from robustbench_local.models.networks.network_registry import (
    ARCHITECTURES,
    build_network,
    find_architecture,
    fixed_initial_weights,
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_images_of_its_own_size(name: str) -> None:
    architecture = find_architecture(name)
    network, wide = build_network(name), build_network(name, 7)
    images = torch.rand(2, *architecture.input_shape)
    with torch.no_grad():
        assert network(images).shape == (2, architecture.num_classes)
        assert wide(images).shape == (2, 7)
    assert not network.training
    assert architecture.normalize is None or len(architecture.normalize[0]) == architecture.input_shape[0]


def test_initial_weights_are_always_the_same_and_cost_nobody_a_random_number() -> None:
    state = torch.get_rng_state()
    one, two = build_network("mnist_fast").state_dict(), build_network("mnist_fast").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_fixed_start_is_seed_zero() -> None:
    with fixed_initial_weights():
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown architecture 'mnist_fats'. Did you mean mnist_fast"):
        build_network("mnist_fats")
