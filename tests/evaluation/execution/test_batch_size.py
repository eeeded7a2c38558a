"""The batch size that is measured, and the speed that a plan's estimate rests on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.execution import batch_size as tuning
from robustbench_local.evaluation.execution.batch_size import ModelSpeed, measure_speed, tune_batch_size

IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _all_batch_sizes(monkeypatch, full_batch_size):
    monkeypatch.setattr(tuning, "MAX_BATCH_SIZE", full_batch_size)


class Timed(Classifier):
    """A linear classifier that says how large its batches were."""

    def __init__(self, largest: int = 10**6) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), num_classes=3)
        self.sizes, self.largest = [], largest

    def __call__(self, images, rows=None):
        if len(images) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        self.sizes.append(len(images))
        return super().__call__(images, rows)


def clock(monkeypatch, cost):
    """Replace the clock: a pass over ``image_count`` images takes ``cost(n)`` seconds."""

    def timed(call, times=3):
        call()
        return cost(classifier.sizes[-1])

    classifier = Timed()
    monkeypatch.setattr(tuning, "_time_call", timed)
    return classifier


def test_the_batch_grows_while_an_image_gets_cheaper(monkeypatch):
    # a fixed cost of 64 images: at 512 an image costs 1.125, at 1,024 it costs 1.0625, more than 5% less
    classifier = clock(monkeypatch, lambda size: 1e-6 * (64 + size))
    assert tune_batch_size(classifier, IMAGES) == 1024
    classifier = clock(monkeypatch, lambda size: 1e-6 * (8 + size))
    assert tune_batch_size(classifier, IMAGES) == 256
    classifier = clock(monkeypatch, lambda size: 1e-6 * size**2)
    assert tune_batch_size(classifier, IMAGES) == 8
    assert classifier.sizes == [8, 16]


def test_one_disturbed_measurement_does_not_end_the_search(monkeypatch):
    classifier = clock(monkeypatch, lambda size: 1e-6 * (64 + size) * (1.3 if size == 16 else 1))
    assert tune_batch_size(classifier, IMAGES) == 1024


def test_slow_models_are_not_measured_for_long(monkeypatch):
    classifier = clock(monkeypatch, lambda size: 0.4 + 0.05 * size)
    assert tune_batch_size(classifier, IMAGES) == 8
    assert classifier.sizes == [8]


def test_what_does_not_fit_into_memory_is_not_taken(monkeypatch):
    classifier = clock(monkeypatch, lambda size: 0.5 / size)
    classifier.largest = 32
    assert tune_batch_size(classifier, IMAGES) == 32
    classifier.largest = 4
    with pytest.raises(torch.OutOfMemoryError):
        tune_batch_size(classifier, IMAGES)


def test_a_callable_is_hardly_asked():
    asked = []

    def service(images):
        asked.append(len(images))
        return images.flatten(1)[:, :3]

    classifier = Classifier(service, num_classes=3)
    assert tune_batch_size(classifier, IMAGES) == 256
    assert asked == []
    speed = measure_speed(classifier, IMAGES)
    assert asked == [2]
    assert speed.backward_seconds == 0
    assert speed.forward_seconds > 0


def test_a_plan_costs_its_passes():
    speed = measure_speed(Timed(), IMAGES)
    assert speed.forward_seconds > 0
    assert speed.backward_seconds >= 0
    assert ModelSpeed(forward_seconds=2.0, backward_seconds=3.0).estimate_seconds((10, 5)) == 35.0
