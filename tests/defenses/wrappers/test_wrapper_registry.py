"""Wrapper defenses: each beside its closed form or another implementation, and its gradients."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter
from torch import nn
from torch.nn import functional

import robustbench_local as rbl
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.square.square import Square
from robustbench_local.bpda import apply_straight_through
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.config.cards import list_cards
from robustbench_local.defenses.wrappers.base import FixedWrapper, Wrapper
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS, build_wrapper
from robustbench_local.errors import CardError, ConfigError, ModelError
from robustbench_local.randomness import RandomNumbers

KEYS = torch.arange(6) * 7919


@pytest.fixture
def images():
    return torch.rand(6, 3, 20, 32, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def classifier():
    generator = torch.Generator().manual_seed(2)
    network = nn.Sequential(nn.AdaptiveAvgPool2d((5, 8)), nn.Flatten(), nn.Linear(120, 4)).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.randn(4, 120, generator=generator))
    return Classifier(network, num_classes=4, name="linear")


def pillow(image, quality):
    """The same image through Pillow's JPEG."""
    levels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(Image.open(file))).float() / 255
    return read[None] if read.ndim == 2 else read.permute(2, 0, 1)


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_makes_of_it(images, quality, channels):
    given = images[:, :channels]
    read = build_wrapper("jpeg", {"quality": quality}).transform_images(given)
    expected = torch.stack([pillow(each, quality) for each in given])
    # two builds of the same codec may round a colour conversion differently
    assert float((read - expected).abs().max()) <= 1.01 / 255
    assert float((read - given).abs().max()) > 0.01


def test_bit_depth_is_the_nearest_of_so_many_levels(images):
    for bits in (1, 3, 8):
        reduced = build_wrapper("bit-depth", {"bits": bits}).transform_images(images)
        levels = torch.linspace(0, 1, 2**bits)
        nearest = levels[(images[..., None] - levels).abs().argmin(dim=-1)]
        assert torch.allclose(reduced, nearest, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_the_median_of_the_window(images, size):
    blurred = build_wrapper("median", {"size": size}).transform_images(images)
    expected = median_filter(images.numpy(), (1, 1, size, size), mode="nearest")
    assert np.array_equal(blurred.numpy(), expected)


def test_median_passes_a_slope_to_the_pixel_that_is_the_median():
    image = torch.arange(9.0).view(1, 1, 3, 3).flip(3).requires_grad_()
    build_wrapper("median").transform_images(image)[0, 0, 1, 1].backward()
    assert image.grad.nonzero().tolist() == [[0, 0, 1, 1]]


def test_resize_and_pad_is_interpolation_within_a_black_frame(images):
    wrapper, numbers = build_wrapper("resize-pad", {"smallest": 0.6}), RandomNumbers(KEYS)
    framed = wrapper.transform_images(images, numbers)
    sizes, corners = wrapper._sample_placement(torch.tensor([20.0, 32.0]), numbers.sample_uniform((3,)))
    for place, image in enumerate(images):
        (high, wide), (top, left) = sizes[place].int().tolist(), corners[place].int().tolist()
        small = functional.interpolate(image[None], (high, wide), mode="bilinear", align_corners=False)[0]
        expected = functional.pad(small, (left, 32 - wide - left, top, 20 - high - top))
        assert torch.allclose(framed[place], expected, atol=1e-5)


def test_resize_and_pad_draws_every_size_and_place_evenly():
    wrapper = build_wrapper("resize-pad", {"smallest": 0.9})
    sizes, corners = wrapper._sample_placement(
        torch.tensor([30.0, 30.0]), RandomNumbers(torch.arange(4000)).sample_uniform((3,))
    )
    heights, counts = sizes[:, 0].unique(return_counts=True)
    assert heights.tolist() == [27, 28, 29, 30]
    assert (counts - 1000).abs().max() < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert torch.equal(sizes[:, 0], sizes[:, 1])
    assert (corners >= 0).all()
    assert (corners <= 30 - sizes).all()
    assert corners[sizes[:, 0] == 27, 0].unique().tolist() == [0, 1, 2, 3]
    assert build_wrapper("resize-pad", {"smallest": 1.0})._sample_placement(
        torch.tensor([7.0, 9.0]), RandomNumbers(KEYS).sample_uniform((3,))
    )[0].unique(dim=0).tolist() == [[7, 9]]


def test_noise_has_its_size_and_is_not_cut_off():
    image = torch.zeros(6, 3, 32, 32)
    noisy = build_wrapper("noise", {"sigma": 0.2}).transform_images(image, RandomNumbers(KEYS))
    assert abs(float(noisy.std()) - 0.2) < 0.004
    assert abs(float(noisy.mean())) < 0.006
    assert float(noisy.min()) < 0
    assert not torch.equal(noisy[0], noisy[1])


@pytest.mark.parametrize("name", ["median", "noise", "resize-pad"])
def test_exact_gradients_agree_with_differences(name):
    # values of their own, so that no small step changes which pixel is the median
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0)).double()
    image = (order / 36).view(1, 1, 6, 6)
    wrapper = build_wrapper(name)
    numbers = (RandomNumbers(KEYS[1:2]),) if wrapper.is_random else ()
    assert wrapper.gradient_mode == "exact"
    assert torch.autograd.gradcheck(
        lambda x: wrapper.transform_images(x, *numbers), image.requires_grad_(), eps=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ["jpeg", "bit-depth"])
