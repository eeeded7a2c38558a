"""Fast-AT, Free-AT, TRADES, MART and AWP: their losses in closed form, and that they do what they are for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_training import (
    COMMON_PARAMETERS,
    TRAINING,
    VALIDATION,
    build_batch,
    build_context,
    build_network,
    compute_accuracy,
)
from torch import nn

from robustbench_local.config.cards import list_cards
from robustbench_local.defenses.recipes import fast_at
from robustbench_local.defenses.recipes.awp import WeightPerturbation, perturb_weights
from robustbench_local.defenses.recipes.fast_at import FastTraining
from robustbench_local.defenses.recipes.free_at import FreeTraining
from robustbench_local.defenses.recipes.mart import MART, compute_mart_loss
from robustbench_local.defenses.recipes.pgd_at import PGDTraining
from robustbench_local.defenses.recipes.recipe_registry import RECIPES, read_recipe
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.recipes.trades import Trades
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples, compute_kl_divergence
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError, ModelError
from robustbench_local.threats.threat_model import ThreatModel

EPS = 0.1
ADVERSARIAL = {
    **COMMON_PARAMETERS,
    "threat": ThreatModel(norm="Linf", eps=EPS),
    "steps": 3,
    "step_size": 0.5,
    "eps_warmup_epochs": 0,
}
ONE_STEP = {**ADVERSARIAL, "steps": 1, "step_size": 1.0}
RECIPES_HERE = [
    FastTraining(**{**ONE_STEP, "step_size": 1.25}),
    FreeTraining(**{**ONE_STEP, "epochs": 3, "replays": 3}),
    Trades(**ADVERSARIAL, beta=6.0),
    MART(**ADVERSARIAL, beta=5.0),
    PGDTraining(**ADVERSARIAL, awp_gamma=0.01, awp_warmup_epochs=1),
    Trades(**ADVERSARIAL, beta=6.0, awp_gamma=0.005),
]


def _name(recipe):
    return recipe.method + ("-awp" if getattr(recipe, "awp_gamma", 0) else "")


def _left(recipe):
    """Share of images still right a little beyond the radius, where ordinary training loses half."""
    module = build_network()
    trained = train(module, recipe, TRAINING, VALIDATION)
    module.load_state_dict(trained.state)
    budget = {"eps": 1.3 * EPS, "steps": 20, "step_size": EPS / 3}
    examples = build_linf_examples(module, VALIDATION.images, VALIDATION.labels, **budget)
    return compute_accuracy(module, examples, VALIDATION.labels), trained.best.robust


@pytest.fixture(scope="module")
def ordinary():
    """What an ordinary training leaves."""
    return _left(Standard(**COMMON_PARAMETERS))[0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES_HERE, ids=_name)
def test_every_recipe_withstands_what_it_trains_against(recipe, ordinary):
    left, robust = _left(recipe)
    assert left >= ordinary + 0.05
    assert robust >= 0.9


@pytest.mark.parametrize("recipe", RECIPES_HERE[:2], ids=_name)
def test_recipes_with_a_memory_go_on_where_they_were(recipe, tmp_path):
    whole = train(build_network(), recipe, TRAINING, VALIDATION, seed=3).state
    checkpoint = tmp_path / "training.pt"

    def interrupt(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build_network(), recipe, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint, report=interrupt)
    resumed = train(build_network(9), recipe, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint).state
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_trades_adds_up_as_in_the_paper():
    recipe = Trades(**ADVERSARIAL, beta=6.0)
    module = build_network(norm=False)
    loss = recipe.build_objective(build_context(module)).compute_loss(build_batch())
    natural = nn.functional.cross_entropy(module(build_batch().images), build_batch().labels)
    light, heavy = (
        Trades(**ADVERSARIAL, beta=beta)
        .build_objective(build_context(module))
        .compute_loss(build_batch())
        .item()
        for beta in (1, 12)
    )
    moved = (heavy - light) / 11
    assert moved > 0.001
    assert loss.item() == pytest.approx(natural.item() + 6 * moved, rel=1e-4)


def test_the_divergence_is_that_of_the_definition():
    clean, adversarial = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 2.0]])
    p, q = clean.softmax(dim=1)[0].tolist(), adversarial.softmax(dim=1)[0].tolist()
    expected = sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))
    assert float(compute_kl_divergence(clean, adversarial)) == pytest.approx(expected, rel=1e-5)


def test_mart_adds_up_as_in_the_paper():
    clean, adversarial = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.5, 1.5, -1.0]])
    p, q = clean.softmax(dim=1)[0].tolist(), adversarial.softmax(dim=1)[0].tolist()
    boosted = -math.log(q[0]) - math.log(1 - q[1])
    moved = sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))
    expected = boosted + 5 * moved * (1 - p[0])
    found = compute_mart_loss(clean, adversarial, torch.tensor([0]), 5.0)
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_mart_stays_finite_where_another_class_is_certain():
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = compute_mart_loss(logits, logits, torch.tensor([0]), 5.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("gamma", "progress", "moves"), [(0.0, 2.0, False), (0.1, 0.9, False), (0.1, 1.0, True)]
)
def test_a_loss_is_taken_at_perturbed_weights_from_the_warmup_on(gamma, progress, moves):
    module, images = build_network(norm=False), build_batch().images
    perturbation = WeightPerturbation(gamma=gamma, warmup_epochs=1)

    def loss(forward):
        return forward(images).square().sum()

    value = perturbation.compute_loss(module, loss, progress=progress)
    expected = loss(perturb_weights(module, gamma, loss) if moves else module)
    assert torch.equal(value, expected)
    assert (value.item() > loss(module).item()) is moves


@pytest.mark.parametrize("build", [partial(Trades, beta=6.0), PGDTraining], ids=["trades", "pgd-at"])
def test_weight_perturbation_is_a_part_of_a_recipe_that_changes_nothing_else(build):
    def train_briefly(**awp):
        recipe = build(**{**ADVERSARIAL, "epochs": 2}, **awp)
        return recipe, train(build_network(), recipe, TRAINING, VALIDATION, seed=3).state

    without, with_it, late = (
        train_briefly(**awp) for awp in ({}, {"awp_gamma": 0.01}, {"awp_gamma": 0.01, "awp_warmup_epochs": 2})
    )
    assert all(torch.equal(late[1][name], tensor) for name, tensor in without[1].items())
    assert any(not torch.equal(with_it[1][name], tensor) for name, tensor in without[1].items())
    assert with_it[0].weight_perturbation == WeightPerturbation(gamma=0.01, warmup_epochs=0)
    assert set(with_it[0].parameters) >= {"awp_gamma", "awp_warmup_epochs"}


def test_the_worst_weights_of_a_linear_network_have_a_closed_form():
    """One layer, one image, loss w.x + b: the gradient is x, so w moves by gamma |w| x / |x|."""
    module = nn.Linear(3, 1)
    image = torch.tensor([[1.0, 2.0, 2.0]])
    before = module.weight.detach().clone()
    forward = perturb_weights(module, 0.1, lambda call: call(image).sum())
    moved = before + 0.1 * before.norm() * image / 3
    result = forward(image)
    assert torch.allclose(result, image @ moved.T + module.bias, atol=1e-6)
    assert torch.equal(module.weight, before)
    result.sum().backward()
    assert torch.allclose(module.weight.grad, image)


def test_the_search_for_the_worst_weights_does_not_touch_batch_norm():
    module = build_network().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    forward = perturb_weights(module, 0.05, lambda call: call(build_batch().images).square().sum())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert forward(build_batch().images).square().sum() > module(build_batch().images).square().sum()
    assert module.state_dict()["1.num_batches_tracked"] == 2


def test_free_training_carries_the_perturbation_on():
    """Two linear logits: after a step the perturbation is eps along the sign of the weights' difference."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    objective = FreeTraining(**ONE_STEP, replays=3).build_objective(build_context(module))
    first = build_batch(count=2)
    first.images[:] = 0.5
    objective.compute_loss(first).backward()
    away = (module[1].weight[1] - module[1].weight[0]).detach().sign().view(1, 8, 8)
    added = objective.state_dict()["added"]
    assert objective.replays == 3
    assert torch.allclose(added[0], EPS * away)
    assert torch.allclose(added[1], -EPS * away)
    other = FreeTraining(**ONE_STEP, replays=3).build_objective(build_context(module))
    other.load_state_dict(objective.state_dict())
    assert other.compute_loss(first).item() == pytest.approx(objective.compute_loss(first).item())


