"""Attacks that cheat or err: none gets a success that a fresh look at its candidates does not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.job import merge_batches
from robustbench_local.evaluation.harness.outcome import hash_image
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps="8/255")


@dataclass(frozen=True, kw_only=True)
class Scripted(Attack):
    """Does what a test says."""

    access = "scores"
    norms = frozenset({"Linf", "L2", "L1"})
    script: Callable[..., object]

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return self.script(classifier, images, labels, threat, masks)

    def estimate_cost(self, threat):
        return (100, 0)


def run(classifier, data, script, threat=LINF, **changes):
    attack = Scripted(script=script)
    job = AttackJob(
        key="cell", classifier=classifier, data=data, attack=attack, threat=threat, seed=1, **changes
    )
    return merge_batches(list(run_batches(job, batch_size=16)))


def find_direction(classifier, images, labels, targets=()):
    """The sign of the step from the label to the wrong class that is nearest, or to the target."""
    weight = classifier.module.weight.detach()
    gaps = weight[None] - weight[labels][:, None]
    margins = ((images - 0.5).flatten(1)[:, None] * gaps).sum(2) / gaps.abs().sum(2).clamp_min(1e-9)
    margins[torch.arange(len(images)), labels] = -torch.inf
    chosen = margins.argmax(dim=1) if not targets else torch.full_like(labels, targets[0])
    return (weight[chosen] - weight[labels]).sign().view_as(images)


def step(classifier, images, labels, threat, masks=None):
    """The strongest attack on a linear model: what all others here are compared with."""
    return (images + threat.eps * find_direction(classifier, images, labels, threat.targets)).clamp(0, 1)


def step_far(classifier, images, labels, threat, masks=None):
    return step(classifier, images, labels, replace(threat, eps=0.3))


@pytest.fixture
def honest(linear, data):
    """The outcomes of the strongest attack, by image."""
    rows = run(linear, data, step).outcomes
    assert 5 < sum(row.broken for row in rows) < 50
    return {row.image: row for row in rows}


def test_the_strongest_attack_is_no_cheat(honest):
    assert {row.status for row in honest.values()} == {"ok", "clean-wrong"}


def without_projection(classifier, images, labels, threat, masks):
    return (images + 0.3 * find_direction(classifier, images, labels)).clamp(0, 1)


def without_clamp(classifier, images, labels, threat, masks):
    return images + torch.where(images.mean() > 2, 0.0, 0.5) * images.sub(0.5).sign()


def around_the_last_iterate(classifier, images, labels, threat, masks):
    found = images
    for _ in range(4):
        found = step(classifier, found, labels, threat)  # never projected to the image that was given
    return found


def in_levels_of_256(classifier, images, labels, threat, masks):
    return (images + 255 * threat.eps * find_direction(classifier, images, labels)).clamp(0, 1)


def for_another_radius(classifier, images, labels, threat, masks):
    return step(classifier, images, labels, replace(threat, eps=2 * threat.eps))


def in_place(classifier, images, labels, threat, masks):
    images += 0.3 * find_direction(classifier, images, labels)  # the images that were given are gone
    return images.clamp_(0, 1)


def for_another_image(classifier, images, labels, threat, masks):
    return step(classifier, images, labels, threat).roll(1, 0)


def with_channels_reversed(classifier, images, labels, threat, masks):
    return step(classifier, images, labels, threat).flip(1)


CHEATS_REJECTED = [
    without_projection,
    without_clamp,
    around_the_last_iterate,
    in_levels_of_256,
    for_another_radius,
    in_place,
    for_another_image,
    with_channels_reversed,
]


@pytest.mark.parametrize("cheat", CHEATS_REJECTED, ids=lambda cheat: cheat.__name__)
def test_a_candidate_outside_the_ball_around_its_own_image_is_rejected(linear, data, cheat):
    few = data.select_images(range(1, 10))
    batch = run(linear, few, cheat)
    for row in batch.outcomes:
        assert (row.status, row.broken, row.linf, row.broken_8bit) == ("rejected", False, 0.0, None)
        assert row.adversarial_hash == row.original_hash
    assert torch.equal(batch.candidates, few.images)


BAD_PIXELS = [torch.nan, torch.inf, -torch.inf, -1e-7, 1 + 1e-6]


@pytest.mark.parametrize("value", BAD_PIXELS)
def test_one_pixel_that_is_no_pixel_rejects_its_candidate_alone(linear, data, honest, value):
    def spoil(classifier, images, labels, threat, masks):
        found = step(classifier, images, labels, threat)
        found[0, 2, 3, 3] = value
        return found

    edge = replace(data, images=data.images.clone())
    edge.images[1, 2, 3, 3] = round(value) if abs(value) < 2 else 0.5  # inside the ball, but for the box
    rows = run(linear, edge.select_images(range(1, 10)), spoil).outcomes
    assert [row.status for row in rows] == ["rejected"] + ["ok"] * 8
    assert not rows[0].broken
    assert [row.broken for row in rows[1:]] == [honest[row.image].broken for row in rows[1:]]


WRONG_FORMS = {
    "double": lambda found: found.double(),
    "half": lambda found: found.half(),
    "bytes": lambda found: (found * 255).round().byte(),
    "channels last": lambda found: found.permute(0, 2, 3, 1),
    "one too few": lambda found: found[:-1],
    "one too many": lambda found: torch.cat([found, found[:1]]),
    "flat": lambda found: found.flatten(1),
    "one for all": lambda found: found[:1],
}


@pytest.mark.parametrize("form", WRONG_FORMS)
def test_candidates_of_another_form_are_rejected(linear, data, form):
    def change_form(classifier, images, labels, threat, masks):
        return WRONG_FORMS[form](step(classifier, images, labels, threat))

    rows = run(linear, data.select_images(range(1, 10)), change_form).outcomes
    assert {(row.status, row.broken) for row in rows} == {("rejected", False)}


@pytest.mark.parametrize(
    "claim",
    [lambda found: (found, torch.ones(len(found)).bool()), lambda found: found.numpy(), lambda _: None],
)
def test_what_is_no_tensor_ends_the_cell(linear, data, claim):
    with pytest.raises(ConfigError, match="not a tensor of images"):
        run(linear, data, lambda *given: claim(step(*given)))


def test_the_last_iterate_counts_and_no_better_one_on_the_way(linear, data):
    """An attack that comes back from its successes has none, whatever it has noted on its way."""

    def come_back(classifier, images, labels, threat, masks):
        found = step(classifier, images, labels, threat)
        assert bool((classifier(found).argmax(dim=1) != labels).any())
        return found - threat.eps * find_direction(classifier, images, labels)

    assert not any(row.broken for row in run(linear, data, come_back).outcomes)


def test_success_in_half_precision_alone_is_none():
    class Close(nn.Module):
        """The second class is behind by less than bfloat16 can tell."""

        def forward(self, images):
            first = images[:, 0, 0, 0]
            return torch.stack([first / first, first / first - 0.001], dim=1)

    def look_in_half(classifier, images, labels, threat, masks):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = classifier.module(images).bfloat16()
        assert bool((scores[:, 0] == scores[:, 1]).all())  # a tie there: "success"
        return images

    images = torch.full((3, 3, 4, 4), 0.5)
    data = Dataset(
        images=images, labels=torch.zeros(3).long(), ids=("a", "b", "c"), class_names=("x", "y"), name="m"
    )
    rows = run(Classifier(Close(), num_classes=2), data, look_in_half).outcomes
    assert not any(row.broken for row in rows)


LEFTOVERS = {
    "autocast": lambda classifier: torch.set_autocast_enabled("cpu", True),
    "gradients off": lambda classifier: torch.set_grad_enabled(False),
    "default dtype": lambda classifier: torch.set_default_dtype(torch.float64),
    "low precision": lambda classifier: torch.set_float32_matmul_precision("medium"),
    "training mode": lambda classifier: classifier.module.train(),
    "seed": lambda classifier: torch.manual_seed(0),
}


DEAR_LEFTOVERS = ("gradients off", "default dtype", "low precision", "seed")


class Droppy(nn.Module):
    """The linear model behind dropout, which evaluation mode switches off."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.drop, self.weight = inner, nn.Dropout(0.5), inner.weight

    def forward(self, images):
        return self.inner(0.5 + self.drop(images - 0.5))


