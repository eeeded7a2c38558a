"""Fresh copies: the model as it was before its first question, whatever it keeps and wherever it keeps it."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.fresh_copy import OriginalState
from robustbench_local.classifier.hidden_state import describe_state, find_external_values
from robustbench_local.defenses.wrappers.wrapper_registry import build_wrapper

IMAGES = torch.full((2, 3, 4, 4), 0.5)
LOG: list[int] = []
TOTAL = 0


class Keeper(nn.Module):
    """Adds to its answer how often it was called, as some place says."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale + self.count()


class InBuffer(Keeper):
    def count(self):
        self.steps += 1
        return self.steps.clone()


class InAttribute(Keeper):
    calls = None

    def count(self):
        self.calls = [*(self.calls or []), 1]
        return len(self.calls)


class InClass(Keeper):
    def count(self):
        type(self).made_later = getattr(type(self), "made_later", 0) + 1
        return self.made_later


class InGlobalList(Keeper):
    def count(self):
        LOG.append(1)
        return len(LOG)


class InGlobalNumber(Keeper):
    def count(self):
        global TOTAL  # noqa: PLW0603
        TOTAL += 1
        return TOTAL


class InDefault(Keeper):
    def count(self, calls=[]):  # noqa: B006
        calls.append(1)
        return len(calls)


class InFunction(Keeper):
    def count(self):
        InFunction.count.calls = getattr(InFunction.count, "calls", 0) + 1
        return InFunction.count.calls


def _helper():
    LOG.append(1)
    return len(LOG)


class InHelper(Keeper):
    def count(self):
        return _helper()


def in_closure():
    calls = []

    def count(self):
        calls.append(1)
        return len(calls)

    return type("InClosure", (Keeper,), {"count": count, "__module__": __name__})()


def in_cache():
    @functools.cache
    def known(first):
        return [0]

    def count(self):
        calls = known(1)
        calls[0] += 1
        return calls[0]

    return type("InCache", (Keeper,), {"count": count, "__module__": __name__})()


def in_hook():
    network, calls = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), []

    def hook(module, given, answer):
        calls.append(1)
        return answer + len(calls)

    network.register_forward_hook(hook)
    return network


KEEPERS = [
    InBuffer, InAttribute, InClass, InGlobalList, InGlobalNumber, InDefault, InFunction, InHelper,
    in_closure, in_cache, in_hook,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _emptied(monkeypatch):
    monkeypatch.setitem(globals(), "LOG", [])
    monkeypatch.setitem(globals(), "TOTAL", 0)


@pytest.mark.parametrize("make", KEEPERS)
def test_a_fresh_copy_remembers_nothing_and_leaves_the_model_alone(make):
    classifier = Classifier(make(), num_classes=3)
    with classifier.evaluation_mode(), torch.no_grad():
        first, second = classifier(IMAGES), classifier(IMAGES)
        for _ in range(2):
            with classifier.open_fresh_copy() as fresh:
                assert fresh is not classifier
                assert torch.equal(fresh(IMAGES), first)
                assert torch.equal(fresh(IMAGES), second)
        if make is not in_cache:  # which can only be emptied
            assert torch.allclose(classifier(IMAGES), second + (second - first))


def test_copies_share_parameters_and_nothing_else():
    network = InBuffer()
    classifier = Classifier(network, num_classes=3)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert fresh.module.scale is network.scale
        assert fresh.module.steps is not network.steps
        assert not fresh.module.training


def test_what_its_owner_changes_between_two_evaluations_counts():
    class Tempered(nn.Module):
        temperature = 1.0

        def forward(self, images):
            return images.mean((2, 3)) / self.temperature

    network = Tempered()
    classifier = Classifier(network, num_classes=3)
    with classifier.evaluation_mode():
        classifier(IMAGES)
    network.temperature = 2.0
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert torch.equal(fresh(IMAGES), classifier(IMAGES))


def test_what_an_evaluation_leaves_behind_does_not():
    classifier = Classifier(InAttribute(), num_classes=3)
    with classifier.evaluation_mode():
        first = classifier(IMAGES)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert not torch.equal(classifier(IMAGES), first)
        assert torch.equal(fresh(IMAGES), first)


def test_a_model_that_cannot_be_copied_judges_itself_with_a_note():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("there is only one of me")

    classifier = Classifier(nn.Sequential(nn.Flatten(), Stubborn(48, 3)), num_classes=3)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert fresh is classifier
    assert "cannot be copied (TypeError: there is only one of me)" in classifier.notes[-1]


def test_copies_share_what_nobody_can_copy():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    network[1].lock = threading.Lock()
    classifier = Classifier(network, num_classes=3)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert fresh.module[1] is not network[1]
        assert fresh.module[1].lock is network[1].lock
        assert classifier.uncopied_attributes == {"1.lock"}


def test_a_wrapper_is_copied_around_its_model():
    defended = build_wrapper("bit-depth", {"bits": 3}).wrap(Classifier(InAttribute(), num_classes=3))
    with defended.evaluation_mode(), torch.no_grad():
        first = defended(IMAGES)
        defended(IMAGES)
        with defended.open_fresh_copy() as fresh, fresh.count_passes(2) as meter:
            assert torch.equal(fresh(IMAGES), first)
            assert meter.forward_passes.tolist() == [1, 1]
            assert fresh.notes is defended.notes


def test_a_classifier_that_forgets_answers_each_call_afresh():
    classifier = Classifier(InAttribute(), num_classes=3)
    classifier.configure(uses_fresh_copies=True)
    with classifier.evaluation_mode():
        assert torch.equal(classifier(IMAGES), classifier(IMAGES))
        _, _, slope = classifier.compute_gradient(IMAGES, lambda logits: logits.sum(dim=1))
        assert float(slope.abs().min()) > 0


def test_batches_of_a_fixed_size_are_filled_up():
    sizes = []

    class Watched(nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return images.mean((2, 3))

    classifier = Classifier(Watched(), num_classes=3)
    images = torch.rand(7, 3, 4, 4)
    expected = classifier(images)
    sizes.clear()
    classifier.configure(fixed_batch_size=3)
    assert torch.allclose(classifier(images), expected)
    assert sizes == [3, 3, 3]
    assert classifier(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("make", [InBuffer, InAttribute, InGlobalList, InGlobalNumber, InClass, InDefault])
def test_descriptions_of_state_differ_after_a_call(make):
    network = make()
    places = find_external_values(network)
    before = describe_state(network, places)
    assert describe_state(network, places) == before
    network(IMAGES)
    assert describe_state(network, places) != before


def test_layers_of_torch_are_copied_as_deepcopy_does():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.Flatten(2), nn.LSTM(4, 3, batch_first=True),
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 6, 6)
    with OriginalState(layers).open_copy() as twin:
        assert torch.equal(twin(images)[0], layers(images)[0])
        assert not {id(part) for part in twin.modules()} & {id(part) for part in layers.modules()}


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*script")
def test_torchscript_with_weights_that_can_be_trained_is_copied():
    network = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    assert all(weight.requires_grad for weight in network.parameters())
    classifier = Classifier(network, num_classes=3)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as twin:
        assert twin is not classifier
        assert torch.equal(twin(IMAGES), classifier(IMAGES))
        assert not any(weight.requires_grad for weight in twin.module.parameters())
    assert all(weight.requires_grad for weight in network.parameters())
