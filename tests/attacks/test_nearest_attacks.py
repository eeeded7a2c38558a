"""Attacks for the nearest image: exact where that can be computed, and what they promise elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from scipy.optimize import linprog
from torch import Tensor, nn

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.cw import CW
from robustbench_local.attacks.minimum_norm.ddn import DDN
from robustbench_local.attacks.minimum_norm.deepfool import DeepFool
from robustbench_local.attacks.minimum_norm.ead import EAD
from robustbench_local.attacks.minimum_norm.fmn import FMN
from robustbench_local.attacks.minimum_norm.nearest_search import split_steps
from robustbench_local.attacks.minimum_norm.pdpgd import PDPGD
from robustbench_local.attacks.minimum_norm.refine import move_to_boundary, refine_successes
from robustbench_local.attacks.minimum_norm.sparse_refinement import refine_sparse_successes
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

FAR = {"Linf": 1.0, "L2": 20.0, "L1": 190.0}
DUAL = {"Linf": 1, "L2": 2, "L1": float("inf")}
CASES: list[tuple[MinimumNormAttack, str]] = [
    (DDN(steps=12), "L2"),
    (FMN(steps=12), "Linf"),
    (FMN(steps=12), "L2"),
    (FMN(steps=12), "L1"),
    (CW(steps=12, searches=2, learning_rate=0.05), "L2"),
    (DeepFool(), "L2"),
    (DeepFool(), "Linf"),
    (EAD(steps=12, searches=2), "L1"),
    (PDPGD(steps=40), "L1"),
]
each_case = pytest.mark.parametrize(
    ("attack", "norm"), CASES, ids=[f"{type(attack).__name__}-{norm}" for attack, norm in CASES]
)


def distances(
    sample: Sample, attack: MinimumNormAttack, threat: ThreatModel, masks: Tensor | None = None
) -> Tensor:
    """Distance of each candidate, infinite where the original came back; successes are checked."""
    candidates = sample.attack(attack, threat, masks)
    assert ((candidates >= 0) & (candidates <= 1)).all()
    moved = (candidates != sample.images).flatten(1).any(dim=1)
    assert sample.find_adversarial(candidates, threat)[moved].all()
    size = compute_norms(candidates.double() - sample.images.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    return torch.where(moved, size, torch.inf)


def linear(classes: int, count: int, shift: float = 0.0, scale: float = 1.0) -> Sample:
    """A linear classifier on images in the middle of the box that are not too near a border for float32."""
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn(classes, 48, generator=generator)
    images = 0.5 + 0.3 * (torch.rand(400, 3, 4, 4, generator=generator) - 0.5)
    bias = -(weights @ images.flatten(1).mean(dim=0))
    sample = build_linear_sample(scale * weights, scale * (bias + shift), images)
    with torch.no_grad():
        gaps = -compute_margin(sample.classifier(images), sample.labels) / scale
    return sample.select_images(((gaps > 0.15) & (gaps < 1.0)).nonzero().flatten()[:count])


def closed_form(sample: Sample, norm: str) -> Tensor:
    """Distance to the nearest border of a linear classifier where no pixel reaches the box."""
    weights, bias = (part.detach().double() for part in sample.classifier.model[1].parameters())
    logits = sample.images.flatten(1).double() @ weights.t() + bias
    gaps = logits.gather(1, sample.labels[:, None]) - logits
    slopes = torch.linalg.vector_norm(weights[sample.labels][:, None] - weights[None], ord=DUAL[norm], dim=2)
    return (gaps / slopes).scatter(1, sample.labels[:, None], torch.inf).amin(dim=1)


@each_case
def test_a_linear_classifier_is_answered_exactly(attack: MinimumNormAttack, norm: str):
    sample = linear(10, 16)
    found = distances(sample, attack, ThreatModel(norm=norm, eps=FAR[norm]))
    expected = closed_form(sample, norm)
    apart = found / expected - 1
    assert float(apart.min()) > -1e-4
    assert float(apart.max()) < 1e-4


@each_case
def test_neither_shift_nor_scale_of_the_logits_matters(attack: MinimumNormAttack, norm: str):
    threat = ThreatModel(norm=norm, eps=FAR[norm])
    for classes, shift, scale in ((2, -100.0, 1.0), (3, 0.0, 1000.0)):
        sample = linear(classes, 8, shift, scale)
        apart = distances(sample, attack, threat) / closed_form(sample, norm) - 1
        # a float32 near 100 has steps of 8e-6, a logit here differs by .15 at least
        assert float(apart.max()) < (1e-3 if shift else 1e-4), (shift, scale)


@each_case
@pytest.mark.parametrize("classes", [3, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_none_within_eps_is_missed_on_a_linear_classifier(attack: MinimumNormAttack, norm: str, classes: int):
    sample = crowded(classes)
    expected = closed_form(sample, norm)
    eps = float(expected.median()) * 1.0001
    threat = ThreatModel(norm=norm, eps=eps)
    with sample.classifier.count_passes(40) as meter:
        candidates = sample.attack(attack, threat)
    forward, backward = attack.estimate_cost(threat)
    assert int(meter.forward_passes.max()) <= forward
    assert int(meter.backward_passes.max()) <= backward
    size = compute_norms(candidates.double() - sample.images.double(), norm)
    found = torch.where(sample.find_adversarial(candidates, threat), size, torch.inf)
    assert float(size.max()) <= eps * (1 + 1e-5)
    near = expected < 0.99 * eps
    assert 12 <= int(near.sum()) <= 20
    # the nearest of these images differ from their originals by a few roundings of a pixel
    assert float((found[near] - expected[near]).abs().max()) < 3e-3 * eps
    assert found[expected > 1.001 * eps].isinf().all()


def crowded(classes: int) -> Sample:
    """A linear classifier on 40 images in the middle of the box, whatever their margins are."""
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn(classes, 768, generator=generator)
    images = 0.4 + 0.2 * torch.rand(40, 3, 16, 16, generator=generator)
    return build_linear_sample(
        weights, 0.01 * torch.randn(classes, generator=generator) - weights.sum(1) / 2, images
    )


def untrained(shift: float) -> Sample:
    """Sixteen images in a network whose logits differ by .2 at most, and the label's by .004 to .03."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = layers(images).argmax(dim=1)
    return Sample(build_classifier(lambda pictures: layers(pictures) + shift, 10), images, labels)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "norm"), [(DeepFool(), "L2"), (DeepFool(), "Linf"), (DDN(), "L2")])