def test_bpda_passes_slopes_on_as_they_are(images, classifier, name):
    wrapper = build_wrapper(name)
    assert wrapper.gradient_mode == "bpda"
    leaf = images.requires_grad_()
    slope = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (wrapper.transform_images(leaf) * slope).sum().backward()
    assert torch.equal(leaf.grad, slope)
    # so the gradient is that of the network at the changed image
    defended = wrapper.wrap(classifier)
    changed = wrapper.transform_images(images.detach())
    own, through = (
        each.compute_gradient(at, lambda logits: logits.logsumexp(dim=1))[2]
        for each, at in ((classifier, changed), (defended, images.detach()))
    )
    assert torch.allclose(own, through, atol=1e-6)
    assert torch.equal(
        apply_straight_through(torch.floor, images.detach() * 3), (images.detach() * 3).floor()
    )


def test_working_through_the_defense_breaks_what_a_look_past_it_does_not():
    plain = rbl.load_classifier("zoo:signs-plain")
    data = rbl.load_dataset("signs", limit=10, seed=0)
    defended = rbl.defend(plain, "jpeg-75")
    attack = PGD(steps=6)
    adaptive, naive = (
        rbl.evaluate(defended, data, attack=attack, norm="Linf", eps=4 / 255, surrogate=surrogate)
        for surrogate in (None, plain)
    )
    assert adaptive.counts.clean_correct == naive.counts.clean_correct
    assert adaptive.counts.broken >= 2 * max(naive.counts.broken, 1)


class Hidden(FixedWrapper):
    """Cuts the gradients off and says so."""

    def transform_images(self, images):
        return (images.detach() * 7).round() / 7


def test_without_a_surrogate_only_scores_are_left_and_the_reader_is_told(classifier, images):
    hidden = rbl.defend(classifier, Hidden())
    assert hidden.access == "scores"
    assert any("unverified" in note for note in hidden.notes)
    assert not any("unverified" in note for note in classifier.notes)
    labels = hidden(images).argmax(dim=1)
    with pytest.raises(ConfigError, match="needs gradients"):
        rbl.evaluate(hidden, (images, labels), attack="pgd", norm="Linf", eps=0.1)
    result = rbl.evaluate(hidden, (images, labels), attack=Square(queries=10), norm="Linf", eps=0.02)
    assert any("unverified" in note for note in result.notes)


def test_the_classifier_within_stays_as_it_is(classifier, images):
    before, digest = classifier(images), classifier.compute_digest()
    for card in list_cards("defense"):
        if card.method in WRAPPERS:
            defended = rbl.defend(classifier, card.name)
            assert defended(images).shape == (6, 4)
            assert defended.compute_digest() not in (
                digest,
                rbl.defend(classifier, "jpeg-75", quality=31).compute_digest(),
            )
            assert isinstance(defended, RandomizedClassifier) == WRAPPERS[card.method].is_random
    with rbl.defend(classifier, "jpeg-75").evaluation_mode():
        assert not classifier.model[2].weight.requires_grad
    assert classifier.model[2].weight.requires_grad
    assert (classifier.compute_digest(), classifier.notes) == (digest, [])
    assert torch.equal(classifier(images), before)


@pytest.mark.parametrize(
    ("name", "access"),
    [
        ("jpeg-75", "labels"), ("noise-0.1", "scores"),
        pytest.param("jpeg-75", "scores", marks=pytest.mark.slow),
        pytest.param("noise-0.1", "labels", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_black_boxes_can_be_defended_too(classifier, images, name, access):
    network = classifier.model
    answer = network if access == "scores" else (lambda x: network(x).argmax(dim=1))
    closed = Classifier(lambda x: answer(x).detach(), num_classes=4, access=access, name="closed")
    defended = rbl.defend(closed, name)
    assert defended.access == access
    labels = defended(images).argmax(dim=1)
    attack = Square(queries=10) if access == "scores" else FGSM()
    surrogate = None if access == "scores" else classifier
    result = rbl.evaluate(
        defended, (images, labels), attack=attack, norm="Linf", eps=0.01, surrogate=surrogate
    )
    assert result.counts.n == 6


def test_the_device_moves_both(classifier):
    defended = rbl.defend(classifier, "jpeg-75")
    assert defended.to("cpu").device == classifier.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("defense", "changes", "problem", "words"),
    [
        ("jpg-75", {}, CardError, "jpeg-75"),
        ("jpeg-75", {"quality": 0}, ConfigError, "from 1 to 100"),
        ("jpeg-75", {"quality": "high"}, ConfigError, "quality"),
        ("jpeg-75", {"qualty": 5}, ConfigError, "Did you mean quality"),
        ("bit-depth-3", {"bits": 9}, ConfigError, "1 to 8 bits"),
        ("median-3", {"size": 4}, ConfigError, "odd side"),
        ("resize-pad", {"smallest": 0.0}, ConfigError, "smallest size"),
        ("noise-0.1", {"sigma": -1.0}, ConfigError, "above 0"),
        ("standard", {}, ConfigError, "rbl train standard"),
        (Hidden(), {"bits": 1}, ConfigError, "parameters already"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(classifier, defense, changes, problem, words):
    with pytest.raises(problem, match=words):
        rbl.defend(classifier, defense, **changes)


def test_images_that_a_wrapper_cannot_take_are_named(classifier):
    with pytest.raises(ModelError, match="1 or 3 channels"):
        build_wrapper("jpeg").transform_images(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ModelError, match="larger images"):
        build_wrapper("median", {"size": 9}).transform_images(torch.zeros(1, 3, 8, 32))
    noisy = rbl.defend(classifier, "noise-0.1")
    with pytest.raises(ConfigError, match="is stochastic"):
        rbl.defend(noisy, "jpeg-75")


def test_every_wrapper_says_how_gradients_go_through_it():
    for name in WRAPPERS:
        kind = WRAPPERS[name]
        assert issubclass(kind, Wrapper)
        assert kind.gradient_mode in ("exact", "bpda")
