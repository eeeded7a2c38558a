"""SPSA: its estimate against the gradient, its path against Adam's, and its promises."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from torch import Tensor

from robustbench_local.attacks.black_box.spsa import SPSA, SPSASearch
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

LINF, L2 = ThreatModel(norm="Linf", eps="20/255"), ThreatModel(norm="L2", eps=1.0)
IDS = tuple(f"image-{row}" for row in range(96))
FEW = SPSA(steps=6, samples=32, step_size=0.03)


def estimates(
    sample: Sample,
    attack: SPSA,
    size: int,
    steps: int = 1,
    ask: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """What the search takes for the gradient at the first steps, on the engine's own front."""
    engine = Engine(sample.classifier, sample.images, sample.labels, sample.build_stream(attack))
    search = SPSASearch(attack=attack, threat=LINF, classifier=ask or sample.classifier, batch_size=size)
    front = engine._start_items(search, engine.build_items())
    found = []
    for _ in range(steps):
        found.append(search._estimate_gradient(front, front.state))
        front.increment_ages()
    return found


def test_the_estimate_agrees_with_the_gradient(small: Sample):
    some = small.select_images(torch.arange(6))
    attack = SPSA(samples=4096, delta=1e-3)
    _, _, gradient = some.classifier.compute_gradient(
        some.images, lambda logits: compute_margin(logits, some.labels)
    )
    inside = (some.images > 0.01) & (some.images < 0.99)
    guess = estimates(some, attack, 512)[0]
    alike = torch.cosine_similarity((guess * inside).flatten(1), (gradient * inside).flatten(1))
    # among 192 pixels, 2048 random directions leave noise of about sqrt(192 / 2048) of the length
    assert (alike > 0.85).all()
    steep = inside & (gradient.abs() > gradient.abs().flatten(1).amax(dim=1)[:, None, None, None] / 2)
    assert (guess.sign() == gradient.sign())[steep].float().mean() > 0.99


def test_directions_are_other_signs_at_every_step_and_for_every_image():
    generator = torch.Generator().manual_seed(0)
    sample = build_linear_sample(
        torch.randn(2, 50, generator=generator), torch.zeros(2), torch.full((3, 2, 5, 5), 0.5)
    )
    attack = SPSA(samples=10)
    engine = Engine(sample.classifier, sample.images, sample.labels, sample.build_stream(attack))
    search = SPSASearch(attack=attack, threat=LINF, classifier=sample.classifier, batch_size=4)
    front = engine._start_items(search, engine.build_items())
    whole = search._draw_signs(front, front.state, 0, 5)
    assert whole.shape == (3, 5, 2, 5, 5)
    assert set(whole.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(whole[:, 3:], search._draw_signs(front, front.state, 3, 2))
    front.increment_ages()
    every = torch.cat([whole, search._draw_signs(front, front.state, 0, 5)]).flatten(0, 1).flatten(1)
    assert len(every.unique(dim=0)) == 30
    assert abs(float(every.mean())) < 0.1


def test_the_samples_are_split_as_the_batch_demands_without_changing_the_estimate(small: Sample):
    # in float64: what float32 rounds a margin by, divided by the distance of samples, is a visible difference
    exact = copy.deepcopy(small.classifier.module).double()
    some = Sample(small.classifier, small.images[:5].double(), small.labels[:5])
    whole, parts = (estimates(some, FEW, size, ask=lambda images, _: exact(images))[0] for size in (1000, 3))
    assert whole.dtype == torch.float64
    assert torch.allclose(whole, parts, rtol=0, atol=1e-10)


def test_the_path_is_adams():
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 12, generator=generator)
    images = 0.5 + 0.1 * torch.rand(4, 1, 3, 4, generator=generator)
    sample = build_linear_sample(weights, torch.tensor([30.0, 0.0]), images)
    attack = SPSA(steps=5, samples=64)
    engine = Engine(sample.classifier, images, sample.labels, sample.build_stream(attack))
    search = SPSASearch(attack=attack, threat=LINF, classifier=sample.classifier, batch_size=512)
    front = engine._start_items(search, engine.build_items())
    pixels, mean, square = images.clone(), torch.zeros_like(images), torch.zeros_like(images)
    for step in range(1, 6):  # Kingma & Ba 2015, algorithm 1
        slope = search._estimate_gradient(front, front.state)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        pixels = pixels + 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        nothing = torch.empty(0)
        front.points = search.step(
            front, front.state, PointEvaluation(logits=nothing, losses=nothing, gradient=nothing)
        )
        front.increment_ages()
        assert torch.allclose(front.points, pixels, atol=1e-6)