def test_no_success_is_lost_where_two_logits_are_the_same_float(attack: MinimumNormAttack, norm: str):
    threat = ThreatModel(norm=norm, eps=FAR[norm])
    plain = distances(untrained(0.0), attack, threat)
    assert plain.isfinite().all()
    for shift in (-10.0, -30.0, -100.0, -300.0, 300.0):
        # a float32 near 300 has steps of 3e-5: a hundredth of the smallest margin
        shifted = distances(untrained(shift), attack, threat)
        assert (shifted / plain < 1.01 + 3e-4 * abs(shift)).all(), shift


@pytest.mark.parametrize("case", [1, 3, 7])
def test_where_the_box_binds_a_linear_programme_agrees(case: int):
    attack, norm = CASES[case]
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(2, 12, generator=generator)
    images = torch.rand(40, 3, 2, 2, generator=generator).mul(1.6).sub(0.3).clamp(0, 1)
    sample = build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)
    sample = sample.select_images(
        (compute_margin(sample.classifier(images).detach(), sample.labels) < -1).nonzero().flatten()[:12]
    )
    found = distances(sample, attack, ThreatModel(norm=norm, eps=12.0 if norm == "L1" else 1.0))
    expected = torch.tensor([programme(sample, row, norm) for row in range(len(sample.images))])
    assert len(expected) >= 8
    assert torch.allclose(found.float(), expected, rtol=2e-4)


