"""``attack``: adversarial examples as tensors, and what may be given to it."""

from __future__ import annotations

import doctest
import importlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.errors import CardError, ConfigError, DataError, ModelError, RobustbenchError


@pytest.mark.parametrize(
    "module", ["attacks.base", "evaluation.adversarial_examples", "evaluation.certify", "evaluation.evaluate"]
)
def test_the_examples_of_docstrings_run(module):
    tried = doctest.testmod(importlib.import_module(f"robustbench_local.{module}"))
    assert tried.attempted > 3
    assert tried.failed == 0


def test_an_attack_by_card_method_class_and_instance_gives_the_same_images(linear, data):
    given = {"norm": "Linf", "eps": "4/255"}
    results = [
        rbl.attack(linear, data.images, data.labels, "fgsm-linf-8", eps="4/255"),
        rbl.attack(linear, data.images, data.labels, "fgsm", **given),
        rbl.attack(linear, data.images, data.labels, rbl.FGSM, **given),
        rbl.attack(linear, data.images, data.labels, rbl.FGSM(), **given),
        rbl.FGSM()(linear, data.images, data.labels, **given),
        rbl.attack(linear, data.images.numpy(), data.labels.tolist(), "fgsm", **given),
    ]
    for images, success in results:
        assert torch.equal(images, results[0].images)
        assert torch.equal(success, results[0].success)
    assert "with success" in repr(results[0])


def test_success_is_what_the_classifier_says_of_the_images_within_the_ball(linear, data):
    images, success = rbl.attack(linear, data.images, data.labels, "pgd", steps=5, eps="4/255", norm="Linf")
    wrong = linear(images).argmax(1) != data.labels
    assert torch.equal(success, wrong)
    assert 0 < success.sum() < len(data)
    assert (images - data.images).abs().max() <= 4 / 255 + 1e-6
    result = rbl.evaluate(linear, data, attack="pgd", steps=5, eps="4/255", norm="Linf")
    assert 1 - success.double().mean() == pytest.approx(result.robust_accuracy.value)


def test_an_image_that_is_misclassified_anyway_comes_back_as_it_is(linear, data):
    images, success = rbl.attack(linear, data.images, data.labels, "fgsm", eps=0.0, norm="Linf")
    assert success.nonzero().flatten().tolist() == list(range(0, 60, 10))
    assert torch.equal(images, data.images)


def test_success_towards_targets_is_to_be_classified_as_one_of_them(linear, data):
    images, success = rbl.attack(
        linear, data.images, data.labels, "pgd50-margin-linf-8", eps="16/255", targets=[1, 2]
    )
    read = linear(images).argmax(1)
    applies = (data.labels != 1) & (data.labels != 2)
    assert torch.equal(success, applies & ((read == 1) | (read == 2)))
    assert torch.equal(images[~applies], data.images[~applies])
    assert success.any()


class _Lying(rbl.FGSM):
    """Hands in images that are far outside the ball."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return 1 - images


def test_an_attack_that_leaves_the_ball_has_no_success(linear, data):
    images, success = rbl.attack(linear, data.images, data.labels, _Lying(), eps="1/255", norm="Linf")
    assert success.nonzero().flatten().tolist() == list(range(0, 60, 10))  # misclassified without any change
    assert torch.equal(images, data.images)


def test_a_bare_network_is_used_as_it_is(linear, data):
    module = linear.module
    by_classifier = rbl.evaluate(
        rbl.Classifier(module, num_classes=4), data, attack="fgsm-linf-8", eps="4/255"
    )
    module.train()
    by_module = rbl.evaluate(module, data.images, data.labels, attack="fgsm-linf-8", eps="4/255")
    assert module.training
    assert by_module.counts.robust == by_classifier.counts.robust
    assert any("no normalization" in note for note in by_module.notes)
    with pytest.raises(ConfigError, match="Leave num_classes out"):
        rbl.evaluate(linear, data, attack="fgsm-linf-8", num_classes=5)


class _Output(nn.Module):
    """Answers with what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Output(lambda images: images.new_zeros(len(images), 1)), "one output is not one class"),
        (_Output(lambda images: {"logits": images}), "the output is dict, not logits"),
        (_Output(lambda images: images), "not logits"),
        (_Output(lambda images: images.no_such_thing), "Give num_classes"),
        (lambda images: images, "Wrap a function in rbl.Classifier"),
        ("resnet18", "must be a Classifier or a torch.nn.Module, got str"),
    ],
    ids=["one-output", "dict", "images", "raises", "function", "name"],
)
def test_what_is_no_classifier_is_refused_in_one_line(model, message, data):
    with pytest.raises((ModelError, ConfigError), match=message) as caught:
        rbl.evaluate(model, data, attack="fgsm-linf-8")
    assert "\n" not in str(caught.value)