def test_a_linear_model_is_driven_into_the_corner():
    generator = torch.Generator().manual_seed(2)
    weights = torch.zeros(2, 6)
    weights[1] = torch.randn(6, generator=generator).sign() * (1 + torch.rand(6, generator=generator))
    images = 0.5 + 0.1 * torch.rand(3, 1, 2, 3, generator=generator)
    sample = build_linear_sample(weights, torch.tensor([30.0, 0.0]), images)
    corner = images + 0.05 * weights[1].sign().view(1, 1, 2, 3)
    candidates = sample.attack(SPSA(steps=30, samples=128), ThreatModel(norm="Linf", eps=0.05))
    assert torch.allclose(candidates, corner, atol=1e-6)


@pytest.mark.parametrize("targets", [(), (1, 3)])
@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_ball_box_and_budget_are_kept(small: Sample, threat: ThreatModel, targets: tuple[int, ...]):
    threat = ThreatModel(norm=threat.norm, eps=threat.eps, targets=targets)
    before, asked = small.images.clone(), []

    class Watched(Classifier):
        def __call__(self, images, rows=None):
            asked.append((float(images.min()), float(images.max())))
            return super().__call__(images, rows)

    watched = Sample(Watched(small.classifier.model, num_classes=5), small.images, small.labels)
    with watched.classifier.count_passes(96, FEW.queries) as meter:
        candidates = watched.attack(FEW, threat)
    assert torch.equal(small.images, before)
    assert ((candidates >= 0) & (candidates <= 1)).all()
    assert all(low >= 0 and high <= 1 for low, high in asked)
    size = compute_norms(candidates.double() - before.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    broken = small.find_adversarial(candidates, threat)
    assert (meter.forward_passes[~broken] == FEW.queries).all()
    assert (meter.forward_passes[broken] < FEW.queries).any()
    assert not meter.backward_passes.any()
    assert FEW.estimate_cost(threat) == (FEW.queries, 0)
    assert FEW.queries == 6 * 33 + 1
    assert 4 <= int(broken.sum()) <= 92


def test_verdicts_do_not_depend_on_company_or_batches(small: Sample):
    def verdicts(order: list[int], size: int) -> Tensor:
        classifier = Classifier(small.classifier.model, num_classes=5)
        classifier.configure(batch_size=size)
        stream = RandomStream(0, tuple(IDS[row] for row in order), "spsa")
        with classifier.evaluation_mode():
            found = attack.perturb(classifier, small.images[order], small.labels[order], threat, stream)
        return small.select_images(torch.tensor(order)).find_adversarial(found, threat)

    attack, threat = SPSA(steps=4, samples=12, step_size=0.06), ThreatModel(norm="Linf", eps="44/255")
    reference = verdicts(list(range(40)), 40)
    assert 0.05 < float(reference.float().mean()) < 0.95
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    for order, size in ((list(range(40)), 7), (shuffled, 64), (shuffled[:5], 2)):
        assert torch.equal(verdicts(order, size), reference[order])


def test_a_sample_whose_answer_is_not_finite_is_left_out():
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)
        answer = torch.stack([1 + 0 * pixel[:, 0], pixel[:, 0]], dim=1)
        return torch.where((pixel[:, 1] > 0.505)[:, None], torch.inf, answer)

    sample = Sample(build_classifier(forward, 2), torch.full((2, 1, 1, 2), 0.5), torch.tensor([0, 0]))
    candidates = sample.attack(SPSA(steps=4, samples=64), ThreatModel(norm="Linf", eps=0.02))
    assert torch.isfinite(candidates).all()


def test_scores_are_all_it_needs(small: Sample):
    assert SPSA().knowledge == "scores"
    black_box = Classifier(lambda images: images.flatten(1)[:, :2] * 9, num_classes=2)
    FEW.check_support(LINF, black_box)
    none = small.select_images(torch.arange(0))
    assert none.attack(FEW, LINF).shape == (0, 3, 8, 8)
    assert torch.equal(small.attack(FEW, ThreatModel(norm="L2", eps=0)), small.images)
    assert FEW.estimate_cost(ThreatModel(norm="L2", eps=0)) == (0, 0)
    assert SPSA().queries == 204_901


def test_steps_that_cannot_cross_the_ball_are_mentioned():
    assert SPSA().list_warnings(LINF) == []
    assert "do not go half the way" in SPSA(steps=5).list_warnings(ThreatModel(norm="Linf", eps=0.3))[0]


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"samples": 0}, {"samples": 7}, {"delta": 0.0}, {"step_size": 1.0}]
)
def test_impossible_hyper_parameters_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match="SPSA"):
        SPSA(**wrong)