def _stopped_after(monkeypatch, figures, warmup=0):
    """The epoch after which Fast-AT stops if FGSM and PGD accuracy are these, and why; None if it goes on."""
    shares = iter([share for pair in figures for share in pair])
    monkeypatch.setattr(fast_at, "_compute_accuracy", lambda *_: next(shares))
    recipe = FastTraining(**{**ONE_STEP, "eps_warmup_epochs": warmup})
    objective = recipe.build_objective(build_context(build_network()))
    for epoch in range(len(figures)):
        objective.compute_loss(build_batch(progress=epoch + 5 / 6))
        try:
            objective.check_collapse(VALIDATION.images, VALIDATION.labels)
        except ModelError as error:
            return epoch + 1, str(error)
    return None


HOLLOW = (0.9, 0.1)


@pytest.mark.parametrize(
    ("figures", "warmup", "epoch"),
    [
        ([(0.9, 0.8), (0.95, 0.1)], 3, 2),
        ([(0.9, 0.8), (0.3, 0.1)], 0, None),
        ([HOLLOW, HOLLOW], 0, 2),
        ([HOLLOW] * 4, 3, 4),
        ([HOLLOW, (0.6, 0.4), (0.7, 0.5)], 0, None),
        ([(0.8, 0.5)] * 3, 0, None),
        ([(0.35, 0.1)] * 3, 0, None),
    ],
    ids=[
        "only PGD falls, while the radius grows",
        "both fall",
        "it never was robust",
        "nor while the radius grew",
        "it is not robust at first",
        "PGD is a little better than FGSM",
        "neither is withstood",
    ],
)
def test_fast_training_stops_at_catastrophic_overfitting(monkeypatch, figures, warmup, epoch):
    stopped = _stopped_after(monkeypatch, figures, warmup)
    assert (stopped and stopped[0]) == epoch


