"""Signs in their views: which photographs are asked about, in which parts, and what is read of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from viewing_samples import STICKER, PaintingAttack, make_colour_classifier, make_signs

from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.evaluation.harness.sticker_scene import (
    RANDOM_STICKERS,
    CraftedStickers,
    StickerScene,
    ViewPredictions,
)
from robustbench_local.threats.physical.camera import photograph_scenes
from robustbench_local.threats.physical.scene import find_sticker_pixels
from robustbench_local.threats.threat_model import ThreatModel

PATCH = ThreatModel(norm="patch", eps=0.3, targets=(1,))
RANGES = PaintingAttack(views=4).ranges


class Watching(nn.Module):
    """Answers by the mean of each colour, and keeps what it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, images):
        self.asked.append(images.clone())
        return 20 * images.mean(dim=(2, 3))


def make_scene(classifier=None, data=None, views=20, **changes):
    classifier, data = classifier or make_colour_classifier(), data or make_signs()
    return StickerScene.from_data(classifier, data, RANGES, test_views=views, seed=5, **changes)


def paint(scene, threat=STICKER, reasons=(None, None)):
    candidates = PaintingAttack(views=4).perturb(
        scene.classifier, scene.images, scene.labels, threat, scene.stream, scene.masks
    )
    return CraftedStickers(candidates=candidates, threat=threat, rejection_reasons=reasons)


def test_a_scene_has_the_signs_and_their_own_views():
    data = make_signs(3)
    scene = make_scene(data=data, views=7)
    assert torch.equal(scene.images, data.images)
    assert torch.equal(scene.labels, data.labels)
    assert torch.equal(scene.masks, data.masks)
    assert (scene.test_views.count, scene.approach_views.count) == (7, 60)
    assert scene.stream.ids == data.ids
    alone = make_scene(data=data.select_images([2]), views=7)
    assert torch.equal(alone.test_views.yaw[0], scene.test_views.yaw[2])
    assert torch.equal(alone.approach_views.yaw[0], scene.approach_views.yaw[2])
    without = make_scene(data=replace(data, masks=None))
    assert without.masks is None
    assert without.surfaces.shape == (3, 1, 16, 16)
    assert torch.equal(scene.surfaces, data.masks)


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [
        (None, [20, 20]),
        (40, [40]),
        (16, [16, 16, 8]),
        pytest.param(3, [2] * 20, marks=pytest.mark.slow),
        pytest.param(1, [2] * 20, marks=pytest.mark.slow),
    ],
)
def test_views_are_asked_about_in_batches_and_in_order(batch_size, sizes):
    watching = Watching()
    classifier = Classifier(watching, num_classes=3, name="watching").configure(batch_size=batch_size)
    scene = make_scene(classifier)
    with classifier.evaluation_mode(), classifier.count_passes(2) as counter:
        found = scene.predict_views(paint(scene), scene.test_views)
        assert counter.forward_passes.tolist() == [20, 20]
    asked = list(watching.asked)
    whole = photograph_scenes(paint(scene).candidates, scene.test_views)
    logits = 20 * whole.mean(dim=(3, 4))
    assert torch.equal(found.prediction, logits.argmax(dim=2))
    assert torch.allclose(found.confidence, logits.double().softmax(dim=2).amax(dim=2), atol=1e-5)
    assert found.rejection_reasons == (None, None)
    if batch_size is None or batch_size > 1:
        assert [len(images) for images in asked] == sizes


def test_answers_that_are_not_finite_are_no_class_and_no_confidence():
    class Blind(nn.Module):
        def forward(self, images):
            answers = images.mean(dim=(2, 3))
            is_blind = answers[:, 0] > answers[:, 0].median()
            answers[is_blind, 0] = torch.inf
            return answers

    classifier = Classifier(Blind(), num_classes=3, name="blind")
    scene = make_scene(classifier)
    found = scene.predict_views(None, scene.test_views)
    blind = found.prediction == -1
    assert 0 < int(blind.sum()) < 40
    assert torch.equal(found.confidence.isnan(), blind)
    assert not bool(found.find_correct_views(scene.labels)[blind].any())
    assert bool(found.find_correct_views(scene.labels)[~blind].all())


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.3 * numbers.sample_normal(images.shape[1:]))


