"""The probe: what depends on its company or history is found with its cause; sound models are left alone."""

from __future__ import annotations

import os
import threading

import inconsistent_models as models
import pytest
import torch

from robustbench_local.classifier import Classifier
from robustbench_local.defenses.wrappers.wrapper_registry import build_wrapper
from robustbench_local.evaluation.probes import answer_differences
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency


def probe(model, count=12, **options):
    classifier = Classifier(model, num_classes=models.CLASSES, name="it", **options)
    return probe_consistency(classifier, models.make_images(count))


@pytest.mark.parametrize("kind", list(models.make_batch_dependent_models()))
@pytest.mark.parametrize("count", [1, 12])
def test_what_depends_on_its_company_is_found(kind, count):
    found = probe(models.make_batch_dependent_models()[kind], count)
    assert found.kind == "company"
    assert "\n" not in found.cause
    assert "logits differ by" in found.cause
    assert found.difference > 1e-4 * found.logit_range


KINDS_OF_MEMORY = {
    "attribute": "seen",
    "global": "inconsistent_models.REMEMBERED_ANSWERS",
    "closure": "(closure).seen",
    "file": "after 32 similar ones",
    "counter": "calls",
    "global counter": "inconsistent_models.CALL_COUNT",
    "class counter": "Variant.total",
    "default counter": "defaults of",
    "weights": "layers.3.weight",
}


@pytest.mark.parametrize("kind", KINDS_OF_MEMORY)
def test_what_depends_on_its_history_is_found(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "REMEMBERED_ANSWERS", [])
    monkeypatch.setattr(models, "CALL_COUNT", 0)
    found = probe(models.make_history_dependent_models(tmp_path)[kind])
    assert found.kind == "memory"
    assert found.is_stateful
    assert KINDS_OF_MEMORY[kind] in found.cause
    assert "logits differ by" in found.cause


def test_a_cache_of_rounded_images_is_found():
    assert not probe(models.make_rounded_memory()).is_consistent


@pytest.mark.parametrize("kind", list(models.make_consistent_models()))
@pytest.mark.parametrize("access", ["gradients", "labels"])
def test_sound_models_are_left_alone(kind, access):
    found = probe(models.make_consistent_models()[kind], access=access)
    assert found.is_consistent, found.cause
    assert (found.cause, found.notes, found.is_stateful) == ("", (), False)
    assert found.queried_images <= 72


@pytest.mark.parametrize("kind", ["mean", "copies"])
def test_labels_tell_company_too(kind):
    found = probe(models.make_batch_dependent_models()[kind], access="labels")
    assert found.kind == "company"
    assert "labels differ" in found.cause


def test_a_counter_that_changes_nothing_is_a_note():
    found = probe(models.make_counting_model())
    assert found.is_consistent
    assert found.is_stateful
    (note,) = found.notes
    assert "keeps state between calls (calls changed)" in note


@pytest.mark.parametrize("write", ["replace", "append"])
def test_a_file_is_a_memory_too(write, tmp_path):
    file = tmp_path / "calls.txt"
    file.write_text("", encoding="utf-8")

    def forward(self, images, limit):
        text = file.read_text(encoding="utf-8") + "."
        if write == "replace":
            (tmp_path / "other").write_text(text, encoding="utf-8")
            (tmp_path / "other").rename(file)
        else:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(".")
        return self.layers(images) * (-1 if len(text) > limit else 1)

    harmless = probe(models.make_variant(forward=lambda self, images: forward(self, images, 10_000)))
    assert harmless.is_consistent
    assert "writes to file calls.txt in its forward" in harmless.notes[0]
    file.write_text("", encoding="utf-8")
    found = probe(models.make_variant(forward=lambda self, images: forward(self, images, 80)))
    assert found.kind == "memory"
    assert "after 128 calls" in found.cause
    assert "file calls.txt changed" in found.cause


def test_files_that_are_only_read_are_no_memory(tmp_path):
    file = tmp_path / "scale.txt"
    file.write_text("2", encoding="utf-8")
    os.utime(file, (1e9, 1e9))
    found = probe(models.make_variant(lambda _, images: images * float(file.read_text(encoding="utf-8"))))
    assert (found.is_consistent, found.notes) == (True, ())


def test_state_that_cannot_be_copied_is_refused():
    class Counter:
        def __init__(self):
            self.lock, self.calls = threading.Lock(), 0

    def forward(self, images):
        self.counter.calls += 1
        return self.layers(images)

    network = models.make_variant(forward=forward)
    network.counter = Counter()
    found = probe(network)
    assert found.kind == "memory"
    assert found.cause == "keeps state between calls (counter changed) that cannot be copied"


