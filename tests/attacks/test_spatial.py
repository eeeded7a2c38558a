"""The spatial attack against brute force, its passes, its invariance; the families behind the harness."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from attack_samples import Sample, build_classifier

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.corruption import Corruption
from robustbench_local.attacks.spatial import Spatial
from robustbench_local.data.dataset import as_dataset
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.evaluation.harness.verify import verify
from robustbench_local.evaluation.options import Options
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.corruptions import corrupt_images
from robustbench_local.threats.eight_bit import round_to_8bit
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.warp import rotate_and_translate

THIRTY = ThreatModel(norm="spatial", eps=30)
TWELVE = ThreatModel(norm="spatial", eps=12)
LIMITS = torch.tensor([12, 0.04, 0.04])
FOG = ThreatModel(norm="corruption", eps=5, transformation="fog")
GLASS = ThreatModel(norm="corruption", eps=5, transformation="glass_blur")


def margins_of(sample: Sample, parameters: torch.Tensor) -> torch.Tensor:
    """The label's logit minus the best other one under these parameters, (N,)."""
    with torch.no_grad():
        logits = sample.classifier(rotate_and_translate(sample.images, parameters[:, 0], parameters[:, 1:]))
    own = logits.gather(1, sample.labels[:, None]).squeeze(1)
    return own - logits.scatter(1, sample.labels[:, None], -torch.inf).amax(dim=1)


def grid_of(angles: int, shifts: int, threat: ThreatModel) -> torch.Tensor:
    """All points of a grid, (points, 3)."""
    side = torch.linspace(-threat.eps / 300, threat.eps / 300, shifts).tolist()
    turns = torch.linspace(-threat.eps, threat.eps, angles).tolist()
    return torch.tensor(list(itertools.product(turns, side, side)))


@pytest.fixture(scope="module")
def brute(small: Sample) -> torch.Tensor:
    """The smallest margin of 24 images over a grid of 99 points."""
    some, points = small.select_images(torch.arange(24)), grid_of(11, 3, TWELVE)
    return torch.stack([margins_of(some, point.expand(24, 3)) for point in points]).amin(dim=0)


def test_the_grid_search_is_exactly_brute_force(small: Sample, brute: torch.Tensor, monkeypatch):
    monkeypatch.setattr("robustbench_local.attacks.spatial._GRID_POINTS", (11, 3, 3))
    some = small.select_images(torch.arange(24))
    with small.classifier.evaluation_mode(), small.classifier.count_passes(24) as meter:
        found = Spatial().perturb(
            some.classifier, some.images, some.labels, TWELVE, some.build_stream(Spatial())
        )
    margins = margins_of(some, found)
    assert ((margins < 0) == (brute < 0)).all()
    assert 0 < int((brute < 0).sum()) < 24
    standing = brute > 0
    assert torch.allclose(margins[standing], brute[standing], atol=1e-5)  # the worst point by margin
    assert (meter.forward_passes[standing] == 99).all()
    assert (meter.forward_passes[~standing] < 99).all()
    assert (meter.backward_passes == 0).all()


def test_the_grid_is_that_of_the_paper():
    points = Spatial()._build_search_points(THIRTY, RandomStream(0, ("x",), ""))[0]
    assert Spatial().estimate_cost(THIRTY) == (775, 0)
    expected = grid_of(31, 5, THIRTY)
    apart = (points[:, None] - expected[None]).abs().amax(dim=2)
    assert float(apart.amin(dim=0).max()) < 1e-5
    assert len(points) == len(expected)
    assert points[-1].tolist() == [0, 0, 0]


def test_the_random_search_takes_the_worst_of_its_draws(small: Sample, brute: torch.Tensor):
    some, attack = small.select_images(torch.arange(24)), Spatial(search="random", draws=10)
    found = some.attack(attack, TWELVE)
    assert (found.abs() <= LIMITS).all()
    points = some.build_stream(attack).sample_uniform((10, 3), draw="points", device="cpu", low=-1, high=1)
    points = points * LIMITS
    all_margins = torch.stack([margins_of(some, points[:, draw]) for draw in range(10)])
    standing = all_margins.amin(dim=0) > 0
    assert torch.allclose(margins_of(some, found)[standing], all_margins.amin(dim=0)[standing], atol=1e-5)
    assert (margins_of(some, found)[~standing] < 0).all()
    assert not (~standing & (brute > 0.1)).any()  # the grid is fine enough to know


@pytest.mark.parametrize("attack", [Spatial(search="random"), Corruption()], ids=repr)
def test_outcomes_do_not_depend_on_batch_size(small: Sample, attack: Attack):
    threat = THIRTY if isinstance(attack, Spatial) else GLASS
    asked = {"norm": threat.norm, "eps": threat.eps, "transformation": threat.transformation or None}
    data = as_dataset((small.images[:30], small.labels[:30]))
    whole, parts = (
        evaluate(small.classifier, data, attack=attack, options=Options(batch_size=size), **asked)
        for size in (30, 7)
    )
    assert whole.outcomes["broken"].tolist() == parts.outcomes["broken"].tolist()
    assert torch.equal(whole.adversarial_examples, parts.adversarial_examples)
    assert 0 < whole.counts.broken < 30


