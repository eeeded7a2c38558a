"""The training loop: it learns, goes on after an interruption as if there were none, and stops at NaN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import COMMON_PARAMETERS, TRAINING, VALIDATION, build_stripes
from torch import nn

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.config.cards import find_card
from robustbench_local.defenses.recipes.augmentation import Augmentation
from robustbench_local.defenses.recipes.pgd_at import PGDTraining
from robustbench_local.defenses.recipes.recipe_registry import read_recipe
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.recipes.training_objective import TrainingObjective
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples, frozen_evaluation_mode
from robustbench_local.defenses.training import training_identity as identity
from robustbench_local.defenses.training.initial_networks import NormalizedNetwork, load_initial_network
from robustbench_local.defenses.training.schedule import compute_learning_rate
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError, ConfigError, DataError, ModelError, StorageError, UsageError
from robustbench_local.threats.threat_model import ThreatModel

PLAIN = Standard(**COMMON_PARAMETERS | {"shift": 1, "brightness": 0.1})
EPS = 0.1
ADVERSARIAL = PGDTraining(
    **PLAIN.parameters,
    threat=ThreatModel(norm="Linf", eps=EPS),
    steps=3,
    step_size=0.5,
    eps_warmup_epochs=2,
)


def _network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 2),
        )


def _accuracy(module, images, labels):
    with frozen_evaluation_mode(module):
        return float((module(images).argmax(dim=1) == labels).float().mean())


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_ordinary_training_learns():
    network = _network()
    before = _accuracy(network, VALIDATION.images, VALIDATION.labels)
    trained = train(network, PLAIN, TRAINING, VALIDATION)
    network.load_state_dict(trained.state)
    after = _accuracy(network, VALIDATION.images, VALIDATION.labels)
    assert before < 0.8
    assert after == trained.best.clean >= 0.95
    assert trained.best.robust is None


def test_adversarial_training_withstands_what_breaks_ordinary_training():
    accuracies = []
    for recipe in (PLAIN, ADVERSARIAL):
        network = _network()
        network.load_state_dict(train(network, recipe, TRAINING, VALIDATION).state)
        examples = build_linf_examples(
            network, VALIDATION.images, VALIDATION.labels, eps=EPS, steps=20, step_size=EPS / 4
        )
        accuracies.append(_accuracy(network, examples, VALIDATION.labels))
    assert accuracies[0] < 0.6
    assert accuracies[1] > 0.9


def test_the_kept_epoch_is_the_best_on_validation():
    lines = []
    network = _network()
    trained = train(network, ADVERSARIAL, TRAINING, VALIDATION, report=lines.append)
    assert len(lines) == ADVERSARIAL.epochs
    assert f"PGD-10 {trained.best.robust:.1%}" in lines[trained.best.epoch - 1]
    assert "left" in lines[0]
    network.load_state_dict(trained.state)
    assert _accuracy(network, VALIDATION.images, VALIDATION.labels) == trained.best.clean


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [PLAIN, ADVERSARIAL], ids=["standard", "pgd-at"])
def test_an_interrupted_training_ends_with_the_same_weights(recipe, tmp_path):
    whole = train(_network(), recipe, TRAINING, VALIDATION, seed=3)
    checkpoint = tmp_path / "training.pt"

    def interrupt(line):
        if line.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_network(), recipe, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint, report=interrupt)
    torch.rand(7)  # the global generator is not what the training depends on
    lines = []
    resumed = train(
        _network(9), recipe, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint, report=lines.append
    )
    assert lines[0] == "resumed after epoch 3 of 6"
    assert len(lines) == 4
    assert _same(resumed.state, whole.state)
    assert resumed.best == whole.best


def test_another_seed_gives_other_weights():
    states = [train(_network(), PLAIN, TRAINING, VALIDATION, seed=seed).state for seed in (0, 1)]
    assert not _same(*states)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    train(_network(), replace(ADVERSARIAL, epochs=2, warmup_epochs=0), TRAINING, VALIDATION)
    load_initial_network("signs_resnet", num_classes=43, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"recipe": replace(PLAIN, learning_rate=0.01)}, "recipe"),
        ({"seed": 1}, "seed"),
        ({"training": build_stripes(96, 5, "training")}, "training"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, word):
    checkpoint = tmp_path / "training.pt"
    usual = {"recipe": replace(PLAIN, epochs=2), "training": TRAINING, "validation": VALIDATION, "seed": 0}
    train(_network(), **usual, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=f"another {word}"):
        train(_network(), **{**usual, **change}, checkpoint=checkpoint)


def _with_gelu(network):
    network[2] = nn.GELU()
    return network


class _Linear(nn.Module):
    """The layers of a network and what it does with them, under a name of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, images):
        return self.layer(images.flatten(1))