def programme(sample: Sample, row: int, norm: str) -> float:
    """The least distance at which two classes tie, inside the box, by a general solver."""
    weights, bias = (part.detach().double().numpy() for part in sample.classifier.model[1].parameters())
    label = int(sample.labels[row])
    slope, gap = weights[1 - label] - weights[label], float(bias[1 - label] - bias[label])
    image = sample.images[row].flatten().double().numpy()
    size = len(image)
    # change = up - down, both at least 0; Linf needs a bound above them all
    costs = (
        np.concatenate([np.zeros(2 * size), [1.0]]) if norm == "Linf" else np.append(np.ones(2 * size), 0.0)
    )
    reach = [np.concatenate([-slope, slope, [0.0]])]
    limits = [gap + slope @ image]
    if norm == "Linf":
        each = np.hstack([np.eye(2 * size), -np.ones((2 * size, 1))])
        reach, limits = [*reach, *each], [*limits, *np.zeros(2 * size)]
    bounds = [(0, 1 - pixel) for pixel in image] + [(0, pixel) for pixel in image] + [(0, None)]
    return float(linprog(costs, A_ub=np.array(reach), b_ub=np.array(limits), bounds=bounds).fun)


@dataclass(frozen=True)
class Found:
    """What an attack made of the first 14 images with no limit on the distance, and the passes it spent."""

    candidates: Tensor
    forward_passes: Tensor
    backward_passes: Tensor


@pytest.fixture(scope="module")
def found(small: Sample) -> Callable[[MinimumNormAttack, str], Found]:
    """Searches, each done once."""
    sample = small.select_images(torch.arange(14))

    @cache
    def search(attack: MinimumNormAttack, norm: str) -> Found:
        with sample.classifier.count_passes(14) as meter:
            candidates = sample.attack(attack, ThreatModel(norm=norm, eps=FAR[norm]))
        return Found(candidates, meter.forward_passes, meter.backward_passes)

    return search


@each_case
def test_what_is_found_lies_at_the_border(small: Sample, found, attack: MinimumNormAttack, norm: str):
    sample, candidates = small.select_images(torch.arange(14)), found(attack, norm).candidates
    assert sample.find_adversarial(candidates, ThreatModel(norm=norm, eps=1)).all()
    with torch.no_grad():
        halfway = sample.classifier((candidates + sample.images) / 2)
        logits = sample.classifier(candidates)
    assert (compute_margin(halfway, sample.labels) < 0).all()
    assert float((compute_margin(logits, sample.labels) / logits.abs().amax(dim=1)).median()) < 0.01


@each_case
def test_distances_do_not_depend_on_the_batch(small: Sample, found, attack: MinimumNormAttack, norm: str):
    expected, rows = compute_norms(found(attack, norm).candidates - small.images[:14], norm), [9, 2, 13]
    sample, threat = small.select_images(torch.tensor(rows)), ThreatModel(norm=norm, eps=FAR[norm])
    with sample.classifier.evaluation_mode():
        stream = RandomStream(0, tuple(f"image-{row}" for row in rows), repr(attack))
        parts = attack.perturb(sample.classifier, sample.images, sample.labels, threat, stream)
    again = compute_norms(parts - sample.images, norm)
    assert float((again / expected[rows] - 1).abs().median()) < 1e-3


@each_case
def test_a_nearest_success_beyond_eps_is_none(small: Sample, found, attack: MinimumNormAttack, norm: str):
    sample = small.select_images(torch.arange(14))
    far = compute_norms(found(attack, norm).candidates - sample.images, norm)
    near = distances(sample, attack, ThreatModel(norm=norm, eps=float(far.median())))
    assert 3 <= int(near.isfinite().sum()) <= 11
    assert attack.measure == "distance"