@pytest.mark.slow
def test_a_random_classifier_reads_views_by_the_draws_of_a_verdict():
    noisy = Noisy(make_colour_classifier(), draws=2, verdict_draws=5)
    scene = make_scene(noisy, views=3)
    with noisy.evaluation_mode(), noisy.count_passes(2) as counter:
        first = scene.predict_views(None, scene.test_views)
        assert counter.forward_passes.tolist() == [15, 15]
        second = scene.predict_views(None, scene.test_views)
    assert torch.equal(first.confidence, second.confidence)
    alone = make_scene(noisy, make_signs().select_images([1]), views=3)
    with noisy.evaluation_mode():
        assert torch.allclose(
            alone.predict_views(None, alone.test_views).confidence[0], first.confidence[1], atol=1e-5
        )


@pytest.mark.slow
def test_a_sign_whose_sticker_breaks_a_rule_is_photographed_without_it():
    for threat in (STICKER, PATCH):
        scene = make_scene()
        crafted = paint(scene, threat, ("a rule", None))
        clean = scene.photograph_views(
            replace(crafted, rejection_reasons=("a rule", "a rule")), scene.test_views
        )
        mixed = scene.photograph_views(crafted, scene.test_views)
        worn = scene.photograph_views(replace(crafted, rejection_reasons=(None, None)), scene.test_views)
        assert (mixed[0] == clean[0]).all()
        assert (mixed[1] == worn[1]).all()
        assert (clean != worn).any()
        assert scene.predict_views(crafted, scene.test_views).rejection_reasons == ("a rule", None)
    scene = make_scene()
    photographs = scene.photograph_views(paint(scene), scene.test_views)
    exact = 255 * photograph_scenes(paint(scene).candidates, scene.test_views)
    assert abs(torch.from_numpy(photographs).float() - exact).max() <= 0.5 + 1e-3


def test_flat_images_are_the_signs_with_their_stickers_and_the_first_view_of_a_patch():
    scene = make_scene()
    crafted = paint(scene)
    assert torch.equal(scene.compose_flat(crafted), crafted.candidates)
    flat = scene.compose_flat(paint(scene, PATCH))
    assert flat.shape == scene.images.shape
    assert not torch.equal(flat, scene.images)
    first = make_scene(views=1)
    assert torch.equal(first.compose_flat(paint(first, PATCH)), flat)


@pytest.mark.parametrize(
    ("views", "parts"), [(20, [2, 3, 2, 3, 2, 3, 2, 3]), (8, [1] * 8), (3, [1, 1, 1]), (1, [1])]
)
def test_eight_stickers_of_random_colours_share_the_views(monkeypatch, views, parts):
    scene, seen = make_scene(views=views), []

    def predict_views(self, crafted, some):
        seen.append((crafted.candidates, some.count))
        return ViewPredictions(
            prediction=torch.full((2, some.count), len(seen)), confidence=torch.zeros(2, some.count),
            rejection_reasons=("first",) if len(seen) == 1 else ("another",),
        )  # fmt: skip

    monkeypatch.setattr(StickerScene, "predict_views", predict_views)
    found = scene.predict_random_stickers(paint(scene))
    assert [count for _, count in seen] == parts
    assert len(parts) <= RANDOM_STICKERS == 8
    expected = [number + 1 for number, count in enumerate(parts) for _ in range(count)]
    assert found.prediction.tolist() == [expected, expected]
    assert found.rejection_reasons == ("first",)
    assert len({tuple(candidates.flatten().tolist()) for candidates, _ in seen}) == len(parts)


def test_the_smallest_squares_of_random_colours_are_single_pixels():
    scene = make_scene()
    colours = scene._recolour_stickers(paint(scene, PATCH), 0).candidates
    assert min(colours.shape[-2:]) >= 2
    assert bool((colours[..., 1:] != colours[..., :-1]).all())
    assert bool((colours[..., 1:, :] != colours[..., :-1, :]).all())


def test_squares_of_random_colours_grow_with_the_width_of_an_image():
    data = make_signs()
    wide = replace(data, images=data.images.repeat_interleave(8, 3), masks=data.masks.repeat_interleave(8, 3))
    scene = make_scene(data=wide)
    colours = scene._recolour_stickers(paint(scene, PATCH), 0).candidates
    assert colours.shape[-1] >= 8
    assert torch.equal(colours[..., 0:8:2], colours[..., 1:8:2])
    assert bool((colours[..., 1:7:2] != colours[..., 2:8:2]).any())


