"""Backward passes to the pixels, and the graph that they go through."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from robustbench_local.classifier.autograd_graph import walk_graph
from robustbench_local.classifier.input_gradient import (
    compute_input_gradient,
    differentiate_model,
    explain_missing_gradient,
    uses_reentrant_checkpoints,
)
from robustbench_local.errors import InvariantError, ModelError


def leaf():
    return torch.full((2, 1, 2, 2), 0.5, requires_grad=True)


def test_every_operation_of_a_graph_is_met_once():
    images = leaf()
    squares = images * images
    names = [type(node).__name__ for node in walk_graph((squares + squares).sum())]
    assert sorted(names) == ["AccumulateGrad", "AddBackward0", "MulBackward0", "SumBackward0"]
    assert list(walk_graph(torch.zeros(2))) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_reentrant_checkpoints_are_seen(reentrant):
    losses = checkpoint(lambda x: (x * x).flatten(1).sum(dim=1), leaf(), use_reentrant=reentrant)
    assert uses_reentrant_checkpoints(losses) is reentrant


@pytest.mark.parametrize("whole", [True, False])
def test_each_column_of_losses_has_a_gradient_of_its_own(whole):
    images = leaf()
    sums = images.flatten(1).sum(dim=1)
    found = compute_input_gradient(torch.stack([sums, 3 * sums], dim=1), images, full_backward=whole)
    assert found.shape == (2, 2, 1, 2, 2)
    assert (found[:, 0] == 1).all()
    assert (found[:, 1] == 3).all()


def raising(error):
    def backward(_slope):
        raise error

    images = leaf()
    losses = (2 * images).flatten(1).sum(dim=1)
    losses.register_hook(backward)
    return losses, images


def test_what_a_backward_pass_raises_is_an_error_of_the_model():
    with pytest.raises(ModelError, match="its backward pass raised KeyError"):
        differentiate_model(*raising(KeyError("lost")), full_backward=False, name="net")


@pytest.mark.parametrize("error", [InvariantError("ours"), MemoryError()])
def test_our_own_errors_and_lack_of_memory_are_not(error):
    with pytest.raises(type(error)):
        differentiate_model(*raising(error), full_backward=False, name="net")


@pytest.mark.parametrize(
    ("access", "words"), [("scores", "gives scores only"), ("gradients", "no gradient path")]
)
def test_missing_gradients_are_explained(access, words):
    assert words in explain_missing_gradient(access, "net").what
