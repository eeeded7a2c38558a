"""The network behind its preprocessing: what it refuses, and that bounds can read it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robustbench_local.certification.bound_propagation.bounds import compute_ibp_bounds
from robustbench_local.certification.bound_propagation.graph import trace_network
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.defenses.training.initial_networks import NormalizedNetwork, load_initial_network
from robustbench_local.errors import ModelError


def test_bounds_read_the_network_together_with_its_normalisation():
    start = load_initial_network("signs_cnn", num_classes=5, seed=0)
    graph = trace_network(copy.deepcopy(start.module), (3, 32, 32))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(graph(images), start.module(images))
    lower, upper = compute_ibp_bounds(graph, images, images)
    torch.testing.assert_close((lower + upper) / 2, start.module(images), rtol=1e-4, atol=1e-5)


class _Two(nn.Module):
    def forward(self, images):
        return images.flatten(1), images


@pytest.mark.parametrize(("network", "what"), [(nn.Conv2d(3, 2, 3), "Tensor"), (_Two(), "tuple")])
def test_a_network_that_does_not_return_logits_is_refused(network, what):
    with pytest.raises(ModelError, match=f"returns a {what} in training, not logits"):
        NormalizedNetwork(network, InputContract())(torch.rand(2, 3, 4, 4))