@each_case
def test_passes_are_within_the_cost_and_eps_0_is_free(
    small: Sample, found, attack: MinimumNormAttack, norm: str
):
    forward, backward = attack.estimate_cost(ThreatModel(norm=norm, eps=FAR[norm]))
    spent = found(attack, norm)
    assert int(spent.forward_passes.max()) <= forward
    assert int(spent.backward_passes.max()) <= backward
    if not isinstance(attack, DeepFool):  # it has a second path, for images without success
        assert int(spent.forward_passes.min()) >= forward - 2
    nothing = ThreatModel(norm=norm, eps=0)
    assert torch.equal(small.attack(attack, nothing), small.images)
    assert attack.estimate_cost(nothing) == (0, 0)
    none = small.select_images(torch.arange(0))
    assert none.attack(attack, ThreatModel(norm=norm, eps=1)).shape == (0, 3, 8, 8)


@each_case
def test_only_wanted_classes_and_only_inside_the_mask(small: Sample, attack: MinimumNormAttack, norm: str):
    sample = small.select_images((small.labels > 1).nonzero().flatten()[:8])
    masks = torch.ones(8, 1, 8, 8, dtype=torch.bool)
    masks[..., :2] = False
    threat = ThreatModel(norm=norm, eps=FAR[norm], targets=(0, 1), region="mask")
    candidates = sample.attack(attack, threat, masks)
    outside = ~masks.expand_as(candidates)
    assert torch.equal(candidates[outside], sample.images[outside])
    moved = (candidates != sample.images).flatten(1).any(dim=1)
    assert int(moved.sum()) >= 6
    assert sample.find_adversarial(candidates, threat)[moved].all()


@each_case
def test_broken_models_spoil_nothing(small: Sample, attack: MinimumNormAttack, norm: str):
    threat, images = ThreatModel(norm=norm, eps=FAR[norm]), small.images[:9].clone()
    images[0:3, 0, 0, 0], images[3:6, 0, 0, 0] = (
        0.1,
        0.9,
    )  # told apart by their first pixel, which has no slope

    def partly_broken(pictures: Tensor) -> Tensor:
        mark = pictures[:, :1, 0, 0].detach()
        logits = small.classifier.model(pictures)
        flat = 0 * logits + torch.tensor([3.0, 0, 0, 0, 0])
        return torch.where(mark < 0.11, torch.nan, torch.where(mark > 0.89, flat, logits))

    labels = small.labels[:9].clone()
    labels[3:6] = 0
    sample = Sample(build_classifier(partly_broken, 5), images, labels)
    candidates = sample.attack(attack, threat)
    moved = (candidates != images).flatten(1).any(dim=1)
    assert candidates.isfinite().all()
    assert not moved[:3].any()  # an answer that is not a number needs no attack
    # around the next three the answer is constant: only a random start may leave that region
    reached = sample.find_adversarial(candidates, threat) | sample.classifier(candidates).isnan().any(dim=1)
    assert reached[3:6][moved[3:6]].all()
    assert moved[6:].all()


def test_a_thousand_classes(small: Sample):
    sample = linear(1000, 6)
    for attack, norm in ((DDN(steps=12), "L2"), (DeepFool(), "Linf")):
        found = distances(sample, attack, ThreatModel(norm=norm, eps=FAR[norm]))
        assert torch.allclose(found, closed_form(sample, norm), rtol=1e-3)


