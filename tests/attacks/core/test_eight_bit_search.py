"""The finishing search against every 8-bit image of balls that are small enough to look at them all."""

from __future__ import annotations

import itertools
from functools import lru_cache

import pytest
import torch
from attack_samples import Sample, build_classifier
from torch import Tensor, nn

from robustbench_local.attacks.core.eight_bit_search import FinishingSearch, estimate_finishing_cost
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.verify import find_ball_violations
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.eight_bit import round_to_8bit
from robustbench_local.threats.lp_ball import project_to_box, sample_random_start
from robustbench_local.threats.threat_model import ThreatModel

CLEAR = 2e-4
TINY = ThreatModel(norm="Linf", eps=3.4 / 255)
BALLS = [ThreatModel(norm=norm, eps=eps) for norm, eps in (("Linf", "6/255"), ("L2", 0.6), ("L1", 7.0))]


class Asked(Classifier):
    """Remembers every image it was asked about, and how often for a gradient."""

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__(module, num_classes=classes, name="asked")
        self.looks: list[Tensor] = []
        self.gradients = 0

    def __call__(self, images, rows=None):
        self.looks.append(images.detach().clone())
        return super().__call__(images, rows)

    def compute_gradient(self, images, loss, rows=None):
        self.gradients += len(images)
        return super().compute_gradient(images, loss, rows)


def finish(classifier, originals, labels, candidates, threat, *, access="gradients", masks=None, **more):
    names = tuple(f"image-{row}" for row in range(len(originals)))
    blind = more.pop("blind", False)
    search = FinishingSearch(
        classifier=classifier, threat=threat, access=access, clear_margin_share=CLEAR, is_blind=blind
    )
    given = {
        "rows": torch.arange(len(originals)),
        "in_8bit": torch.ones(len(originals), dtype=torch.bool),
        "masks": masks,
    } | more
    with classifier.evaluation_mode(), classifier.count_passes(len(originals)) as meter:
        found = search.finish_candidates(
            originals, labels, candidates, RandomStream(0, names, "test"), **given
        )
    return found, meter


def curved(seed: int = 0) -> nn.Module:
    """Three pixels to three classes, with a border that bends within a few levels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 3))
        with torch.no_grad():
            model[1].weight.mul_(60)
            model[1].bias.copy_(-(model[1].weight @ torch.rand(3, 24)).diag())
    return model


def grid_margins(model: nn.Module, original: Tensor, label: int, threat: ThreatModel) -> Tensor:
    """The share of the logits' range that each 8-bit image of an Linf ball succeeds by."""
    steps = range(-int(threat.eps * 255 + 1e-3), int(threat.eps * 255 + 1e-3) + 1)
    change = torch.tensor(list(itertools.product(steps, repeat=3))).view(-1, 1, 1, 3)
    levels = ((original * 255).round() + change).clamp(0, 255)
    with torch.no_grad():
        logits = model(levels.float() / 255)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return compute_margin(logits, torch.full((len(levels),), label)) / spread


@lru_cache
def curved_sample() -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    """A network, with its originals, labels and successes."""
    model = curved()
    return model, borderline(model)