def test_the_harness_corrupts_what_the_card_says(small: Sample):
    data = as_dataset((small.images[:10], small.labels[:10]))
    result = evaluate(small.classifier, data, attack="fog-3", seed=4)
    expected = corrupt_images(data.images, "fog", 3, RandomStream(4, data.ids, ""))
    assert torch.equal(result.adversarial_examples, expected)
    assert result.outcomes["forward_passes"].max() <= 3
    survives = result.outcomes.query("broken")["broken_8bit"]
    assert survives.all()  # a corrupted image lies on the 8-bit grid


@pytest.mark.parametrize("threat", [ThreatModel(norm="spatial", eps=0),
                                    ThreatModel(norm="corruption", eps=0, transformation="fog")])  # fmt: skip
def test_nothing_allowed_means_nothing_changed(small: Sample, threat: ThreatModel):
    attack = make_attack(threat.norm)
    found = small.attack(attack, threat)
    with small.classifier.evaluation_mode():
        verdict = verify(
            small.classifier, small.images, small.labels, found, threat, stream=small.build_stream(attack)
        )
    assert torch.equal(verdict.candidates, small.images)
    assert not verdict.broken.any()
    assert attack.estimate_cost(threat) == (0, 0)


@dataclass(frozen=True, kw_only=True)
class Smuggler(Attack):
    """Hands in something outside the family."""

    norms = frozenset({"spatial", "corruption"})
    what: str = ""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        wrong = {
            "images": torch.zeros_like(images),
            "too far": torch.tensor([[31.0, 0, 0]]).expand(len(images), 3),
            "too far down": torch.tensor([[0, 0, -0.11]]).expand(len(images), 3),
            "NaN": torch.full((len(images), 3), torch.nan),
            "a list": [1, 2, 3],
        }
        return wrong[self.what]

    def estimate_cost(self, threat):
        return (0, 0)


@pytest.mark.parametrize(
    ("what", "reason"),
    [("images", "parameters"), ("too far", "leave the family"), ("too far down", "10% of the side"),
     ("NaN", "leave the family")],
)  # fmt: skip
def test_nothing_outside_the_family_gets_in(small: Sample, what: str, reason: str):
    data = as_dataset((small.images[:6], small.labels[:6]))
    result = evaluate(small.classifier, data, attack=Smuggler(what=what), norm="spatial", eps=30)
    assert result.counts.broken == 0
    assert (result.outcomes["status"] == "rejected").all()
    assert result.outcomes["error"].str.contains(reason).all()
    assert torch.equal(result.adversarial_examples, small.images[:6])


def test_what_is_no_tensor_is_refused(small: Sample):
    data = as_dataset((small.images[:6], small.labels[:6]))
    with pytest.raises(ConfigError, match="returned a list, not a tensor"):
        evaluate(small.classifier, data, attack=Smuggler(what="a list"), norm="spatial", eps=30)


def test_a_corruption_takes_no_parameters_and_needs_random_numbers(small: Sample):
    with small.classifier.evaluation_mode():
        given = torch.zeros(len(small.images), 3)
        verdict = verify(small.classifier, small.images, small.labels, given, FOG)
        assert all("under corruption it returns" in reason for reason in verdict.rejection_reasons)
        with pytest.raises(ThreatError, match="random numbers"):
            verify(small.classifier, small.images, small.labels, given[:, :0], FOG)


def test_ball_attacks_refuse_families_and_families_refuse_balls(small: Sample):
    for method in ("fgsm", "pgd", "autoattack"):
        for threat in (THIRTY, FOG):
            with pytest.raises(ThreatError, match="does not support the norm"):
                make_attack(method).check_support(threat, small.classifier)
    for method in ("spatial", "corruption"):
        with pytest.raises(ThreatError, match="does not support the norm 'Linf'"):
            make_attack(method).check_support(ThreatModel(norm="Linf", eps=0.1), small.classifier)
    targeted = ThreatModel(norm="corruption", eps=5, transformation="fog", targets=(1,))
    with pytest.raises(ThreatError, match="does not support the goal"):
        Corruption().check_support(targeted, small.classifier)
    with pytest.raises(ConfigError, match="at least 1 draw"):
        Spatial(search="random", draws=0)


def light_by_side(images: torch.Tensor) -> torch.Tensor:
    """Light on the left, on the right, and at the top, as three logits."""
    sides = images[:, 0, :, :4], images[:, 0, :, 4:], images[:, 0, :4] / 2
    return torch.stack([side.mean((1, 2)) for side in sides], dim=1)


def test_a_targeted_turn_reaches_its_target():
    classifier = build_classifier(light_by_side, 3)
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4] = 1
    threat = ThreatModel(norm="spatial", eps=180, targets=(1,))
    with classifier.evaluation_mode():
        found = Spatial().perturb(classifier, image, torch.tensor([0]), threat, RandomStream(0, ("x",), ""))
        verdict = verify(classifier, image, torch.tensor([0]), found, threat)
    assert verdict.broken.tolist() == [True]
    assert verdict.predictions.prediction.tolist() == [1]


def test_without_a_ball_rounding_goes_to_the_nearest_level(small: Sample):
    candidates = torch.rand(small.images.shape, generator=torch.Generator().manual_seed(3))
    rounded, exists = round_to_8bit(candidates, small.images, THIRTY)
    assert exists.all()
    assert float((rounded - candidates).abs().max()) <= 0.5 / 255 + 1e-6
    assert torch.equal((rounded * 255).round() / 255, rounded)
