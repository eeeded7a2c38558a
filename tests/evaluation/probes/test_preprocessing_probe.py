"""The first look at a model: mistakes of preprocessing are found, and right models are no false alarm."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.normalizations import NORMALIZATIONS
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.probes.form_comparison import (
    can_be_better,
    compare_form,
    find_predicted_classes,
    find_rejected,
)
from robustbench_local.evaluation.probes.input_variants import InputVariant, list_input_variants
from robustbench_local.evaluation.probes.preprocessing_probe import (
    FIRST_IMAGES,
    MAX_FIRST_SECONDS,
    MAX_FORM_SECONDS,
    MORE_IMAGES,
    SCREENING_IMAGES,
    FormSearch,
    WorkClock,
    choose_check_images,
    choose_form,
)
from robustbench_local.store.preprocessing_record import MAX_ADVICE_LENGTH, BetterForm, PreprocessingCheck

SIDE = 6
TINTS = 0.15 * torch.tensor([[1.0, 0, -1], [-1, 0, 1]])
PROTOTYPES = torch.stack([level + tint for level in (0.3, 0.5, 0.7) for tint in TINTS])
PROTOTYPES = PROTOTYPES[..., None, None].expand(-1, -1, SIDE, SIDE)
"""Six colors, of which each becomes another one in other channels, on another scale and in a negative."""
CORNERS = 0.5 + 0.2 * torch.ones(SIDE, SIDE).triu(1)[None, None].repeat(3, 3, 1, 1)
CORNERS[1] = CORNERS[0].transpose(1, 2).clone()
CORNERS[2] = 0.3


class NearestPrototype(nn.Module):
    """Classifies by the nearest of some images, given in the form that it was made for."""

    def __init__(self, contract: InputContract, prototypes: torch.Tensor = PROTOTYPES) -> None:
        super().__init__()
        twin = Classifier(nn.Identity(), num_classes=2, preprocessing=contract)
        self.register_buffer("prototypes", twin._preprocessing(prototypes).flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(images.flatten(1), self.prototypes)


def make_images(n: int = FIRST_IMAGES, noise: float = 0.2, prototypes: torch.Tensor = PROTOTYPES):
    labels = torch.arange(n) % len(prototypes)
    draws = torch.rand(n, *prototypes.shape[1:], generator=torch.Generator().manual_seed(4))
    return (1 - noise) * prototypes[labels] + noise * draws, labels


def look(wanted: InputContract, given: InputContract, **settings) -> PreprocessingCheck:
    prototypes = settings.pop("prototypes", PROTOTYPES)
    images, labels = make_images(settings.pop("n", FIRST_IMAGES), prototypes=prototypes)
    images = settings.pop("change", lambda pixels: pixels)(images)
    model = settings.pop("model", NearestPrototype(wanted, prototypes))
    classifier = Classifier(model, num_classes=len(prototypes), preprocessing=given)
    return FormSearch(classifier=classifier, images=images, labels=labels, **settings).run()


PLAIN = InputContract()
CIFAR = replace(PLAIN, normalization=NORMALIZATIONS["cifar10"])
BGR = replace(PLAIN, channel_order="bgr")
BYTES = replace(PLAIN, value_scale=255.0)
TWICE = replace(
    PLAIN,
    normalization=tuple(
        zip(*((m + s * m, s * s) for m, s in zip(*NORMALIZATIONS["cifar10"], strict=True)), strict=True)
    ),
)
UNDONE = replace(
    PLAIN,
    normalization=tuple(
        zip(*((-m / s, 1 / s) for m, s in zip(*NORMALIZATIONS["cifar10"], strict=True)), strict=True)
    ),
)
"""What a file takes that normalizes twice."""
CAFFE = replace(BGR, value_scale=255.0, normalization=((103.939, 116.779, 123.68), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("wanted", "given", "remedy"),
    [
        (BGR, PLAIN, "preprocessing: {channel_order: bgr}"),
        (PLAIN, BGR, "preprocessing: {channel_order: rgb}"),
        (CIFAR, PLAIN, "normalize: cifar10"),
        (PLAIN, CIFAR, "normalize: none"),
        (BYTES, PLAIN, "preprocessing: {value_scale: 255}"),
        (PLAIN, BYTES, "preprocessing: {value_scale: 1}"),
        (CIFAR, TWICE, "normalize: cifar10"),
        (
            UNDONE,
            PLAIN,
            "normalize: {mean: [-1.988669, -1.980287, -1.706804], std: [4.046945, 4.106776, 3.82263]}",
        ),
        (
            CAFFE,
            PLAIN,
            (
                "normalize: {mean: [103.939, 116.779, 123.68], std: [1.0, 1.0, 1.0]}\n"
                "preprocessing: {channel_order: bgr, value_scale: 255}"
            ),
        ),
        (
            replace(CIFAR, channel_order="bgr"),
            BYTES,
            "normalize: cifar10\npreprocessing: {channel_order: bgr, value_scale: 1}",
        ),
    ],
)
def test_a_wrong_preprocessing_is_found_with_the_keys_to_paste(wanted, given, remedy):
    check = look(wanted, given)
    assert check.better is not None
    assert (check.better.kind, check.better.is_yaml, check.better.remedy) == ("images", True, remedy)
    assert check.correct == check.better.correct_before < check.better.correct == check.better.n
    assert look(wanted, wanted) == PreprocessingCheck(
        correct=FIRST_IMAGES, n=FIRST_IMAGES, passes=FIRST_IMAGES
    )


def test_a_normalization_twice_is_what_a_network_may_be_made_for():
    check = look(TWICE, CIFAR)
    assert check.better is not None
    assert check.better.form == "its normalization applied twice"
    assert check.better.remedy.startswith("normalize: {mean: [0.6")


def test_a_simple_form_comes_before_one_that_also_changes_something_else():
    first, *others = list_input_variants(PLAIN, torch.Size((3, 32, 32)), in_range=False)
    assert first == InputVariant(contract=BGR)
    assert first not in others


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: 1 - images, "negatives"),
        (lambda images: images.transpose(2, 3), "turned"),
    ],
)
def test_what_no_key_can_mend_is_said_in_words(change, words):
    check = look(PLAIN, PLAIN, change=change, prototypes=CORNERS)
    assert check.better is not None
    assert not check.better.is_yaml
    assert words in check.better.remedy


def test_the_preprocessing_of_the_source_is_named_first():
    source = replace(CIFAR, origin="card")
    check = look(source, replace(PLAIN, origin="declared", overridden=source))
    assert check.better is not None
    assert check.better.form == "the preprocessing of its source (card)"
    assert check.better.format_advice().startswith("leave normalize")


def test_gray_images_are_tried_inverted_and_normalized_at_once():
    prototypes = torch.linspace(0.1, 0.7, 6).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    mnist = replace(PLAIN, normalization=NORMALIZATIONS["mnist"])
    check = look(mnist, PLAIN, prototypes=prototypes, change=lambda images: 1 - images)
    assert check.better is not None
    assert check.better.form == "the normalization of mnist and black and white exchanged"


def test_another_interpolation_or_crop_is_tried_where_images_are_resized():
    base = InputContract(input_size=(24, 24), resize=28)
    contracts = [
        variant.contract for variant in list_input_variants(base, torch.Size((3, 40, 40)), in_range=False)
    ]
    assert replace(base, interpolation="bicubic") in contracts
    assert replace(base, resize=(24, 24)) in contracts
    stretched = InputContract(input_size=(224, 224), interpolation="bicubic")
    variants = list_input_variants(stretched, torch.Size((3, 300, 500)), in_range=True)
    remedies = {variant.format_remedy(stretched)[0] for variant in variants}
    assert {"preprocessing: {resize: 256}", "preprocessing: {interpolation: bilinear}"} < remedies
    words = {variant.describe_differences(stretched) for variant in variants}
    assert "images shorter side 256, bicubic, center 224x224" in words
    assert not [variant for variant in variants if variant.contract.normalization]


def test_no_form_is_listed_twice_and_none_is_what_the_model_has():
    for base in (PLAIN, CIFAR, BYTES, CAFFE):
        variants = list_input_variants(base, torch.Size((3, 32, 32)), in_range=False)
        keys = [(variant.contract, variant.change) for variant in variants]
        assert len(set(keys)) == len(keys) > 20
        assert all(variant.count_differences(base) for variant in variants)


class Refusing(NearestPrototype):
    """Takes pixels in [0, 1] only."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.min() < 0 or images.max() > 1:
            raise ValueError("pixels outside [0, 1]")
        return super().forward(images)


