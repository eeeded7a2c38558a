from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import resolve_device
from robustbench_local.classifier.state_guard import ProcessSettings, RandomStates
from robustbench_local.defenses.wrappers.wrapper_registry import defend
from robustbench_local.errors import ConfigError, InvariantError, ModelError


def linear(classes: int = 3, pixels: int = 3 * 4 * 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()


def images(count: int = 5, size: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


class Returns(nn.Module):
    """A model whose forward is whatever the test says."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> object:
        return self.function(inputs)


def test_logits_are_those_of_the_normalised_model() -> None:
    model, x = linear(), images()
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    classifier = Classifier(model, num_classes=3, normalize=(mean, std))
    expected = model((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    torch.testing.assert_close(classifier(x), expected, rtol=0, atol=0)
    assert classifier.channels == 3


def test_images_of_another_size_are_resized_inside_and_stay_differentiable() -> None:
    classifier = Classifier(linear(), num_classes=3, input_size=(4, 4))
    x = images(2, size=10)
    _, _, gradient = classifier.compute_gradient(x, lambda logits: logits.sum(1))
    assert classifier(x).shape == (2, 3)
    assert gradient.shape == x.shape
    assert (gradient != 0).any()
    shrunk = nn.functional.interpolate(x, (4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier(x), classifier(shrunk))


def test_gradient_of_a_linear_model_is_its_weight_row() -> None:
    model = linear()
    classifier = Classifier(model, num_classes=3, normalize="half")
    logits, losses, gradient = classifier.compute_gradient(images(), lambda z: z[:, 2])
    row = model[1].weight[2].detach().view(3, 4, 4) / 0.5
    torch.testing.assert_close(gradient, row.expand_as(gradient))
    torch.testing.assert_close(losses, logits[:, 2])
    assert not any(value.requires_grad for value in (logits, losses, gradient))


def test_several_losses_have_a_gradient_each_and_cost_one_forward_pass() -> None:
    model, x = linear(), images()
    classifier = Classifier(model, num_classes=3)
    with classifier.count_passes(5) as meter:
        logits, losses, gradient = classifier.compute_gradient(x, lambda logits: logits[:, 1:])
    torch.testing.assert_close(losses, logits[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(gradient, model[1].weight[1:].view(1, 2, 3, 4, 4).expand(5, -1, -1, -1, -1))
    assert meter.forward_passes.tolist() == [1] * 5
    assert meter.backward_passes.tolist() == [2] * 5
    assert meter.total_passes == 15


def test_gradient_leaves_parameters_images_and_their_gradients_alone() -> None:
    model, x = linear(), images().requires_grad_()
    Classifier(model, num_classes=3).compute_gradient(x, lambda z: z.sum(1))
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_call_is_differentiable_only_when_images_want_gradients() -> None:
    classifier = Classifier(linear(), num_classes=3)
    assert not classifier(images()).requires_grad
    assert classifier(images().requires_grad_()).requires_grad
    with torch.no_grad():
        assert not classifier(images().requires_grad_()).requires_grad


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_black_boxes_give_no_gradients(access: str) -> None:
    classifier = Classifier(linear(), num_classes=3, access=access)
    assert not classifier(images().requires_grad_()).requires_grad
    with pytest.raises(ModelError, match="no gradients"):
        classifier.compute_gradient(images(), lambda z: z.sum(1))


def test_a_callable_is_a_black_box_with_scores() -> None:
    classifier = Classifier(lambda x: x.mean(dim=(2, 3)), num_classes=3)
    assert classifier.access == "scores"
    assert classifier.count_parameters() is None
    torch.testing.assert_close(classifier(images()), images().mean(dim=(2, 3)))
    with classifier.evaluation_mode():
        classifier(images())


def test_labels_become_one_hot_rows() -> None:
    classifier = Classifier(lambda x: torch.tensor([2, 0, 1, 1, 2]), num_classes=3, access="labels")
    assert classifier(images()).tolist() == torch.eye(3)[[2, 0, 1, 1, 2]].tolist()


def test_access_labels_hides_the_scores_of_a_model_that_has_them() -> None:
    model = linear()
    classifier = Classifier(model, num_classes=3, access="labels")
    logits = classifier(images())
    assert set(logits.flatten().tolist()) == {0.0, 1.0}
    assert logits.argmax(1).tolist() == model(images()).argmax(1).tolist()


def test_numpy_answers_are_understood() -> None:
    classifier = Classifier(lambda x: x.numpy().mean(axis=(2, 3)), num_classes=3)
    torch.testing.assert_close(classifier(images()), images().mean(dim=(2, 3)))


class TestMeter:
    def test_counts_by_row(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        x = images(4)
        with classifier.count_passes(6) as meter:
            classifier(x)
            classifier.compute_gradient(x[:2], lambda z: z.sum(1), rows=torch.tensor([5, 5]))
            classifier(x[:3], rows=torch.tensor([0, 5, 0]))
        classifier(x)
        assert meter.forward_passes.tolist() == [3, 1, 1, 1, 0, 3]
        assert meter.backward_passes.tolist() == [0, 0, 0, 0, 0, 2]
        assert meter.forward_passes.dtype == torch.int64

    def test_the_innermost_counts(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        with classifier.count_passes(1) as outer:
            with classifier.count_passes(1) as inner:
                classifier(images(1))
            classifier(images(1))
        assert (int(inner.forward_passes), int(outer.forward_passes)) == (1, 1)

    def test_rows_that_do_not_fit_are_a_bug_of_ours(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        with classifier.count_passes(2), pytest.raises(InvariantError, match="5 images"):
            classifier(images(5))
        with classifier.count_passes(2), pytest.raises(InvariantError, match="1 row numbers"):
            classifier(images(5), rows=torch.tensor([0]))

    def test_a_limit_fails_the_call_that_would_exceed_it_before_the_model_is_asked(self) -> None:
        asked: list[int] = []

        def scores(x: Tensor) -> Tensor:
            asked.append(len(x))
            return x.mean(dim=(2, 3))

        classifier = Classifier(scores, num_classes=3)
        x = images(4)
        assert classifier.queries_left() is None
        with classifier.count_passes(4, limit=3) as meter:
            classifier(x)
            classifier(x[:2], rows=torch.tensor([1, 1]))
            assert classifier.queries_left().tolist() == [2, 0, 2, 2]
            assert classifier.queries_left(torch.tensor([3, 1])).tolist() == [2, 0]
            with pytest.raises(InvariantError, match="1 of 4 images would exceed their limit of 3 queries"):
                classifier(x)
            with pytest.raises(InvariantError, match="in row 2"):  # an image may be there several times
                classifier(x[:3], rows=torch.tensor([2, 2, 2]))
            classifier(x[:2], rows=torch.tensor([2, 2]))
        assert meter.forward_passes.tolist() == [1, 3, 3, 1]
        assert sum(asked) == 8

    def test_without_a_limit_nothing_is_left_to_ask_for(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        with classifier.count_passes(2):
            classifier(images(2))
            assert classifier.queries_left() is None

    def test_a_gradient_is_a_query_too(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        with classifier.count_passes(2, limit=1):
            classifier.compute_gradient(images(2), lambda z: z.sum(1))
            with pytest.raises(InvariantError, match="limit of 1 query"):
                classifier.compute_gradient(images(2), lambda z: z.sum(1))


class TestAsModule:
    def test_counts_rows_of_every_pass(self) -> None:
        classifier = Classifier(linear(), num_classes=3, normalize="half")
        module, x = classifier.as_module(), images(4).requires_grad_()
        logits = module(x)
        for column in range(3):  # as DeepFool does: one backward pass a class through one forward pass
            torch.autograd.grad(logits[:, column].sum(), x, retain_graph=True)
        with torch.no_grad():
            module(x[:2])
        assert classifier.external_passes == (6, 12)
        with classifier.count_passes(3):
            classifier.compute_gradient(images(3), lambda z: z.sum(1))
            assert classifier.count_current_passes() == 18 + 6
        torch.testing.assert_close(logits, classifier(x))

    def test_shows_the_parameters_and_mode_of_the_model(self) -> None:
        model = linear()
        module = Classifier(model, num_classes=3).as_module()
        assert [p.data_ptr() for p in module.parameters()] == [p.data_ptr() for p in model.parameters()]
        assert not module.training

    def test_a_black_box_gives_no_gradients_to_strangers_either(self) -> None:
        module = Classifier(linear(), num_classes=3, access="scores").as_module()
        assert not module(images().requires_grad_()).requires_grad

    def test_a_callable_works_too(self) -> None:
        module = Classifier(lambda x: x.mean(dim=(2, 3)), num_classes=3).as_module()
        assert module.eval()(images()).shape == (5, 3)
        assert list(module.parameters()) == []


def _spoiling(when: Callable[[int], bool], *, through_numpy: bool = False) -> nn.Module:
    """A network that halves its input in place at the calls, counted from 1, that ``when`` names."""

    class Spoiling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = linear(), 0

        def forward(self, given: Tensor) -> Tensor:
            self.calls += 1
            if when(self.calls):
                spoiled = given.numpy() if through_numpy else given
                spoiled *= 0.5
            return self.network(given)

    return Spoiling()


class Nasty(nn.Module):
    """Spoils everything that a forward can spoil."""

    def __init__(self, elsewhere: Path) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * 4 * 4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", None)
        self.elsewhere = elsewhere

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.cache = inputs.detach().clone()
        self.head.bias.data.add_(1.0)
        random.random()
        np.random.rand()
        torch.rand(1)
        logits = self.head(self.drop(self.norm(inputs)).flatten(1))
        with torch.no_grad():
            inputs.zero_()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.set_grad_enabled(False)
        os.chdir(self.elsewhere)
        self.train()
        return logits


class TestEverythingIsPutBack:
    def test_after_a_nasty_model(self, tmp_path: Path) -> None:
        model = Nasty(tmp_path)
        model.drop.eval()
        model.head.weight.requires_grad_(False)
        model.head.bias.grad = torch.ones(3)
        x, bias_grad = images(), model.head.bias.grad
        before_x, state = x.clone(), {name: value.clone() for name, value in model.state_dict().items()}
        settings, randomness = ProcessSettings.from_process(), RandomStates.from_process()
        classifier = Classifier(model, num_classes=3)
        with classifier.evaluation_mode():
            classifier(x)
            assert torch.get_default_dtype() == torch.float32  # already between two calls
            model.zero_grad()
        assert settings.list_differences(ProcessSettings.from_process()) == []
        assert randomness.is_same_as(RandomStates.from_process())
        assert torch.equal(x, before_x)
        assert [part.training for part in (model, model.norm, model.drop, model.head)] == [
            True,
            True,
            False,
            True,
        ]
        assert [p.requires_grad for p in model.head.parameters()] == [False, True]
        assert model.head.bias.grad is bias_grad
        assert bias_grad.tolist() == [1, 1, 1]
        assert model.cache is None
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_and_said(self, tmp_path: Path) -> None:
        classifier = Classifier(Nasty(tmp_path), num_classes=3)
        with classifier.evaluation_mode():
            classifier(images())
        told = " | ".join(classifier.notes)
        for word in (
            "training mode",
            "default_dtype",
            "threads",
            "cudnn",
            "precision",
            "directory",
        ):
            assert word in told
        assert "random numbers" in told
        assert "input in place" in told
        assert "head.bias" in told
        assert "calls" in told

    def test_an_input_that_is_changed_in_place_is_a_copy_at_every_call(self) -> None:
        classifier = Classifier(_spoiling(lambda _calls: True), num_classes=3)
        given = images()
        with classifier.evaluation_mode():
            first = classifier(given)
            for _ in range(3):
                assert torch.equal(classifier(given), first)
        assert torch.equal(given, images())
        assert any("input in place" in note for note in classifier.notes)

    def test_an_input_that_is_changed_behind_torchs_back_is_a_copy_too(self) -> None:
        classifier = Classifier(_spoiling(lambda _calls: True, through_numpy=True), num_classes=3)
        given = images()
        with classifier.evaluation_mode():
            classifier(given)
            classifier(given)
        assert torch.equal(given, images())

    def test_an_input_that_is_changed_in_place_now_and_then_is_an_error(self) -> None:
        classifier = Classifier(_spoiling(lambda calls: calls > 1), num_classes=3)
        with classifier.evaluation_mode():
            classifier(images())
            with pytest.raises(ModelError, match="not at its first call"):
                classifier(images())

    def test_even_when_it_raises(self) -> None:
        model = linear().train()
        classifier = Classifier(model, num_classes=3)
        settings = ProcessSettings.from_process()
        with pytest.raises(ZeroDivisionError), classifier.evaluation_mode():
            raise ZeroDivisionError
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        assert settings.list_differences(ProcessSettings.from_process()) == []

    def test_a_well_behaved_model_earns_no_note(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        with classifier.evaluation_mode():
            classifier(images())
        assert classifier.notes == []

    def test_inside_the_model_is_frozen_in_evaluation_mode_and_full_precision(self) -> None:
        model = nn.Sequential(linear(), nn.Dropout(0.5)).train()
        classifier = Classifier(model, num_classes=3)
        torch.backends.cudnn.benchmark = True
        try:
            with torch.no_grad(), classifier.evaluation_mode(), classifier.evaluation_mode():
                assert not any(part.training for part in model.modules())
                assert not any(p.requires_grad for p in model.parameters())
                assert torch.is_grad_enabled()
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                assert torch.backends.cudnn.deterministic
                assert not torch.backends.cudnn.benchmark
                assert torch.equal(classifier(images()), classifier(images()))
            assert torch.backends.cudnn.benchmark
        finally:
            torch.backends.cudnn.benchmark = False
        assert model.training

    def test_tf32_set_the_old_way_can_still_be_read_the_old_way(self) -> None:
        before = torch.backends.cudnn.allow_tf32
        with Classifier(linear(), num_classes=3).evaluation_mode():
            pass
        assert torch.backends.cudnn.allow_tf32 is before

    def test_a_wish_for_speed_or_determinism_survives(self) -> None:
        torch.set_float32_matmul_precision("high")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            before = ProcessSettings.from_process()
            with Classifier(linear(), num_classes=3).evaluation_mode():
                torch.use_deterministic_algorithms(False)
                assert torch.get_float32_matmul_precision() == "highest"
            assert before.list_differences(ProcessSettings.from_process()) == []
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_float32_matmul_precision("highest")

    def test_autocast_around_it_is_off_inside(self) -> None:
        classifier = Classifier(linear(), num_classes=3)
        exact = classifier(images())
        with torch.autocast("cpu", dtype=torch.bfloat16), classifier.evaluation_mode():
            assert torch.equal(classifier(images()), exact)

    def test_a_deleted_working_directory_does_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = tmp_path / "lost"
        lost.mkdir()
        monkeypatch.chdir(lost)
        lost.rmdir()
        classifier = Classifier(linear(), num_classes=3)
        with classifier.evaluation_mode():
            assert classifier(images()).shape == (5, 3)


class TestDigest:
    def test_is_the_same_for_the_same_model(self) -> None:
        assert (
            Classifier(linear(), num_classes=3).compute_digest()
            == Classifier(linear(), num_classes=3).compute_digest()
        )

    def test_feels_every_difference(self) -> None:
        tall = nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.Identity())
        tall.load_state_dict(linear().state_dict())
        nudged = linear()
        nudged[1].bias.data[0] += 1e-6
        digests = {
            Classifier(linear(), num_classes=3).compute_digest(),
            Classifier(nudged, num_classes=3).compute_digest(),
            Classifier(tall, num_classes=3).compute_digest(),
            Classifier(linear(), num_classes=3, normalize="half").compute_digest(),
            Classifier(linear(), num_classes=3, input_size=(4, 4)).compute_digest(),
            Classifier(linear(), num_classes=3, access="scores").compute_digest(),
            Classifier(linear().half(), num_classes=3).compute_digest(),
        }
        assert len(digests) == 7

    def test_of_a_callable_is_its_source(self) -> None:
        def one(x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

        def two(x: Tensor) -> Tensor:
            return x.amax(dim=(2, 3))

        digests = [Classifier(f, num_classes=3).compute_digest() for f in (one, one, two, math.sqrt)]
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3

    def test_knows_no_memory_addresses(self) -> None:
        class Activated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.act = lambda x: x

            def extra_repr(self) -> str:
                return repr(self.act)

            def forward(self, x: Tensor) -> Tensor:
                return x.mean(dim=(2, 3))

        kept = [Activated(), Activated()]
        assert repr(kept[0]) != repr(kept[1])
        assert len({Classifier(model, num_classes=3).compute_digest() for model in kept}) == 1


class TestWhatCannotWork:
    def test_images_of_another_shape_or_type(self) -> None:
        classifier = Classifier(linear(), num_classes=3, channels=3)
        with pytest.raises(ModelError, match=r"floats \(N, C, H, W\)"):
            classifier(images()[0])
        with pytest.raises(ModelError, match="uint8"):
            classifier((images() * 255).byte())
        with pytest.raises(ModelError, match="takes images with 3 channels, these have 1"):
            classifier(images(channels=1))

    def test_an_access_or_device_that_does_not_exist(self) -> None:
        with pytest.raises(ConfigError, match="unknown access"):
            Classifier(linear(), num_classes=3, access="logits")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="device 'gpu'"):
            Classifier(linear(), num_classes=3, device="gpu")

    def test_names_that_do_not_match_the_classes(self) -> None:
        with pytest.raises(ModelError, match="2 class names for 3 classes"):
            Classifier(linear(), num_classes=3, class_names=["a", "b"])

    def test_a_model_that_cannot_be_moved(self) -> None:
        with pytest.raises(ModelError, match="cannot be moved to cpu"):
            Classifier(nn.Linear(2, 2, device="meta"), num_classes=2)


def test_another_device_from_now_on() -> None:
    classifier = Classifier(linear(), num_classes=3, normalize="half", input_size=(4, 4))
    before = classifier(images(size=6))
    assert classifier.to("auto") is classifier
    assert classifier.device == resolve_device("auto")
    torch.testing.assert_close(classifier(images(size=6)).cpu(), before)


def test_auto_is_a_device_that_works() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_out_of_memory_passes_through_a_call_unchanged() -> None:
    def greedy(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Classifier(Returns(greedy), num_classes=3)(images())


class Viewing(nn.Module):
    """Sees its features as one row in torch's own order, as many a user's network does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.widening = nn.Conv2d(3, 32, 1)
        self.convolution = nn.Conv2d(32, 4, 3)
        self.readout = nn.Linear(4 * 4, 3)

    def forward(self, images):
        return self.readout(self.convolution(self.widening(images)).view(len(images), -1))


class Pooled(Viewing):
    """The same without a view."""

    def forward(self, images):
        return self.readout(self.convolution(self.widening(images)).flatten(1))


def strides(module):
    return [weight.stride() for weight in module.parameters()]


def test_weights_lie_channels_last_while_attacked_and_as_before_afterwards():
    module = Pooled()
    before, held = strides(module), [weight.data_ptr() for weight in module.parameters()]
    classifier = Classifier(module, num_classes=3)
    with classifier.evaluation_mode():
        assert module.convolution.weight.is_contiguous(memory_format=torch.channels_last)
        inside = classifier(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert strides(module) == before
    assert [weight.data_ptr() for weight in module.parameters()] == held
    outside = classifier(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(inside, outside)


def test_a_network_of_few_channels_stays_as_it_is():
    module = nn.Sequential(nn.Conv2d(3, 31, 3), nn.Conv2d(31, 64, 3), nn.Flatten(), nn.Linear(64, 3))
    before = strides(module)
    with Classifier(module, num_classes=3).evaluation_mode():
        assert strides(module) == before


def test_a_weight_that_is_computed_anew_stays_as_it_is():
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(32, 4, 3))
    module = nn.Sequential(nn.Conv2d(3, 32, 1), convolution, nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(module, num_classes=3)
    expected = classifier(images)
    with classifier.evaluation_mode():
        torch.testing.assert_close(classifier(images), expected)


def test_who_else_holds_the_weights_sees_the_same_values_while_they_lie_otherwise():
    module, twin = Pooled(), Pooled()
    twin.load_state_dict(module.state_dict(), assign=True)  # another network in the same memory
    held = module.state_dict()["convolution.weight"]
    values = held.clone()
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = twin(images)
    with Classifier(module, num_classes=3).evaluation_mode():
        assert torch.equal(held, values)
        assert torch.equal(twin(images), expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_that_views_its_features_gets_its_own_order_back(wrapped):
    module, plain = Viewing(), Pooled()
    classifier = Classifier(module, num_classes=3)
    if wrapped:
        classifier = defend(classifier, "bit-depth-3")
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with classifier.evaluation_mode():
        found = classifier(images)
        _, _, gradient = classifier.compute_gradient(images, lambda logits: logits[:, 0])
    assert gradient.abs().sum() > 0
    assert not classifier.notes or "raised" not in classifier.notes[-1]
    if not wrapped:
        torch.testing.assert_close(found, plain(images))


def test_gradients_lie_as_the_images_do():
    classifier = Classifier(Pooled(), num_classes=3)
    images = torch.rand(2, 3, 4, 4)
    with classifier.evaluation_mode():
        _, _, gradient = classifier.compute_gradient(images, lambda logits: logits[:, 0])
        foreign = images.clone().requires_grad_()
        (theirs,) = torch.autograd.grad(classifier.as_module()(foreign)[:, 0].sum(), foreign)
    assert gradient.is_contiguous()
    assert theirs.is_contiguous()
    torch.testing.assert_close(theirs, gradient)


def test_what_a_network_does_to_its_weights_is_seen_in_either_order():
    class Drifting(Pooled):
        def forward(self, images):
            with torch.no_grad():
                self.convolution.weight[0, 0, 0, 0] += 1.0
            return super().forward(images)

    module = Drifting()
    before = module.convolution.weight.clone()
    classifier = Classifier(module, num_classes=3)
    with classifier.evaluation_mode():
        classifier(torch.rand(2, 3, 4, 4))
    torch.testing.assert_close(module.convolution.weight, before)
    assert any("convolution.weight changed while it was attacked" in note for note in classifier.notes)
