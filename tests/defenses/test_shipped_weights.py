"""The shipped weights: made as their cards say, and worth what their cards say."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.catalogue import find_card
from robustbench_local.data.signs import load_signs
from robustbench_local.defenses.adversary import linf_examples
from robustbench_local.defenses.recipes import read_recipe
from robustbench_local.models.sources import load_classifier
from robustbench_local.models.zoo import FOLDER, find_zoo, list_zoo

EPS = 8 / 255
SPEED_LIMITS = (0, 1, 2, 3, 4, 5, 7, 8)


@pytest.fixture(scope="module")
def data():
    return load_signs(limit=100)


@pytest.fixture(scope="module", params=["signs-plain", "signs-pgd-at"])
def name(request):
    return request.param


def _accuracy(module, images, labels):
    with torch.no_grad():
        return float((module(images).argmax(dim=1) == labels).float().mean())


def _measured(name, attack):
    figures = find_zoo(name).provenance["measured"]
    return next(figure for figure in figures if figure["attack"] == attack)


def test_both_are_listed_and_small():
    assert {"signs-plain", "signs-pgd-at"} <= set(list_zoo())
    assert all((FOLDER / find_zoo(one).weights).stat().st_size < 1_000_000 for one in list_zoo())


def test_the_recipe_is_the_one_that_still_ships(name):
    said = find_zoo(name).provenance["defense"]
    card = find_card(said["card"], kind="defense")
    assert said["version"] == card.version
    assert dict(card.parameters).items() <= said["parameters"].items() <= read_recipe(card).parameters.items()


def test_the_command_names_no_path_of_the_machine_it_ran_on(name):
    command = find_zoo(name).provenance["made"]["command"]
    assert command.startswith("rbl train ")
    assert f" --out {name}.safetensors" in command
    assert " /" not in command


@pytest.mark.parametrize("attack", ["none", "pgd"])
def test_accuracy_is_what_the_card_says(name, attack, data):
    module = load_classifier(f"zoo:{name}").as_module()
    images = data.images
    if attack == "pgd":
        images = linf_examples(module, images, data.labels, eps=EPS, steps=10, step_size=EPS / 4)
    # 100 of the card's 1,000 images: four standard errors, and the tenth that ten steps fewer may be worth.
    assert abs(_accuracy(module, images, data.labels) - _measured(name, attack)["accuracy"]) < 0.2


def test_the_defended_model_meets_its_promise_and_the_plain_one_breaks():
    assert _measured("signs-plain", "none")["accuracy"] >= 0.97
    assert _measured("signs-plain", "autoattack")["accuracy"] < 0.05
    assert _measured("signs-pgd-at", "none")["accuracy"] >= 0.90
    assert _measured("signs-pgd-at", "autoattack")["accuracy"] >= 0.45
    assert _measured("signs-pgd-at", "autoattack")["n"] >= 500


def test_only_the_plain_model_reads_stop_signs_as_speed_limits():
    data = load_signs(per_class=20, classes=[14])
    shares = []
    for name in ("signs-plain", "signs-pgd-at"):
        module = load_classifier(f"zoo:{name}").as_module()
        examples = data.images.clone()
        for _ in range(30):
            examples.requires_grad_()
            logits = module(examples)
            towards = logits[:, SPEED_LIMITS].logsumexp(dim=1) - logits.logsumexp(dim=1)
            (gradient,) = torch.autograd.grad(towards.sum(), examples)
            moved = examples.detach() + EPS / 8 * gradient.sign()
            examples = (data.images + (moved - data.images).clamp(-EPS, EPS)).clamp(0, 1)
        with torch.no_grad():
            fooled = torch.isin(module(examples).argmax(dim=1), torch.tensor(SPEED_LIMITS))
        shares.append(float(fooled.float().mean()))
    assert shares[0] >= 0.9
    assert shares[1] <= 0.4