class _Squared(_Linear):
    def forward(self, images):
        return super().forward(images) ** 2


def _behind(**contract):
    return NormalizedNetwork(_network(), InputContract(**contract))


USUAL_MEANS = ((0.5,), (0.25,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_network(), _with_gelu(_network())),
        (_behind(), _behind(normalization=USUAL_MEANS)),
        (_behind(normalization=USUAL_MEANS), _behind(normalization=((0.5,), (0.2,)))),
        (_behind(), _behind(input_size=(8, 8))),
        (_behind(), _behind(value_scale=255)),
        (nn.Sequential(_Linear()), nn.Sequential(_Squared())),
    ],
    ids=["layers", "normalised", "other means", "resized", "scaled", "code"],
)
def test_a_checkpoint_of_another_network_with_the_same_weights_is_refused(tmp_path, one, other):
    checkpoint = tmp_path / "training.pt"
    recipe = replace(PLAIN, epochs=1, warmup_epochs=0)
    assert one.state_dict().keys() == other.state_dict().keys()
    train(one, recipe, TRAINING, VALIDATION, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="another network"):
        train(other, recipe, TRAINING, VALIDATION, checkpoint=checkpoint)


def test_a_checkpoint_of_an_older_loop_is_refused_for_its_age(tmp_path, monkeypatch):
    checkpoint = tmp_path / "training.pt"
    recipe = replace(PLAIN, epochs=1, warmup_epochs=0)
    train(_network(), recipe, TRAINING, VALIDATION, checkpoint=checkpoint)
    monkeypatch.setattr(identity, "LOOP_VERSION", identity.LOOP_VERSION + 1)
    with pytest.raises(ConfigError, match="another version of the training loop"):
        train(_network(), recipe, TRAINING, VALIDATION, checkpoint=checkpoint)