def test_random_numbers_are_no_dependence():
    own, unseeded = probe(models.make_own_generator_model()), probe(models.make_unseeded_model())
    assert own.is_consistent
    assert unseeded.is_consistent
    assert own.is_nondeterministic
    assert unseeded.is_nondeterministic
    assert "generator of its own (source)" in own.notes[0]
    assert "no seed repeats" in unseeded.notes[0]
    assert all("too high" in found.notes[0] and "too low" in found.notes[0] for found in (own, unseeded))


def test_a_random_model_is_still_judged_for_company():
    noisy = models.make_variant(lambda _, x: x + 0.05 * torch.randn_like(x) - x.mean(0, keepdim=True))
    assert probe(noisy).kind == "company"


@pytest.mark.parametrize(("share", "consistent"), [(0.5e-4, True), (2e-4, False)])
def test_tolerance_for_other_images_at_the_same_place(share, consistent):
    assert answer_differences.SAME_SHAPE_TOLERANCE == 1e-4
    bias = torch.tensor([0.0, 0, 0, 0, 1])

    def forward(self, images):  # the answer's range is 10, and the neighbour's brightness moves one logit
        others = torch.roll(images.flatten(1)[:, 0], 1, 0) > 0.5
        return 10 * bias + 10 * share * others[:, None] * bias

    images = models.make_images(8)
    images[:, 0, 0, 0] = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1])
    classifier = Classifier(models.make_variant(forward=forward), num_classes=5, access="scores")
    assert probe_consistency(classifier, images).is_consistent is consistent


@pytest.mark.parametrize(("size", "consistent"), [(9.0, True), (11.0, False)])
def test_tolerance_for_other_sizes_is_ten_times_the_models_own_rounding(size, consistent):
    assert answer_differences.ROUNDING_FACTOR == 10
    bias = torch.tensor([0.0, 0, 0, 0, 10])

    def forward(self, images):  # 1e-6 in every pixel moves a logit by 1 part in 1,000, a large batch by more
        step = (images.flatten(1)[:, :1] % 0.1 > 0.05).float()
        return bias * (1 + 1e-3 * step + (size * 1e-3 if len(images) > 16 else 0))

    images = models.make_images(8)
    images[:, 0, 0, 0] = 0.55 - 5e-7
    classifier = Classifier(models.make_variant(forward=forward), num_classes=5, access="scores")
    assert probe_consistency(classifier, images).is_consistent is consistent


def test_rounding_has_a_limit():
    assert answer_differences.MAX_ROUNDING_SHARE == 0.1

    def forward(self, images):  # chaos: the last digits of a pixel decide, and the size of the batch, too
        digits = (images.flatten(1)[:, :1].double() * 1e7) % 1
        return torch.cat([digits, 1 - digits, digits * 0], dim=1).float() * (2 if len(images) > 16 else 1)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=3, access="scores")
    assert probe_consistency(classifier, models.make_images()).kind == "company"


def test_a_backward_pass_leaves_nothing_behind():
    def forward(self, images):
        if images.requires_grad:
            images.register_hook(lambda _: setattr(self, "calls", 1))
        return self.layers(images) + self.calls * torch.arange(5.0)

    found = probe(models.make_variant(forward=forward))
    assert found.kind == "memory"
    assert "after a backward pass" in found.cause


class Service:
    """A callable that counts its images and answers each by itself, or not."""

    def __init__(self, forward):
        self.forward, self.asked = forward, []

    def __call__(self, images):
        self.asked.append(len(images))
        return self.forward(images)

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    ("change", "kind", "notes"),
    [
        (lambda x: x, "consistent", 0),
        (lambda x: x + 2e-3 * torch.arange(len(x)).view(-1, 1, 1, 1), "consistent", 0),
        (lambda x: x - x.mean(0, keepdim=True), "company", 0),
        (
            lambda x: x + 0.1 * torch.from_numpy(models.np.random.default_rng().normal(size=x.shape)).to(x),
            "consistent",
            1,
        ),
    ],
)
def test_a_service_is_asked_about_six_images(change, kind, notes):
    network = models.Network()
    service = Service(lambda images: network(change(images)).detach())
    found = probe(service)
    assert (found.kind, len(found.notes)) == (kind, notes)
    assert sum(service.asked) <= 6


@pytest.mark.parametrize(("method", "parameters"), [("jpeg", {"quality": 75}), ("smoothing", {"sigma": 0.1})])
def test_a_defended_classifier_is_probed_as_a_whole(method, parameters):
    wrapper = build_wrapper(method, parameters)
    defended = wrapper.wrap(Classifier(models.Network(), num_classes=5))
    assert probe_consistency(defended, models.make_images()).is_consistent
    defended = wrapper.wrap(Classifier(models.make_batch_dependent_models()["mean"], num_classes=5))
    assert probe_consistency(defended, models.make_images()).kind == "company"