def test_a_network_that_fails_is_asked_through_its_last_layer(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(7, 3))
    with pytest.raises(ModelError, match=r"mat1 and mat2|shapes"):
        rbl.evaluate(model, data.images, [0] * len(data), attack="fgsm-linf-8")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 8, 8)), None, "no labels"),
        ([[["a"]]], [0], "images cannot be read"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], [0, 1], "several shapes"),
        (np.zeros((2, 3, 8, 8), dtype=np.int64), [0, 1], "must be float32"),
        (np.zeros((2, 8, 8, 3)), [0, 1], "permute"),
        (np.zeros((2, 3, 8, 8)), [0.5, 1.0], "labels must be class indices"),
        (np.zeros((2, 3, 8, 8)), [0], "2 images, 1 label"),
        (np.zeros((2, 3, 8, 8)), [0, 9], "label 9|9"),
    ],
)
def test_images_and_labels_that_cannot_be_used_are_refused_in_one_line(images, labels, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises((DataError, ModelError), match=message) as caught:
        rbl.evaluate(model, images, labels, attack="fgsm-linf-8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "pdg", "norm": "Linf", "eps": 0.1}, "no card 'pdg'"),
        ({"attack": "pgd", "step": 3, "norm": "Linf", "eps": 0.1}, "Did you mean steps"),
        ({"attack": rbl.PGD, "step": 3, "norm": "Linf", "eps": 0.1}, "Did you mean steps"),
        ({"attack": rbl.PGD(), "steps": 3, "norm": "Linf", "eps": 0.1}, "has its parameters already"),
        ({"attack": rbl.PGD()}, "PGD needs norm and eps"),
        ({"attack": rbl.Attack, "norm": "Linf", "eps": 0.1}, "lacks estimate_cost, perturb"),
        ({"attack": "fgsm-linf-8", "batchsize": 3}, "Did you mean batch_size"),
        ({"attack": "pgd50-linf-8", "epsilon": 3}, "Did you mean eps"),
        ({"attack": 3}, "got int"),
        ({"attack": "fgsm-linf-8", "eps": ["1/255", "2/255"]}, "one eps at a time"),
    ],
)
def test_a_wrong_attack_is_refused_with_what_may_be_meant(options, message, linear, data):
    with pytest.raises((ConfigError, CardError), match=message):
        rbl.evaluate(linear, data, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rbl.PGD(step=3), "PGD has no parameter 'step'. Did you mean steps"),
        (lambda: rbl.PGD(eps=0.1), "Give it to the call"),
        (lambda: rbl.PGD(nn.Flatten(), steps=3), "takes its parameters by name"),
        (lambda: rbl.Evaluate, "did you mean evaluate"),
    ],
)
def test_a_wrong_name_says_which_is_right(make, message):
    with pytest.raises((RobustbenchError, AttributeError), match=message):
        make()


def test_reprs_are_short_and_true(linear, data):
    assert repr(linear).startswith("Classifier(")
    assert "4 classes, gradients, cpu" in repr(linear)
    assert repr(data).startswith("Dataset(")
    assert f"{len(data)} images of" in repr(data)
    assert str(rbl.PGD(steps=7)) == "PGD(steps=7)"
    assert str(rbl.AutoAttack()) == "AutoAttack()"
    assert str(rbl.ThreatModel(norm="Linf", eps=8 / 255, targets=(1,))) == "linf-8 to 1"
    result = rbl.evaluate(linear, data.select_images(range(3)), attack="autoattack", norm="Linf", eps="1/255")
    assert len(repr(result)) < 250
    assert "AutoAttack(), linf-1" in repr(result)
    for attack in (rbl.PGD(steps=7), rbl.AutoAttack()):
        assert pickle.loads(pickle.dumps(attack)) == attack
        assert "=" in repr(attack)