def test_a_model_that_refuses_other_ranges_is_asked_in_the_rest():
    check = look(BGR, PLAIN, model=Refusing(BGR))
    assert check.better is not None
    assert check.better.remedy == "preprocessing: {channel_order: bgr}"


def test_a_service_is_asked_in_its_range_only():
    seen = []

    def serve(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return NearestPrototype(BGR)(images)

    check = look(BGR, PLAIN, model=serve, in_range=True)
    assert check.better is not None
    assert check.forms < 12
    assert min(float(images.min()) for images in seen) >= 0
    assert max(float(images.max()) for images in seen) <= 1
    assert check.passes == sum(len(images) for images in seen)


class Untrained(nn.Module):
    """Random features of an image, whose answers are as good in one form as in another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weights = torch.randn(10, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("weights", weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weights.T


@pytest.mark.parametrize("seed", range(8))
def test_an_untrained_network_is_no_false_alarm(seed):
    labels = torch.arange(MORE_IMAGES) % 10
    images = torch.rand(MORE_IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    classifier = Classifier(Untrained(seed), num_classes=10)
    check = FormSearch(classifier=classifier, images=images, labels=labels).run()
    assert check.better is None
    assert check.n == FIRST_IMAGES
    assert check.forms > 20


def test_one_class_for_every_image_is_no_better_than_another():
    labels = torch.cat([torch.zeros(48), torch.ones(16)]).long()
    answer = nn.Module()
    answer.forward = lambda images: torch.stack([images.mean((1, 2, 3)) - 1, -images.mean((1, 2, 3))], dim=1)
    images, _ = make_images(64)
    check = FormSearch(
        classifier=Classifier(answer, num_classes=2), images=images, labels=labels, in_range=False
    ).run()
    assert check.better is None


def test_a_small_gain_is_looked_for_on_more_images():
    """Seven of 64 images are misclassified as they are: too few for any form, and enough of 256."""
    images, labels = make_images(MORE_IMAGES)
    images[::10] = images[::10].flip(1)
    base = Classifier(NearestPrototype(PLAIN), num_classes=6)
    first = FormSearch(classifier=base, images=images[:FIRST_IMAGES], labels=labels[:FIRST_IMAGES]).run()
    assert (first.n, first.forms) == (FIRST_IMAGES, 0)
    check = FormSearch(classifier=base, images=images, labels=labels).run()
    assert check.n == MORE_IMAGES
    assert check.correct == int((base(images).argmax(dim=1) == labels).sum())
    assert check.forms > 20
    assert check.better is None  # no form suits both kinds of images


class Clock:
    """Seconds that pass with each question."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize(("factor", "n"), [(0.999, FIRST_IMAGES), (2.001, 31), (20, 8)])
def test_a_slow_model_is_asked_about_fewer_images(factor, n):
    seconds = factor * MAX_FIRST_SECONDS / FIRST_IMAGES * 7  # for the seven images after the first
    check = look(PLAIN, PLAIN, clock=Clock(seconds))
    assert check.n == n


def test_a_quarter_of_the_seconds_that_a_model_waits_count(monkeypatch):
    clock = WorkClock()
    now, worked = time.monotonic(), time.process_time()
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)
    assert 24.9 < clock() < 25.1
    monkeypatch.setattr(time, "process_time", lambda: worked + 60)
    assert 59.9 < clock() < 60.1