@pytest.mark.parametrize("threat", [STICKER, PATCH], ids=lambda threat: threat.norm)
def test_random_colours_fill_squares_of_several_sizes_in_the_stickers_place(threat):
    """On an image of 64 pixels the squares are 2, 4, 8 and 16 wide, and then again."""
    data = make_signs()
    wide = replace(
        data,
        images=data.images.repeat_interleave(4, 2).repeat_interleave(4, 3),
        masks=data.masks.repeat_interleave(4, 2).repeat_interleave(4, 3),
    )
    scene = make_scene(data=wide)
    crafted = paint(scene, threat)
    worn = torch.ones_like(crafted.candidates[:, :1], dtype=torch.bool)
    if threat is STICKER:
        worn = find_sticker_pixels(crafted.candidates, scene.images, scene.surfaces, threat)
    for part, grain in enumerate((2, 4, 8, 16, 2)):
        found = scene._recolour_stickers(crafted, part)
        assert (found.threat, found.rejection_reasons) == (threat, (None, None))
        assert found.candidates.shape == crafted.candidates.shape
        if threat is STICKER:
            off = ~worn.expand_as(scene.images)
            assert torch.equal(found.candidates[off], scene.images[off])
        side = min(grain, found.candidates.shape[-1])
        rows = found.candidates[:, :, :, : found.candidates.shape[-1] // side * side]
        blocks = rows.unfold(3, side, side)
        inside = worn[..., : rows.shape[-1]].expand(-1, 3, -1, -1).unfold(3, side, side).all(dim=4)
        assert bool(inside.any())
        flat = (blocks.amax(dim=4) - blocks.amin(dim=4))[inside]
        assert float(flat.max()) < 1e-6
        assert not torch.equal(
            found.candidates[0][worn[0].expand(3, -1, -1)][:8], crafted.candidates[0].flatten()[:8]
        )


def test_small_images_have_squares_of_a_pixel_at_least():
    scene = make_scene()  # 16 pixels: half of one pixel would be none
    first = scene._recolour_stickers(paint(scene, PATCH), 0)
    assert len(torch.unique(first.candidates)) == first.candidates.numel()


def test_what_breaks_every_rule_is_replaced_by_something_of_the_right_form():
    class Wrong(EOTAttack):
        norms = frozenset({"sticker", "patch"})

        def perturb(self, classifier, images, labels, threat, stream, masks=None):
            return torch.zeros(1)

        def estimate_cost(self, threat):
            return (0, 0)

    scene = make_scene()
    found = scene.craft_stickers(Wrong(), STICKER, 5)
    assert torch.equal(found.candidates, scene.images)
    assert all(found.rejection_reasons)
    patch = scene.craft_stickers(Wrong(), PATCH, 5)
    assert patch.candidates.shape == paint(scene, PATCH).candidates.shape
    assert float(patch.candidates.abs().sum()) == 0
    assert all(patch.rejection_reasons)


def test_an_attack_gets_copies_and_random_numbers_of_its_own():
    seen = []

    class Writing(EOTAttack):
        norms = frozenset({"sticker"})

        def perturb(self, classifier, images, labels, threat, stream, masks=None):
            seen.append(
                (stream.ids, float(stream.sample_uniform((1,), draw="x", device=images.device).sum()))
            )
            painted = images.clone()
            images.fill_(0)
            labels.fill_(2)
            masks.fill_(True)
            torch.set_autocast_enabled("cpu", True)
            return painted.requires_grad_()

        def estimate_cost(self, threat):
            return (0, 0)

    scene = make_scene()
    images, labels, masks = scene.images.clone(), scene.labels.clone(), scene.masks.clone()
    found = scene.craft_stickers(Writing(), STICKER, 5)
    assert torch.equal(scene.images, images)
    assert torch.equal(scene.labels, labels)
    assert torch.equal(scene.masks, masks)
    assert found.rejection_reasons == (None, None)
    assert not found.candidates.requires_grad
    assert not torch.is_autocast_enabled("cpu")
    scene.craft_stickers(Writing(), STICKER, 6)
    scene.craft_stickers(Writing(steps=7), STICKER, 5)
    assert len({number for _, number in seen}) == 3
    assert {ids for ids, _ in seen} == {scene.stream.ids}
    bare = make_scene(data=replace(make_signs(), masks=None))
    assert bare.craft_stickers(PaintingAttack(views=4), STICKER, 5).rejection_reasons == (None, None)


def test_one_sticker_that_breaks_a_rule_leaves_the_others_as_they_are():
    class Half(PaintingAttack):
        def perturb(self, classifier, images, *given):
            painted = super().perturb(classifier, images, *given)
            painted[0] = torch.nan
            return painted

    scene = make_scene()
    painted = paint(scene).candidates
    assert torch.equal(scene.craft_stickers(PaintingAttack(views=4), STICKER, 5).candidates, painted)
    found = scene.craft_stickers(Half(views=4), STICKER, 5)
    assert [reason is None for reason in found.rejection_reasons] == [False, True]
    assert torch.equal(found.candidates[1], painted[1])