def test_nothing_is_left_behind():
    network = models.make_variant(forward=models._forward_with_attribute_memory)
    classifier = Classifier(network, num_classes=5)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    probe_consistency(classifier, models.make_images())
    assert network.seen == []
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("unbearable", [0, 1, 7])
@pytest.mark.parametrize("kind", ["plain", "mean"])
def test_an_image_that_the_model_cannot_bear_is_left_out(unbearable, kind):
    images = models.make_images(8)
    network = {**models.make_consistent_models(), **models.make_batch_dependent_models()}[kind]
    prepared = type(network).prepare_images

    def refusing(self, batch):
        if any(torch.equal(image, images[unbearable]) for image in batch):
            raise ValueError("not this one")
        return prepared(self, batch)

    type(network).prepare_images = refusing
    try:
        found = probe_consistency(Classifier(network, num_classes=5), images)
    finally:
        type(network).prepare_images = prepared
    assert found.kind == ("consistent" if kind == "plain" else "company")


def test_the_same_image_many_times_is_data_enough():
    images = models.make_images(1).expand(9, -1, -1, -1)
    assert probe_consistency(Classifier(models.Network(), num_classes=5), images).is_consistent
    mean = Classifier(models.make_batch_dependent_models()["mean"], num_classes=5)
    assert probe_consistency(mean, images).kind == "company"


def _answers_otherwise_with_gradients(self, images):
    answers = self.layers(images)
    return answers.roll(1, 1) if torch.is_grad_enabled() else answers


def _answers_otherwise_to_leaves(self, images):
    answers = self.layers(images)
    return answers + 0.1 * answers.roll(1, 1) if images.requires_grad else answers


@pytest.mark.parametrize("forward", [_answers_otherwise_with_gradients, _answers_otherwise_to_leaves])
def test_what_answers_otherwise_while_gradients_are_recorded_is_found(forward):
    found = probe(models.make_variant(forward=forward))
    assert found.kind == "gradients"
    assert "while gradients are recorded" in found.cause
    assert "\n" not in found.cause
    assert probe(
        models.make_variant(forward=forward), access="scores"
    ).is_consistent  # nobody records any then


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "consistent"), (2.0, "gradients")])
def test_kernels_that_round_otherwise_while_gradients_are_recorded_are_not_taken_for_it(factor, kind):
    def forward(self, images):
        answers = self.layers(images)
        spread = (answers.amax(1, keepdim=True) - answers.amin(1, keepdim=True)).amax()
        share = factor * answer_differences.RECORDED_TOLERANCE
        moved = share * spread if torch.is_grad_enabled() else 0.0
        # each image by itself, were it not for the spread, which is the same for all that are asked here
        return answers + moved * torch.eye(models.CLASSES)[:1] if len(images) == 2 else answers

    assert probe(models.make_variant(forward=forward)).kind == kind


def test_extremes_of_the_whole_batch_are_found_where_every_image_has_black_and_white_pixels():
    images = models.make_images(8)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0.0, 1.0
    scaled = models.make_variant(prepare_images=lambda _self, x: (x - x.min()) / (x.max() - x.min()))
    assert probe_consistency(Classifier(scaled, num_classes=models.CLASSES), images).kind == "company"
    one_by_one = models.make_variant(
        prepare_images=lambda _self, x: (
            (x - x.amin((1, 2, 3), keepdim=True)) / x.amax((1, 2, 3), keepdim=True)
        )
    )
    assert probe_consistency(Classifier(one_by_one, num_classes=models.CLASSES), images).is_consistent


def test_noise_that_the_forward_seeds_itself_belongs_to_the_place_in_the_batch():
    def by_place(_self, images):
        torch.manual_seed(0)
        return images + 0.1 * torch.randn(images.shape)

    def the_same(_self, images):
        torch.manual_seed(0)
        return images + 0.1 * torch.randn(images.shape[1:])

    assert probe(models.make_variant(prepare_images=by_place)).kind == "company"
    assert probe(models.make_variant(prepare_images=the_same)).is_consistent


def test_a_forward_that_fails_where_gradients_are_recorded_is_left_to_black_boxes():
    def forward(self, images):
        return self.layers(torch.from_numpy(images.numpy()))

    assert probe(models.make_variant(forward=forward)).is_consistent


def test_a_model_that_refuses_pale_images_is_not_refused_for_that():
    def prepared(_self, images):
        if float(images.std()) < 0.15:
            raise ValueError("this is no photograph")
        return images

    images = (models.make_images(8) > 0.5).float()
    found = probe_consistency(Classifier(models.make_variant(prepare_images=prepared), num_classes=5), images)
    assert found.is_consistent