def borderline(model: nn.Module, count: int = 400, tries: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, labels and successes inside the ball that are none any more as 8-bit images."""
    generator = torch.Generator().manual_seed(1)
    originals = torch.randint(20, 236, (count, 1, 1, 3), generator=generator).float() / 255
    many = originals.repeat_interleave(tries, dim=0)
    points = many + (2 * torch.rand(many.shape, generator=generator) - 1) * TINY.eps
    rounded, _ = round_to_8bit(points, many, TINY)
    with torch.no_grad():
        labels = model(originals).argmax(dim=1)
        here, there = (model(each).argmax(dim=1).view(count, tries) for each in (points, rounded))
    wrong = (here != labels[:, None]) & (there == labels[:, None])
    rows = wrong.any(dim=1).nonzero().flatten()
    first = wrong.long().argmax(dim=1)[rows]
    return originals[rows], labels[rows], points.view(count, tries, 1, 1, 3)[rows, first]


@pytest.mark.parametrize(("access", "least"), [("gradients", 0.9), ("scores", 0.7), ("labels", 0.7)])
def test_where_an_8bit_image_succeeds_it_is_mostly_found_and_nowhere_else(access, least):
    model, (originals, labels, candidates) = curved_sample()
    asked = Asked(model, 3)
    found, meter = finish(asked, originals, labels, candidates, TINY, access=access)
    pairs = zip(originals, labels.tolist(), strict=True)
    best = torch.stack([grid_margins(model, original, label, TINY).max() for original, label in pairs])
    possible = best > (CLEAR if access != "labels" else 0)
    assert min(int(possible.sum()), int((~possible).sum())) >= 5
    moved = (found != candidates).flatten(1).any(dim=1)
    with torch.no_grad():
        succeeds = model(found).argmax(dim=1) != labels
    on_grid = ((found * 255) - (found * 255).round()).flatten(1).abs().amax(dim=1) < 1e-4
    assert succeeds.all()  # what was a success stays one, float or not
    assert on_grid[moved].all()
    assert not moved[best <= 0].any()
    assert float(moved[possible].float().mean()) >= least
    assert not any(find_ball_violations(found, originals, TINY))
    assert (asked.gradients > 0) == (access == "gradients")
    most = estimate_finishing_cost(access)
    assert int(meter.forward_passes.max()) <= most[0]
    assert int(meter.backward_passes.max()) <= most[1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targets", [(), (1, 3)])
@pytest.mark.parametrize("threat", BALLS, ids=str)
def test_every_look_is_an_8bit_image_inside_ball_box_and_mask(small: Sample, threat, targets, masked):
    region = "mask" if masked else "image"
    threat = ThreatModel(norm=threat.norm, eps=threat.eps, targets=targets, region=region)
    originals = (small.images[:24] * 255).round() / 255
    masks = torch.zeros(24, 1, 8, 8, dtype=torch.bool)
    masks[..., 2:7, 1:6] = True
    masks = masks if masked else None
    stream = RandomStream(3, tuple(map(str, range(24))), "start")
    delta = sample_random_start(stream, (3, 8, 8), threat, draw=0, device="cpu", masks=masks)
    candidates = project_to_box(originals + delta, originals, threat, masks)
    before = candidates.clone()
    asked = Asked(small.classifier.module, 5)
    found, _ = finish(asked, originals, small.labels[:24], candidates, threat, masks=masks, blind=True)
    assert torch.equal(candidates, before)
    assert (found != candidates).flatten(1).any(dim=1).all()
    assert not any(find_ball_violations(found, originals, threat, masks))
    for looks in asked.looks:
        assert (looks * 255 - (looks * 255).round()).abs().max() < 1e-4
        assert ((looks >= 0) & (looks <= 1)).all()


def test_a_blind_search_spends_its_steps_and_hands_in_the_largest_margin(small: Sample):
    originals = (small.images[:12] * 255).round() / 255
    threat = BALLS[0]
    asked = Asked(small.classifier.module, 5)
    found, meter = finish(asked, originals, small.labels[:12], originals + 0.001, threat, blind=True)
    assert meter.backward_passes.unique().tolist() == [estimate_finishing_cost("gradients")[1]]
    with torch.no_grad():
        best = compute_margin(small.classifier(found), small.labels[:12])
        every = [
            compute_margin(small.classifier(looks), small.labels[:12])
            for looks in asked.looks
            if len(looks) == 12
        ]
    assert torch.allclose(best, torch.stack(every).amax(dim=0), atol=1e-4)


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_what_is_left_of_the_queries_is_never_exceeded(access):
    model, (originals, labels, candidates) = curved_sample()
    left = torch.arange(len(originals)) % 4
    _, meter = finish(Asked(model, 3), originals, labels, candidates, TINY, access=access, queries_left=left)
    assert (meter.forward_passes <= left).all()
    assert (meter.forward_passes == left).any()
    assert left.max() == 3


@pytest.mark.parametrize("size", [1, 5])
def test_the_batch_size_changes_nothing(size):
    model, (originals, labels, candidates) = curved_sample()
    whole, _ = finish(Asked(model, 3), originals, labels, candidates, TINY)
    small = Asked(model, 3)
    small.configure(batch_size=size)
    parts, _ = finish(small, originals, labels, candidates, TINY)
    assert torch.equal(whole, parts)
    assert max(map(len, small.looks)) <= size


def test_without_a_slope_no_step_is_repeated():
    model = build_classifier(
        lambda x: torch.stack([x.flatten(1)[:, 0] * 0, x.flatten(1)[:, 0] * 0 - 1], dim=1), 2
    )
    originals = torch.full((3, 1, 1, 2), 0.5)
    labels = torch.zeros(3, dtype=torch.int64)
    found, meter = finish(model, originals, labels, originals + 0.01, TINY)
    assert torch.equal(found, originals + 0.01)
    assert meter.backward_passes.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("share", "looks"), [(1.5, 1), (0.5, estimate_finishing_cost("scores")[0])])
def test_a_margin_ends_the_search_where_it_is_clear_and_not_before(share, looks):
    # logits 0 and a constant lead, beside a third one that sets the range to 1
    def forward(images: Tensor) -> Tensor:
        lead = torch.full_like(images[:, 0, 0, 0], share * CLEAR)
        return torch.stack([lead * 0, lead, lead * 0 - 1], dim=1)

    originals = torch.full((1, 1, 1, 6), 100 / 255)
    candidates = originals + torch.linspace(0.2, 3, 6) / 255
    label = torch.zeros(1, dtype=torch.int64)
    _, meter = finish(build_classifier(forward, 3), originals, label, candidates, TINY, access="scores")
    assert meter.forward_passes.tolist() == [looks]
    _, meter = finish(build_classifier(forward, 3), originals, label, candidates, TINY, access="labels")
    assert meter.forward_passes.tolist() == [1]  # who sees labels only sees no margin