def test_ddn_is_no_farther_than_the_published_library(small: Sample, foolbox):
    sample = small.select_images(torch.arange(48))
    ours = distances(sample, DDN(steps=50), ThreatModel(norm="L2", eps=20))
    model = foolbox.PyTorchModel(sample.classifier.model, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.DDNAttack(steps=50)(model, sample.images, sample.labels, epsilons=None)[1]
    assert float(ours.median()) <= 1.02 * float(compute_norms(theirs - sample.images, "L2").median())


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DDN, {"gamma": 1.0}, "gamma"),
        (DDN, {"steps": 0}, "steps"),
        (FMN, {"step_size": 0.0}, "step_size"),
        (CW, {"c": 0.0}, "c must be above 0"),
        (CW, {"searches": 0}, "searches"),
        (DeepFool, {"overshoot": -0.1}, "overshoot"),
        (EAD, {"beta": 0.0}, "beta"),
        (PDPGD, {"dual_travel": 0.0}, "dual_travel"),
    ],
)
def test_impossible_numbers_are_refused(kind: type[MinimumNormAttack], wrong: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        kind(**wrong)


def test_norms_that_an_attack_does_not_know_are_refused(small: Sample):
    with pytest.raises(ThreatError, match="does not support the norm"):
        DDN().check_support(ThreatModel(norm="Linf", eps=0.1), small.classifier)


def clipped_network(threshold: float) -> Sample:
    """Twelve dark images in a network without a gradient at any: its first layer clips dark pixels."""
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(4, 48, generator=generator)
    images = 0.2 * torch.rand(12, 3, 4, 4, generator=generator)
    bias = torch.tensor([1.0, 0.0, 0.2, 0.4])

    def forward(pictures: Tensor) -> Tensor:
        return (pictures - threshold).clamp_min(0).flatten(1) @ weights.t() + bias

    return Sample(build_classifier(forward, 4), images, torch.zeros(12, dtype=torch.int64))


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (FMN(steps=40), "Linf"),
        (FMN(steps=40), "L2"),
        (FMN(steps=40), "L1"),
        (DDN(steps=40), "L2"),
        (CW(steps=20, searches=6, learning_rate=0.05), "L2"),
        (DeepFool(steps=10), "L2"),
        (DeepFool(steps=10), "Linf"),
        (EAD(steps=20, searches=4), "L1"),
        (PDPGD(steps=40), "L1"),
    ],
    ids=lambda value: str(value).partition("(")[0],
)
def test_an_image_without_a_gradient_is_left_by_a_random_start(attack: MinimumNormAttack, norm: str):
    sample = clipped_network(0.25)
    logits, _, gradient = sample.classifier.compute_gradient(sample.images, lambda logits: logits.sum(dim=1))
    assert (logits.argmax(dim=1) == 0).all()
    assert not gradient.any()
    assert distances(sample, attack, ThreatModel(norm=norm, eps=FAR[norm])).isfinite().all()


def test_one_path_from_an_image_without_a_gradient_goes_nowhere():
    sample = clipped_network(0.25)
    for attack in (FMN(steps=40, paths=1), DDN(steps=40, paths=1), FMN(steps=39), PDPGD(steps=39)):
        norm = "L1" if isinstance(attack, PDPGD) else "L2"
        assert distances(sample, attack, ThreatModel(norm=norm, eps=FAR[norm])).isinf().all(), attack


def test_a_dense_success_becomes_sparse(small: Sample):
    sample = small.select_images(torch.arange(14))
    threat = ThreatModel(norm="L1", eps=FAR["L1"])
    found = []
    for refine in (move_to_boundary, refine_successes, refine_sparse_successes):
        stream = RandomStream(0, [str(row) for row in range(14)], "refine")
        engine = Engine(sample.classifier, sample.images, sample.labels, stream, early_stop=False)
        dense = sample.attack(FMN(steps=12), ThreatModel(norm="L2", eps=FAR["L2"]))
        engine.points = dense
        engine.scores = 1 / compute_norms(dense - sample.images, "L1")
        refine(engine, threat)
        assert sample.find_adversarial(engine.points, threat).all()
        found.append(compute_norms(engine.points - sample.images, "L1"))
    boundary, refined, sparse = found
    assert (sparse <= boundary).all()
    assert float(sparse.mean()) < 0.99 * float(refined.mean())


def test_few_steps_give_fewer_paths_and_none_is_lost():
    assert [split_steps(steps, 4) for steps in (1, 39, 40, 79, 81)] == [
        (1,), (39,), (20, 20), (27, 26, 26), (21, 20, 20, 20),
    ]  # fmt: skip
    assert split_steps(100, 1) == (100,)
    with pytest.raises(ConfigError, match="paths must be at least 1"):
        FMN(paths=0)
    with pytest.raises(ConfigError, match="paths must be at least 1"):
        DDN(paths=0)
