"""The shipped weights: made as their cards say, and worth what their cards say."""

from __future__ import annotations

import json

import pytest
import torch

from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.config.cards import find_card
from robustbench_local.data.rendered_signs.sign_dataset import load_signs
from robustbench_local.defenses.recipes.recipe_registry import read_recipe
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples
from robustbench_local.evaluation.training.certified_score import count_certified
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.zoo import ZOO_FOLDER, find_zoo_card, list_zoo
from robustbench_local.threats.threat_model import ThreatModel, parse_eps

EPS = 8 / 255
SPEED_LIMITS = (0, 1, 2, 3, 4, 5, 7, 8)


@pytest.fixture(scope="module")
def data():
    return load_signs(limit=40)


@pytest.fixture(scope="module", params=list_zoo())
def name(request):
    return request.param


def _accuracy(module, images, labels):
    with torch.no_grad():
        return float((module(images).argmax(dim=1) == labels).float().mean())


def _measured(name, attack, loss=None):
    figures = find_zoo_card(name).provenance["measured"]
    return next(one for one in figures if one.get("attack") == attack and one.get("loss") == loss)


def _proven(name):
    """Shares by certificate and radius."""
    figures = find_zoo_card(name).provenance["measured"]
    return {(one["certificate"], one["eps"]): one["accuracy"] for one in figures if "certificate" in one}


def _on_the_margin(logits, labels):
    return compute_margin(logits, labels).sum()


def _under_pgd(module, data, eps, loss=None):
    budget = {"eps": eps, "steps": 10, "step_size": eps / 4}
    examples = build_linf_examples(module, data.images, data.labels, **budget, loss=loss)
    return _accuracy(module, examples, data.labels)


def test_all_are_small():
    sizes = [(ZOO_FOLDER / find_zoo_card(one).weights).stat().st_size for one in list_zoo()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 8_000_000


def test_the_recipe_is_the_one_that_still_ships(name):
    said = find_zoo_card(name).provenance["defense"]
    card = find_card(said["card"], kind="defense")
    assert said["version"] == card.version
    known = json.loads(json.dumps(read_recipe(card).parameters))
    assert dict(card.parameters).items() <= said["parameters"].items() <= known.items()


def test_the_command_names_no_path_of_the_machine_it_ran_on(name):
    command = find_zoo_card(name).provenance["made"]["command"]
    assert command.startswith("rbl train ")
    assert f" --out {name}.safetensors" in command
    assert " /" not in command


@pytest.mark.slow
def test_accuracy_is_what_the_card_says(name, data):
    # 40 of the card's 1,000 images: two standard errors, and the tenth that fewer steps may be worth.
    module = load_classifier(f"zoo:{name}").as_module()
    assert abs(_accuracy(module, data.images, data.labels) - _measured(name, "none")["accuracy"]) < 0.2
    pgd = _measured(name, "pgd")
    assert abs(_under_pgd(module, data, parse_eps(pgd["eps"])) - pgd["accuracy"]) < 0.2


@pytest.mark.slow
def test_the_defended_model_meets_its_promise_and_the_plain_one_breaks(data):
    plain, defended = (load_classifier(f"zoo:{name}").as_module() for name in ("signs-plain", "signs-pgd-at"))
    assert _accuracy(plain, data.images, data.labels) >= 0.95
    assert _accuracy(defended, data.images, data.labels) >= 0.9
    for loss in (None, _on_the_margin):
        assert _under_pgd(plain, data, EPS, loss) <= 0.05
        assert _under_pgd(defended, data, EPS, loss) >= 0.45
    assert _measured("signs-plain", "none")["accuracy"] >= 0.97
    assert _measured("signs-plain", "autoattack")["accuracy"] < 0.05
    assert _measured("signs-pgd-at", "none")["accuracy"] >= 0.90
    assert _measured("signs-pgd-at", "autoattack")["accuracy"] >= 0.45
    assert _measured("signs-pgd-at", "autoattack")["n"] >= 500


def test_the_distilled_model_hides_from_the_cross_entropy_and_falls_to_the_margin(data):
    name = "signs-distilled-t100"
    assert _measured(name, "none")["accuracy"] >= 0.97
    assert _measured(name, "pgd")["accuracy"] >= _measured("signs-plain", "pgd")["accuracy"] + 0.5
    assert _measured(name, "pgd", "margin")["accuracy"] <= 0.1
    assert _measured(name, "autoattack")["accuracy"] <= 0.05
    module = load_classifier(f"zoo:{name}").as_module()
    assert _under_pgd(module, data, EPS) >= 0.8
    assert _under_pgd(module, data, EPS, _on_the_margin) <= 0.2


def test_trades_meets_its_promise(data):
    module = load_classifier("zoo:signs-trades").as_module()
    assert _accuracy(module, data.images, data.labels) >= 0.95
    assert _under_pgd(module, data, EPS) >= _under_pgd(module, data, EPS, _on_the_margin) >= 0.45
    assert _measured("signs-trades", "none")["accuracy"] >= 0.95
    assert _measured("signs-trades", "autoattack")["accuracy"] >= 0.45


@pytest.mark.slow
def test_the_noisy_model_can_be_certified_and_the_plain_one_hardly(data):
    few, vote, ball = (
        data.select_images(range(20)),
        Smoothing(sigma=0.25, n=150),
        ThreatModel(norm="L2", eps=0.25),
    )
    noisy, plain = (
        count_certified(load_classifier(f"zoo:{name}"), few, vote, ball)
        for name in ("signs-gaussian-0.25", "signs-plain")
    )
    assert noisy >= 10
    assert plain <= 8
    proven = _proven("signs-gaussian-0.25")
    assert proven["smoothing", 0.25] >= 0.6
    assert 0.4 <= proven["smoothing", 0.5] < proven["smoothing", 0.25]


def test_what_is_proven_of_the_ibp_model_and_what_attacks_leave_are_close(data):
    name, eps = "signs-ibp", 2 / 255
    proven, left = _proven(name), _measured(name, "autoattack")["accuracy"]
    assert 0.75 <= proven["ibp", eps] <= proven["crown-ibp", eps] <= left <= proven["crown-ibp", eps] + 0.1
    classifier = load_classifier(f"zoo:{name}")
    found = count_certified(classifier, data, IBP(), ThreatModel(norm="Linf", eps=eps)) / len(data)
    assert abs(found - proven["ibp", eps]) < 0.2
    assert found <= _under_pgd(classifier.as_module(), data, eps)


@pytest.mark.slow
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