def test_a_slow_search_ends_and_says_so():
    for late, words in ((0, ""), (3, "3 of ")):  # the first readings are about the images as they are
        times = iter([0.0, 0.0, 0.0, *[0.0] * late, *[MAX_FORM_SECONDS + 0.1 * bool(late)] * 100])
        check = look(BGR, PLAIN, clock=lambda times=times: next(times))
        assert check.unchecked.startswith(words)
        assert bool(check.unchecked) == bool(words)
        assert check.better is not None


def test_the_cost_is_bounded():
    wrong = look(BGR, BYTES, n=MORE_IMAGES)
    assert wrong.passes <= 2 * MORE_IMAGES + wrong.forms * SCREENING_IMAGES + 6 * MORE_IMAGES


def test_images_are_even_over_classes_and_one_of_each_group():
    labels = torch.arange(300) % 3
    data = Dataset(
        images=torch.rand(300, 1, 4, 4),
        labels=labels,
        ids=tuple(map(str, range(300))),
        class_names=("a", "b", "c"),
        name="made",
    )
    chosen = choose_check_images(data, 200)
    assert len(set(chosen)) == len(chosen) == 200
    assert sorted(labels[chosen[:FIRST_IMAGES]].bincount().tolist()) == [21, 21, 22]
    assert choose_check_images(data, FIRST_IMAGES) == chosen[:FIRST_IMAGES]
    grouped = replace(data, groups=tuple(str(position // 30) for position in range(300)))
    assert len(choose_check_images(grouped, 200)) == 10


@pytest.mark.parametrize(
    ("errors", "n", "expected"),
    [(12, 64, True), (11, 64, False), (12, 241, False), (12, 240, True), (0, 0, False)],
)
def test_too_few_errors_leave_no_room_for_a_better_form(errors, n, expected):
    assert can_be_better(errors, n, 33) is expected


def compare(gains: int, losses: int, n: int, forms: int = 1, classes: int = 4) -> BetterForm | None:
    """Compare forms of which the one gains and loses so many images, the rest being correct in both."""
    after = torch.ones(n, dtype=torch.bool)
    after[:losses] = False
    before = torch.ones(n, dtype=torch.bool)
    before[losses : losses + gains] = False
    return compare_form(
        before, after, torch.arange(n) % classes, num_classes=classes, forms=forms, kind="images",
        form="x", remedy=("x", False),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "losses", "n", "forms", "found"),
    [
        (7, 0, 40, 1, True),  # chance 1/128
        (6, 0, 40, 1, False),  # chance 1/64
        (7, 0, 40, 2, False),
        (8, 0, 40, 2, True),
        (10, 0, 200, 1, True),  # a gain of 5%
        (10, 0, 201, 1, False),
        (0, 9, 40, 1, False),
    ],
)
def test_a_form_is_better_by_a_significant_gain_of_at_least_5_percent(gains, losses, n, forms, found):
    assert (compare(gains, losses, n, forms) is not None) is found


def test_a_tie_nan_and_a_rejected_image_have_no_class():
    logits = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 5], [float("nan"), 1, 0], [0, 2, 1]])
    assert find_predicted_classes(logits, 2).tolist() == [0, -1, -1, -1, 1]
    assert find_rejected(logits, 2).tolist() == [False, False, True, False, False]
    assert not find_rejected(logits, 3).any()