def test_a_training_that_is_stopped_says_what_it_withstands(monkeypatch):
    _, message = _stopped_after(monkeypatch, [(0.9, 0.8), (0.95, 0.1)])
    assert "PGD accuracy is 10.0%, at best 80.0%, while FGSM accuracy is 95.0%" in message
    assert "pgd-at" in message


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (FastTraining, {"steps": 2}, "one step"),
        (FreeTraining, {"steps": 2, "replays": 2}, "one step per replay"),
        (FreeTraining, {"replays": 0}, "replays must be"),
        (Trades, {"beta": 0.0}, "beta must be positive"),
        (MART, {"beta": 5.0, "label_smoothing": 0.1}, "no label_smoothing"),
        (PGDTraining, {"awp_gamma": -0.1}, "awp_gamma"),
        (PGDTraining, {"awp_warmup_epochs": 99}, "awp_warmup_epochs"),
    ],
)
def test_impossible_hyper_parameters_are_refused(kind, change, message):
    with pytest.raises(CardError, match=message):
        kind(**{**ONE_STEP, **change})


def test_every_shipped_training_card_can_be_read():
    cards = [card for card in list_cards("defense") if card.method in RECIPES]
    assert {card.method for card in cards} == set(RECIPES)
    for card in cards:
        recipe = read_recipe(card)
        assert recipe.method == card.method
        for name, value in card.parameters.items():
            assert recipe.parameters[name] == (tuple(value) if isinstance(value, list) else value)


def test_free_training_s_clamp_hides_no_pixel_at_the_border():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    objective = FreeTraining(**ONE_STEP, replays=3).build_objective(build_context(module))
    some = build_batch(count=4)
    first = replace(some, images=(some.images > 0.5).float())  # nothing but black and white
    objective.compute_loss(first).backward()
    assert torch.allclose(objective.state_dict()["added"].abs(), torch.tensor(EPS))