def test_images_of_all_classes_are_watched_though_they_are_sorted_by_class(monkeypatch):
    many = build_stripes(1200, 2, "validation")
    in_order = many.select_images(many.labels.argsort(stable=True))
    seen = []
    monkeypatch.setattr(
        TrainingObjective, "check_collapse", lambda _self, images, labels: seen.append((images, labels))
    )
    for validation in (in_order, VALIDATION):
        train(_network(), replace(PLAIN, epochs=2), TRAINING, validation)
    assert [labels.bincount().tolist() for _, labels in seen[:2]] == [[128, 128]] * 2
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[2][0], VALIDATION.images)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    checkpoint = tmp_path / "training.pt"
    checkpoint.write_bytes(b"PK not a checkpoint")
    with pytest.raises(ConfigError, match="not a training checkpoint"):
        train(_network(), PLAIN, TRAINING, VALIDATION, checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(StorageError, match="cannot write the checkpoint"):
        train(_network(), PLAIN, TRAINING, VALIDATION, checkpoint=tmp_path / "missing" / "training.pt")


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(
        ModelError, match=r"the loss or its gradient is (nan|inf) at epoch \d, step \d.*learning_rate"
    ):
        train(_network(), replace(PLAIN, learning_rate=1e30, warmup_epochs=0), TRAINING, VALIDATION)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(DataError, match="fewer than a batch of 16"):
        train(_network(), PLAIN, TRAINING.select_images(range(5)), VALIDATION)


def test_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [compute_learning_rate(PLAIN, progress / 10) for progress in range(61)]
    assert max(rates) == rates[10] == PLAIN.learning_rate
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_augmentation_moves_and_brightens_but_never_mirrors():
    image = torch.zeros(1, 1, 6, 6)
    image[..., 2, 2], image[..., 2, 3] = 0.5, 0.25
    augmentation = Augmentation(shift=2, brightness=0.2)
    labels = torch.zeros(200, dtype=torch.int64)
    seen = augmentation(image.expand(200, -1, -1, -1), labels, torch.Generator().manual_seed(0))
    places = seen.flatten(1).argmax(dim=1)
    assert set(places.tolist()) == {6 * row + column for row in range(5) for column in range(5)}
    right_of_it = seen.flatten(1).gather(1, places[:, None] + 1)[:, 0]
    assert torch.allclose(right_of_it, seen.flatten(1).amax(dim=1) / 2)
    assert seen.flatten(1).amax(dim=1).min() == pytest.approx(0.4, abs=0.01)
    assert seen.flatten(1).amax(dim=1).max() == pytest.approx(0.6, abs=0.01)


def test_examples_of_a_linear_model_have_the_closed_form():
    """Two classes, linear logits: the loss rises most along the sign of the weights' difference."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images, labels = torch.full((3, 3, 2, 2), 0.5), torch.tensor([0, 1, 0])
    away = (module[1].weight[1] - module[1].weight[0]).detach().sign().view(3, 2, 2)
    for generator in (None, torch.Generator().manual_seed(0)):
        examples = build_linf_examples(
            module, images, labels, eps=0.25, steps=8, step_size=0.1, generator=generator
        )
        expected = images + 0.25 * away * torch.tensor([1, -1, 1]).view(3, 1, 1, 1)
        assert torch.equal(examples, expected)
    assert module[1].weight.grad is None
    assert module[1].weight.requires_grad


def test_examples_stay_in_the_ball_and_the_box():
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    examples = build_linf_examples(
        _network(),
        images,
        torch.zeros(8, dtype=torch.int64),
        eps=0.1,
        steps=5,
        step_size=0.2,
        generator=torch.Generator().manual_seed(0),
    )
    assert (examples - images).abs().max() <= 0.1 + 1e-6
    assert examples.min() >= 0
    assert examples.max() <= 1


def test_the_adversary_leaves_batch_norm_as_it_was():
    network = _network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_linf_examples(network, TRAINING.images, TRAINING.labels, eps=0.1, steps=2, step_size=0.1)
    assert _same(network.state_dict(), before)
    assert all(one.training for one in network.modules())


@pytest.mark.parametrize("name", ["standard", "pgd-at-linf-8", "trades-linf-8"])
def test_the_shipped_cards_are_recipes(name):
    card = find_card(name, kind="defense")
    recipe = read_recipe(card)
    assert dict(card.parameters).items() <= recipe.parameters.items()
    assert recipe.method == card.method
    if name != "standard":
        assert recipe.threat == ThreatModel(norm="Linf", eps=8 / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "pgd-att"}, "not a training recipe.*pgd-at"),
        ({"threat": None}, "needs a threat model"),
        ({"parameters": {"stepps": 3}}, "unknown parameter 'stepps'.*steps"),
        ({"parameters": {"epochs": 0}}, "epochs must be at least 1"),
        ({"parameters": {"epochs": "many"}}, "epochs: input should be a valid integer, got 'many'"),
        ({"parameters": {"step_size": 0}}, "step_size positive"),
        ({"parameters": {"eps_warmup_epochs": 1000}}, "eps_warmup_epochs"),
    ],
)
def test_a_card_that_is_no_recipe_is_refused(change, message):
    card = find_card("pgd-at-linf-8", kind="defense")
    if "parameters" in change:
        change = {"parameters": {**card.parameters, **change["parameters"]}}
    with pytest.raises(UsageError, match=f"card pgd-at-linf-8.*{message}"):
        read_recipe(replace(card, **change))


def test_a_missing_parameter_is_named():
    card = find_card("standard", kind="defense")
    fewer = {name: value for name, value in card.parameters.items() if name != "shift"}
    with pytest.raises(CardError, match="parameter 'shift' is missing"):
        read_recipe(replace(card, parameters=fewer))


def test_an_l2_radius_is_refused():
    with pytest.raises(CardError, match="Linf only"):
        replace(ADVERSARIAL, threat=ThreatModel(norm="L2", eps=0.5))