class Hesitant(nn.Module):
    """Rejects an image whose best class is not far ahead, so that a stronger contrast rejects fewer."""

    def __init__(self, wanted: InputContract, margin: float) -> None:
        super().__init__()
        self.inner, self.margin = NearestPrototype(wanted), margin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.inner(images)
        best = logits.topk(2, dim=1).values
        return torch.cat([logits, best[:, 1:] + self.margin], dim=1)


def test_fewer_rejected_images_make_no_form_better():
    images, labels = make_images(64)
    for wanted, found in ((PLAIN, None), (BGR, "BGR channels")):
        model = Hesitant(wanted, 1.0)
        classifier = Classifier(model, num_classes=6, abstain="last")
        check = FormSearch(classifier=classifier, images=images, labels=labels).run()
        rejected = classifier(images).argmax(dim=1) == 6
        correct = (classifier(images).argmax(dim=1) == labels).sum()
        assert (check.correct, check.n) == (int(correct), 64)
        assert int(rejected.sum()) > 10
        assert (check.better and check.better.form) == found


def test_an_image_that_is_rejected_without_a_class_is_left_out():
    images, labels = make_images(64)

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        logits = NearestPrototype(PLAIN)(pixels)
        dim = pixels.flatten(1).amax(dim=1) < 0.75
        return logits.masked_fill(dim[:, None], float("nan"))

    classifier = Classifier(answer, num_classes=6, abstain="nan")
    check = FormSearch(classifier=classifier, images=images, labels=labels).run()
    assert check.correct < 50
    assert check.better is None