@pytest.mark.parametrize(
    "leftover",
    [pytest.param(name, marks=[pytest.mark.slow] if name in DEAR_LEFTOVERS else []) for name in LEFTOVERS],
)
def test_what_an_attack_leaves_behind_changes_no_bit_of_a_verdict(linear, data, leftover):
    classifier = Classifier(Droppy(linear.module), num_classes=4, name="droppy")

    def leave(classifier, images, labels, threat, masks):
        found = step(classifier, images, labels, threat)
        LEFTOVERS[leftover](classifier)
        return found

    few = data.select_images(range(24))
    clean, left = run(classifier, few, step), run(classifier, few, leave)
    zero = {"seconds": 0}
    assert [replace(row, **zero) for row in left.outcomes] == [replace(row, **zero) for row in clean.outcomes]
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_a_setting_that_an_attack_changes_is_noted(linear, data):
    def leave(classifier, images, labels, threat, masks):
        torch.set_autocast_enabled("cpu", True)
        return images

    run(linear, data.select_images(range(8)), leave)
    assert "Scripted changes the process-wide autocast; put back before verification" in linear.notes


TAMPERINGS = {
    "weights": lambda network: network.weight.data.mul_(-1),
    "another parameter": lambda network: setattr(network, "weight", nn.Parameter(-network.weight.data)),
    "forward": lambda network: setattr(network, "forward", lambda images: torch.zeros(len(images), 4)),
    "forward of the class": lambda network: setattr(
        type(network), "forward", lambda self, images: (0.5 - images).flatten(1) @ self.weight.T
    ),
    "hook": lambda network: network.register_forward_hook(lambda *given: -given[-1]),
    "hook before": lambda network: network.register_forward_pre_hook(lambda *given: (1 - given[-1][0],)),
    "hook of all modules": lambda network: module_hooks.register_module_forward_hook(
        lambda *given: -given[-1]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_model_that_an_attack_changes_ends_the_cell_and_is_put_back(linear, data, honest, tampering):
    def tamper(classifier, images, labels, threat, masks):
        TAMPERINGS[tampering](classifier.module)
        return images

    with pytest.raises(ConfigError, match=r"changed the model's (weights|forward or hooks)"):
        run(linear, data, tamper)
    for row in run(linear, data, step).outcomes:
        assert (row.broken, row.adversarial_hash) == (
            honest[row.image].broken,
            honest[row.image].adversarial_hash,
        )


def test_labels_and_images_that_an_attack_writes_to_are_its_own(linear, data, honest):
    def shuffle(classifier, images, labels, threat, masks):
        found = step(classifier, images, labels, threat)
        labels.copy_(labels.roll(1))
        images.fill_(0.5)
        return found

    batch = run(linear, data, shuffle)
    assert all(row.broken == honest[row.image].broken for row in batch.outcomes)
    assert [row.label for row in batch.outcomes] == data.labels.tolist()


def test_a_mask_that_an_attack_widens_stays_what_it_was(linear, data):
    masks = torch.zeros(len(data), 1, 4, 4, dtype=torch.bool)
    masks[:, :, 0] = True
    threat = replace(LINF, region="mask")

    def widen(classifier, images, labels, threat, masks):
        masks.fill_(True)
        return step(classifier, images, labels, threat)

    def obey(classifier, images, labels, threat, masks):
        return torch.where(masks, step(classifier, images, labels, threat), images)

    masked = replace(data, masks=masks).select_images(range(1, 10))
    widened = run(linear, masked, widen, threat).outcomes
    assert {(row.status, row.broken) for row in widened} == {("rejected", False)}
    assert {row.error for row in widened} == {"the candidate changes pixels outside the mask"}
    assert {row.status for row in run(linear, masked, obey, threat).outcomes} == {"ok"}


CHANGES = {"Linf": torch.full((3, 4, 4), 0.099), "L2": torch.zeros(3, 4, 4), "L1": torch.zeros(3, 4, 4)}
CHANGES["L2"][:2] = 0.599 / 32**0.5  # 0.106 a pixel, and 3.4 in all
CHANGES["L1"][0, 0, 0] = 0.499
"""Changes inside one ball each, of eps 0.1, 0.6 and 0.5: each is outside of another one."""
RADII = [("Linf", 0.1), ("L2", 0.6), ("L1", 0.5)]
LEGAL = {("Linf", "Linf"), ("L2", "L2"), ("L1", "L1"), ("L1", "L2")}


@pytest.mark.parametrize(
    "threat", [ThreatModel(norm=norm, eps=eps) for norm, eps in RADII], ids=lambda t: t.norm
)
@pytest.mark.parametrize("norm", CHANGES)
def test_a_candidate_for_another_norm_is_rejected(linear, data, norm, threat):
    grey = replace(data, images=torch.full_like(data.images, 0.5)).select_images([0])
    grey.labels[0] = 0
    tilted = Classifier(Tilted(linear.module), num_classes=4, name="tilted")
    (row,) = run(tilted, grey, lambda classifier, images, *_: images + CHANGES[norm], threat).outcomes
    assert row.clean_correct
    assert row.status == ("ok" if (norm, threat.norm) in LEGAL else "rejected")


class Tilted(nn.Module):
    """The linear model with a bias to the first class."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images) + torch.tensor([100.0, 0.0, 0.0, 0.0])


def test_a_target_with_the_wrong_sign_and_another_class_than_the_target_are_no_success(linear, data):
    """Steps away from the target, or to the nearest class whatever it is: only the target itself counts."""
    threat = ThreatModel(norm="Linf", eps=0.1, targets=(2,))
    others = data.select_images((data.labels != 2).nonzero().flatten())

    def flip_sign(classifier, images, labels, threat, masks):
        return (images - threat.eps * find_direction(classifier, images, labels, threat.targets)).clamp(0, 1)

    def ignore_target(classifier, images, labels, threat, masks):
        return step(classifier, images, labels, replace(threat, targets=()))

    for cheat, is_any in ((step, True), (flip_sign, False), (ignore_target, True)):
        rows = [row for row in run(linear, others, cheat, threat).outcomes if row.clean_correct]
        assert any(row.broken for row in rows) is is_any, cheat
        for row in rows:
            assert row.broken == (row.adversarial_prediction == 2)
            assert row.moved_elsewhere == (row.adversarial_prediction not in {2, row.label})
        if cheat is ignore_target:
            assert any(row.moved_elsewhere for row in rows)


class Noisy(RandomizedClassifier):
    """Noise on the pixels."""

    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.1 * numbers.sample_normal(images.shape[1:]))


def test_one_lucky_draw_of_a_random_model_is_no_success(linear, data):
    noisy = Noisy(linear)
    lucky = []

    def wait_for_luck(classifier, images, labels, threat, masks):
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            noise = torch.randn(images.shape, generator=generator)
            lucky.extend((linear.module(images + 0.1 * noise).argmax(dim=1) != labels).nonzero().tolist())
        return images.clone()

    rows = run(noisy, data.select_images(range(12)), wait_for_luck).outcomes
    assert sum(row.clean_correct for row in rows) > 5
    assert len(lucky) > 50
    assert not any(row.broken for row in rows)


def test_a_success_that_is_rounded_to_8_bits_by_the_attack_has_to_be_one_still(linear, data):
    """What comes back is judged, and what is stored is what was judged, bit for bit."""

    def find_nearest(classifier, images, labels, threat, masks):
        found = step(classifier, images, labels, threat)
        low, high = torch.zeros(len(images)), torch.ones(len(images))
        for _ in range(20):
            middle = (low + high) / 2
            inside = images + middle.view(-1, 1, 1, 1) * (found - images)
            wrong = classifier(inside).argmax(dim=1) != labels
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return images + high.view(-1, 1, 1, 1) * (found - images)

    def round_at_the_end(*given):
        return (find_nearest(*given) * 255).round() / 255

    exact, rounded = run(linear, data, find_nearest), run(linear, data, round_at_the_end)
    before, after = (sum(row.broken for row in batch.outcomes) for batch in (exact, rounded))
    assert after < before
    for batch in (exact, rounded):
        answers = linear.module(batch.candidates).argmax(dim=1).tolist()
        for row, candidate, answer in zip(batch.outcomes, batch.candidates, answers, strict=True):
            assert row.adversarial_hash == hash_image(candidate)
            assert row.adversarial_prediction == answer
            assert row.broken == (row.clean_correct and answer != row.label)
    assert all(row.broken_8bit for row in rounded.outcomes if row.broken)


class Caching(nn.Module):
    """Answers from a cache whose key leaves out what matters."""

    def __init__(self, inner, make_key):
        super().__init__()
        self.inner, self.make_key, self.answers = inner, make_key, {}

    def forward(self, images):
        found = []
        for image in images:
            key = self.make_key(image)
            if key not in self.answers:
                self.answers[key] = self.inner(image[None])[0].detach()
            found.append(self.answers[key])
        return torch.stack(found)


KEYS = {
    "of the mean": lambda image: round(float(image.mean()), 2),
    "of one pixel": lambda image: round(float(image[0, 0, 0]), 1),
    "of the shape": lambda image: tuple(image.shape),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_model_that_answers_from_a_stale_cache_gets_no_figure(linear, data, key):
    """Its answers under attack are those of other images: a fresh copy answers otherwise."""
    classifier = Classifier(Caching(linear.module, KEYS[key]), num_classes=4, name="caching")

    def ask_first(classifier, images, labels, threat, masks):
        found = step(linear, images, labels, threat)
        classifier(found)
        return found

    with pytest.raises(ModelError, match=r"remembers|depend on the size of the batch"):
        run(classifier, data, ask_first, ThreatModel(norm="Linf", eps=0.1))


def test_candidates_that_an_attack_kept_from_another_model_or_radius_are_judged_anew(linear, data, honest):
    """An attack with a cache: the answers of another version of the model, and those of a larger radius."""
    kept = {}

    def remember(classifier, images, labels, threat, masks):
        for image in images:
            kept.setdefault(
                hash_image(image), step(classifier, image[None], classifier(image[None]).argmax(1), threat)[0]
            )
        return torch.stack([kept[hash_image(image)] for image in images])

    turned = Classifier(type(linear.module)(), num_classes=4, name="turned")
    turned.module.weight.data.copy_(linear.module.weight.roll(1, 0))
    first = run(linear, data, remember, ThreatModel(norm="Linf", eps=0.1)).outcomes
    assert any(row.broken for row in first)
    assert {row.status for row in run(linear, data, remember).outcomes} == {"rejected", "clean-wrong"}
    moved = replace(data, labels=turned.module(data.images).argmax(dim=1))
    found = run(turned, moved, remember, ThreatModel(norm="Linf", eps=0.1))
    answers = turned.module(found.candidates).argmax(dim=1)
    assert [row.broken for row in found.outcomes] == (answers != moved.labels).tolist()
