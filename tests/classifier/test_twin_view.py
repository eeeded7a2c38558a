"""The view of an artefact with its twin's gradients: answers, losses, scales, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.attacks.core.losses import compute_cross_entropy
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.twin_view import (
    TwinView,
    exchange_largest,
    names_only_label,
    rescale_probabilities,
)
from robustbench_local.errors import ConfigError

IMAGES = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def make_network(seed: int) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network.eval()


def make_pair(access: str = "scores", answer=lambda logits: logits) -> tuple[Classifier, Classifier]:
    network, twin = make_network(2), make_network(3)
    artefact = Classifier(lambda images: answer(network(images)), num_classes=3, access=access, name="file")
    return artefact, Classifier(twin, num_classes=3, name="float")


def loss(logits: torch.Tensor) -> torch.Tensor:
    return compute_cross_entropy(logits, LABELS)


def test_answers_are_the_artefacts_and_slopes_go_through_the_twin():
    artefact, twin = make_pair()
    view = TwinView(artefact, twin)
    own, other = artefact(IMAGES), twin(IMAGES).detach()
    leaf = IMAGES.clone().requires_grad_()
    slopes = torch.softmax(own, dim=1) - nn.functional.one_hot(LABELS, 3)
    expected = torch.autograd.grad((twin(leaf) * slopes).sum(), leaf)[0]
    with view.count_passes(5) as spent, twin.count_passes(5) as twin_spent:
        logits, losses, gradient = view.compute_gradient(IMAGES, loss)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(losses, loss(own))
    assert torch.equal(logits, own)
    assert not torch.equal(own.argmax(1), other.argmax(1))
    assert spent.forward_passes.tolist() == twin_spent.forward_passes.tolist() == [1] * 5
    assert (spent.backward_passes.tolist(), twin_spent.backward_passes.tolist()) == ([0] * 5, [1] * 5)
    # an attack of another library differentiates the answers themselves
    answers = view(leaf)
    torch.testing.assert_close(answers, own)
    torch.testing.assert_close(torch.autograd.grad((answers * slopes).sum(), leaf)[0], expected)
    module = view.as_module()
    torch.testing.assert_close(torch.autograd.grad((module(leaf) * slopes).sum(), leaf)[0], expected)
    assert view.take_external_passes() == (5, 5)


def test_the_loss_of_the_twin_is_followed_by_itself():
    artefact, twin = make_pair()
    view = TwinView(artefact, twin).differentiate_at("twin")
    logits, losses, gradient = view.compute_gradient(IMAGES, loss)
    _, known_losses, known_gradient = twin.compute_gradient(IMAGES, loss)
    assert torch.equal(logits, artefact(IMAGES))
    assert torch.equal(losses, known_losses)
    assert torch.equal(gradient, known_gradient)


def test_labels_become_logits_of_the_twin_with_the_artefacts_decision():
    artefact, twin = make_pair("labels", lambda logits: logits.argmax(dim=1))
    images = 3 * torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(2)) - 1
    view = TwinView(artefact, twin)
    answers, known = view(images), twin(images).detach()
    assert torch.equal(answers.argmax(1), artefact(images).argmax(1))
    torch.testing.assert_close(answers.sort(dim=1).values, known.sort(dim=1).values)
    agree = answers.argmax(1) == known.argmax(1)
    assert agree.any()
    assert not agree.all()
    assert torch.equal(answers[agree], known[agree])
    assert torch.equal(view.compute_gradient(images, lambda logits: logits.square().sum(dim=1))[0], answers)
    broken = exchange_largest(known, torch.full_like(known, torch.nan))
    assert broken.isnan().all()


def test_probabilities_are_read_as_their_logarithms():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.2, 0.5, 0.1]])
    rescaled = rescale_probabilities(logits.softmax(dim=1))
    torch.testing.assert_close(rescaled, logits.log_softmax(dim=1))
    assert torch.equal(rescale_probabilities(logits), logits)
    quantised = torch.tensor([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
    rescaled = rescale_probabilities(quantised)
    torch.testing.assert_close(rescaled[:, 2].exp(), torch.tensor([0.125, 0.5]))
    assert torch.equal(rescaled.argsort(dim=1, stable=True), quantised.argsort(dim=1, stable=True))


@pytest.mark.parametrize(("total", "is_read"), [(0.979, False), (0.981, True), (1.019, True), (1.021, False)])
def test_rows_of_probabilities_add_up_to_one_but_for_rounding(total, is_read):
    scores = torch.tensor([[0.5, 0.3, total - 0.8]])
    assert torch.equal(rescale_probabilities(scores), scores) is not is_read


class _Random(RandomizedClassifier):
    @property
    def identity(self) -> str:
        return "random"

    def sample(self, images, numbers):
        return self.inner(images)


def test_what_cannot_be_a_twin_is_refused():
    artefact, twin = make_pair()
    with pytest.raises(ConfigError, match="'file' gives scores only, and a search needs its gradients"):
        TwinView(twin, artefact)
    wide = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), num_classes=4, name="wide")
    with pytest.raises(ConfigError, match="'wide' has 4 classes, the artefact has 3"):
        TwinView(artefact, wide)
    with pytest.raises(ConfigError, match="'float' draws random numbers"):
        TwinView(artefact, _Random(twin))


def test_both_are_configured_moved_and_identified_together():
    artefact, twin = make_pair()
    view = TwinView(artefact, twin)
    assert view.to("cpu") is view
    with view.evaluation_mode(), view.use_batch_size(3):
        assert (artefact.settings.batch_size, twin.settings.batch_size) == (3, 3)
    assert (artefact.settings.batch_size, twin.settings.batch_size) == (None, None)
    other = TwinView(artefact, Classifier(make_network(4), num_classes=3, name="float"))
    assert view.compute_digest() != other.compute_digest() != artefact.compute_digest()
    with view.evaluation_mode(), view.open_fresh_copy() as copy:
        assert torch.equal(copy(IMAGES), artefact(IMAGES))


@pytest.mark.parametrize(
    "saturate",
    [
        lambda logits: nn.functional.one_hot(logits.argmax(dim=1), 3).float(),
        lambda logits: 87.3 * (nn.functional.one_hot(logits.argmax(dim=1), 3) - 1.0),
    ],
    ids=["probabilities", "logarithms"],
)
def test_saturated_answers_leave_the_order_of_the_other_classes_to_the_twin(saturate):
    artefact, twin = make_pair(answer=saturate)
    logits, losses, gradient = TwinView(artefact, twin).compute_gradient(IMAGES, loss)
    expected = exchange_largest(twin(IMAGES).detach(), artefact(IMAGES))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(losses, loss(expected))
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 1e-3).all())  # of the saturated loss it vanishes


def test_only_ties_among_three_classes_or_more_tell_nothing_but_the_label():
    rows = torch.tensor([[0.0, -87.0, -87.0], [0.0, -5.0, -87.0], [0.5, 0.25, 0.25], [1.0, 1.0, 0.0]])
    assert names_only_label(rows).tolist() == [True, False, True, False]
    assert names_only_label(rows[:, :2]).tolist() == [False] * 4