def test_the_warning_is_one_line_and_the_record_survives_json():
    check = look(BGR, PLAIN)
    line = check.format_warning("resnet")
    assert line is not None
    better = check.better
    assert better is not None
    assert line == (
        f"the preprocessing of resnet looks wrong: {better.correct_before} of 64 images correct; with BGR "
        "channels 64 of 64 are: set preprocessing: {channel_order: bgr}"
    )
    assert PreprocessingCheck.from_json(check.to_json()) == check
    assert look(BGR, BGR).format_warning("resnet") is None
    long = replace(better, remedy=f"class_names: [{'a' * MAX_ADVICE_LENGTH}]")
    assert long.format_advice().startswith("set class_names to the line in preprocessing_check")
    unasked = PreprocessingCheck(unchecked="it hangs")
    assert PreprocessingCheck.from_json(unasked.to_json()) == unasked
    assert unasked.to_json()["accuracy"]["reason"] == "the model was not asked"


@pytest.mark.parametrize(("behind", "chosen"), [(4, "usual"), (6, "best")])
def test_a_more_usual_form_is_named_if_it_is_nearly_as_good(behind, chosen):
    best = look(BGR, PLAIN).better
    assert best is not None
    best = replace(best, n=100, correct=90, form="best")
    usual = replace(best, correct=90 - behind, form="usual")
    assert choose_form([usual, best]).form == chosen
    assert choose_form([]) is None


@pytest.mark.parametrize(("gained", "is_tried"), [(3, True), (2, False)])
def test_a_form_that_gains_a_quarter_of_some_misclassified_images_is_tried_on_all(gained, is_tried):
    """Twelve images are misclassified, of which another order of the channels gains some."""
    images, labels = make_images(12, noise=0.0)
    images[:gained] = images[:gained].flip(1)
    images[gained:] = PROTOTYPES[(labels[gained:] + 2) % 6]
    search = FormSearch(
        classifier=Classifier(NearestPrototype(PLAIN), num_classes=6), images=images, labels=labels
    )
    search.predictions, search.known = torch.full((12,), -1), 12
    variants = [InputVariant(contract=BGR)]
    assert search.screen_variants(variants) == (variants if is_tried else [], "")


def test_of_many_forms_that_gain_those_that_lose_least_are_tried_on_all(monkeypatch):
    """Twelve images are misclassified and twelve are not: every form gains as many, the last loses none."""
    search = FormSearch(
        classifier=Classifier(NearestPrototype(PLAIN), num_classes=6),
        images=torch.zeros(24, 3, SIDE, SIDE),
        labels=torch.zeros(24, dtype=torch.int64),
    )
    search.predictions, search.known = torch.arange(24) % 2, 24
    variants = [InputVariant(contract=replace(PLAIN, value_scale=2.0 + loss)) for loss in range(7, -1, -1)]

    def predict(variant, rows):
        losses = int(variant.contract.value_scale) - 2
        gained = rows % 2 == 1
        return torch.where(gained | (rows >= 2 * losses), 0, 5)

    monkeypatch.setattr(search, "_predict_variant", predict)
    assert search.screen_variants(variants) == (variants[2:], "")
    assert search.screen_variants(variants[:6]) == (variants[:6], "")
