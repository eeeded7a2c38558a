"""Stickers and patches: what they may touch, what views are worth, whose passes they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_samples import Sample, build_linear_sample
from torch import Tensor

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.physical import eot as expectation
from robustbench_local.attacks.physical import sticker
from robustbench_local.attacks.physical.patch import Patch
from robustbench_local.attacks.physical.sticker import Sticker
from robustbench_local.config.cards import find_card
from robustbench_local.data.rendered_signs.sign_dataset import load_signs
from robustbench_local.errors import ConfigError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.paired_tests import compute_mcnemar
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.camera import photograph_scenes
from robustbench_local.threats.physical.printability import compute_non_printability, compute_total_variation
from robustbench_local.threats.physical.relighting import relight_colours, remove_lighting
from robustbench_local.threats.physical.scene import compose_scenes, find_scene_violations
from robustbench_local.threats.physical.sticker_mask import build_sticker_mask, build_surface_masks
from robustbench_local.threats.physical.views import ViewRange, sample_views
from robustbench_local.threats.threat_model import ThreatModel

TARGETS = (0, 1)
POSTER = ThreatModel(norm="sticker", eps=1, transformation="poster", targets=TARGETS)
FOUND = ThreatModel(norm="sticker", eps=0.3, transformation="found", targets=TARGETS)
SQUARE = replace(FOUND, transformation="square")
BARS = replace(FOUND, transformation="rectangles")
PATCH = ThreatModel(norm="patch", eps=0.25, targets=TARGETS)
SHORT = Sticker(steps=6, views=3, place_steps=4, layout_steps=2)
PASTED = Patch(steps=4, views=2)


@pytest.fixture(scope="module")
def three(small: Sample) -> Sample:
    """Three images whose classes are no targets, 8 pixels wide; their surface is a box of 6."""
    return small.select_images((small.labels > 1).nonzero().flatten()[:3])


def hits(sample: Sample, found: Tensor, threat: ThreatModel) -> float:
    """Share of fresh views that are read as a target."""
    views = sample_views(sample.build_stream(SHORT), 100, ViewRange(), draw="fresh", device="cpu")
    scenes = compose_scenes(sample.images, found, build_surface_masks(sample.images, None), threat, views)
    with torch.no_grad(), sample.classifier.evaluation_mode():
        read = sample.classifier(photograph_scenes(scenes, views).flatten(0, 1)).argmax(dim=1)
    return float(torch.isin(read, torch.tensor(TARGETS)).float().mean())


@pytest.mark.parametrize("threat", [BARS, SQUARE, FOUND, POSTER], ids=lambda threat: threat.name)
def test_a_sticker_changes_its_place_and_not_a_bit_beside_it(three: Sample, threat: ThreatModel):
    found, surfaces = three.attack(SHORT, threat), build_surface_masks(three.images, None)
    assert find_scene_violations(found, three.images, surfaces, threat) == [None] * 3
    changed = (found != three.images).any(dim=1, keepdim=True)
    assert (changed.flatten(1).sum(dim=1) >= 8).all()
    stuck = found[changed.expand_as(found)]
    assert torch.equal((stuck * 255).round() / 255, stuck)


def test_a_sticker_follows_the_outline_that_the_images_carry(three: Sample):
    outlines = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    outlines[:, :, 4:, :4] = True
    found = three.attack(SHORT, POSTER, masks=outlines)
    assert torch.equal((found != three.images).any(dim=1, keepdim=True), outlines)


def test_the_place_is_where_the_classifier_looks(three: Sample):
    """A classifier that reads nine pixels; the first pass finds them."""
    weights = torch.zeros(2, 3, 8, 8)
    weights[0, :, 1:4, 1:4] = 10.0
    sample = build_linear_sample(weights.flatten(1), torch.tensor([0.0, 1000.0]), 0.3 * three.images)
    threat = replace(SQUARE, eps=0.25, targets=(0,))  # nine of 36 pixels
    changed = (sample.attack(replace(SHORT, views=0), threat) != sample.images).any(dim=1)
    assert changed[:, 1:4, 1:4].all()
    assert int(changed.sum()) == 27


def test_views_teach_a_sticker_what_the_image_alone_does_not(three: Sample):
    rates = {
        views: hits(three, three.attack(replace(SHORT, steps=24, views=views), BARS), BARS)
        for views in (0, 8)
    }
    assert rates[8] > rates[0] + 0.05


def test_rectangles_go_where_they_turn_most_views(three: Sample, monkeypatch):
    """Where an L1 weight leaves most of a first pass, or into a plain layout: each sign by its own views."""
    draws = []

    def climb(attack, setting, start, finish, penalty, *, draw_name, steps):
        draws.append((draw_name, steps))
        where = ["place 0", "place 1", "place 3"]
        turned = [float(where[sign] == draw_name) for sign in range(3)]
        if draw_name == "place":  # the lower right of each sign is worth most
            start = start.clone()
            start[..., 4:, 4:] = 1 - start[..., 4:, 4:].round()
        return start, torch.tensor(turned)

    monkeypatch.setattr(sticker, "optimize_colours", climb)
    found, outlines = three.attack(SHORT, BARS), build_surface_masks(three.images, None)
    assert draws == [("place", 4), *((f"place {place}", 2) for place in range(4)), ("restart 0", 6)]
    changed = (found != three.images).any(dim=1, keepdim=True)
    plain = [build_sticker_mask(outlines, BARS, layout=layout) for layout in range(3)]
    assert int(changed[0, :, 4:, 4:].sum()) >= 4
    assert torch.equal(changed[1], plain[0][1])
    assert torch.equal(changed[2], plain[2][2])


def test_untargeted_stickers_take_any_wrong_class(three: Sample):
    threat = replace(POSTER, targets=())
    found = three.attack(Sticker(steps=12, views=3), threat)
    assert three.find_adversarial(found, threat).all()


def test_a_signs_sticker_does_not_depend_on_its_batch(three: Sample):
    together = three.attack(SHORT, POSTER)
    three.classifier.configure(batch_size=4)  # one sign at a time
    try:
        parts = three.attack(SHORT, POSTER)
    finally:
        three.classifier.configure(batch_size=None)
    assert float((parts - together).abs().mean()) < 0.01
    assert torch.equal(three.attack(SHORT, POSTER), together)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (SHORT, BARS),
        (replace(SHORT, restarts=2), BARS),
        (replace(SHORT, views=0), SQUARE),
        (PASTED, PATCH),
        (replace(PASTED, views=0, restarts=2), PATCH),
    ],
)
def test_it_spends_the_passes_it_announces(three: Sample, attack: Sticker | Patch, threat: ThreatModel):
    with three.classifier.count_passes(3) as meter:
        three.attack(attack, threat)
    assert meter.forward_passes.tolist() == [attack.estimate_cost(threat)[0]] * 3
    assert meter.backward_passes.tolist() == [attack.estimate_cost(threat)[1]] * 3


def test_the_better_restart_is_kept_sign_by_sign(three: Sample, monkeypatch):
    paths, climb = [], sticker.optimize_colours
    monkeypatch.setattr(
        sticker, "optimize_colours", lambda *a, **k: paths.append(climb(*a, **k)) or paths[-1]
    )
    found = three.attack(replace(SHORT, restarts=2), POSTER)
    (first, first_scores), (second, second_scores) = paths
    better = (second_scores > first_scores).view(-1, 1, 1, 1)
    box = build_surface_masks(three.images, None)
    colours = relight_colours(torch.where(better, second, first), three.images, box)
    assert torch.equal(found, torch.where(box, (colours * 255).round() / 255, three.images))
    assert not torch.equal(first, second)


def test_the_best_look_is_kept_not_the_last(three: Sample, monkeypatch):
    offered = []

    def falling(setting, found, views):
        offered.append(found)
        return torch.full((3,), -float(len(offered)))

    monkeypatch.setattr(expectation, "_score_objects", falling)
    three = replace(three, images=(three.images * 255).round() / 255)
    assert torch.equal(three.attack(SHORT, POSTER), (offered[0] * 255).round() / 255)
    assert len(offered) == 6


def test_a_patch_is_one_for_all_and_works_beside_what_is_seen(three: Sample):
    found = three.attack(Patch(steps=24, views=6), PATCH)
    assert found.shape == (3, 3, 4, 4)
    assert (
        find_scene_violations(found, three.images, build_surface_masks(three.images, None), PATCH)
        == [None] * 3
    )
    assert hits(three, found, PATCH) > hits(three, torch.full_like(found, 0.5), PATCH)


@pytest.mark.parametrize(
    ("attack", "threat"), [(SHORT, replace(POSTER, eps=0)), (PASTED, replace(PATCH, eps=0))]
)
def test_no_share_means_no_sticker_and_no_pass(three: Sample, attack: Sticker | Patch, threat: ThreatModel):
    with three.classifier.count_passes(3) as meter:
        found = three.attack(attack, threat)
    surfaces = build_surface_masks(three.images, None)
    assert find_scene_violations(found, three.images, surfaces, threat) == [None] * 3
    views = sample_views(three.build_stream(attack), 2, ViewRange(), draw="fresh", device="cpu")
    shown = photograph_scenes(compose_scenes(three.images, found, surfaces, threat, views), views)
    assert torch.equal(shown, photograph_scenes(three.images, views))
    assert attack.estimate_cost(threat) == (0, 0)
    assert int(meter.forward_passes.sum()) == 0


def test_what_cannot_be_printed_is_dear(three: Sample):
    box = build_surface_masks(three.images, None)
    free, dear = (three.attack(Sticker(steps=12, views=1, tv=w, nps=w), POSTER) for w in (0.0, 1000.0))
    for cost in (compute_total_variation, compute_non_printability):
        free_cost, dear_cost = (
            cost(remove_lighting(found, three.images, box), box) for found in (free, dear)
        )
        assert dear_cost.mean() < 0.7 * free_cost.mean()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"views": -1}, "views must be at least 0"),
        ({"tv": -1.0}, "tv must be at least 0"),
        ({"tv": float("inf")}, "tv: must be finite"),
        ({"learning_rate": 2.0}, "learning_rate must be above 0"),
        ({"loss": "cw"}, "'cw'"),
        ({"place_steps": 0}, "place_steps"),
        ({"ranges": {"yaw": 95}}, "yaw is at most 80"),
        ({"ranges": {"jaw": 5}}, "no parameter 'jaw'. Did you mean yaw"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        make_attack("sticker", given)


def test_cards_may_set_the_views_and_repr_carries_them():
    attack = make_attack("sticker", {"ranges": {"yaw": 30, "distance": [20, 60]}})
    assert attack.ranges == ViewRange(yaw=30.0, distance=(20.0, 60.0))
    assert "yaw=30.0" in repr(attack)
    assert repr(replace(attack, ranges=ViewRange())) != repr(attack)
    shares = [find_card(f"sticker-{size}").threat.eps for size in (3, 10, 19, 37)]
    assert shares == [0.033, 0.1, 0.186, 0.372]


@pytest.mark.slow
def test_stop_signs_are_read_as_speed_limits_from_everywhere():
    """On four signs and a fifth of the steps: most views, and far fewer without the camera in the search."""
    data, classifier = load_signs(classes=[14], per_class=4), load_classifier("zoo:signs-plain")
    limits = (0, 1, 2, 3, 4, 5, 7, 8)
    threat = ThreatModel(norm="sticker", eps=0.1, transformation="rectangles", targets=limits)
    views = sample_views(RandomStream(0, data.ids, ""), 300, ViewRange(), draw="fresh", device="cpu")

    def turned(found: Tensor) -> list[bool]:
        shots = photograph_scenes(found, views).flatten(0, 1)
        with torch.no_grad(), classifier.evaluation_mode():
            return torch.isin(classifier(shots).argmax(dim=1), torch.tensor(limits)).tolist()

    def stuck(count: int) -> Tensor:
        attack = Sticker(steps=60, views=count, place_steps=40, layout_steps=15)
        stream = RandomStream(0, data.ids, repr(attack))
        with classifier.evaluation_mode():
            return attack.perturb(classifier, data.images, data.labels, threat, stream, data.masks)

    noise = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(0))
    mask = build_sticker_mask(data.masks, threat)
    random = torch.where(mask, relight_colours(noise, data.images, data.masks), data.images)
    taught, untaught = turned(stuck(32)), turned(stuck(0))
    assert sum(taught) > 0.5 * len(taught)
    assert sum(untaught) < sum(taught)
    assert compute_mcnemar(taught, untaught).p_value < 0.001
    assert sum(turned(random)) < 0.05 * len(taught)
