"""Drift is found where there is some, and false alarms are as rare as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_local.data.reference_outputs import ReferenceOutputs, compute_image_statistics
from robustbench_local.errors import ConfigError
from robustbench_local.serving import drift
from robustbench_local.serving.drift import DRIFT_ALPHA, DriftMonitor, DriftTest

CLASSES = 5


def sample_outputs(generator: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    logits = 2 * generator.normal(size=(count, CLASSES))
    logits[:, 0] += shift
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def make_monitor(generator: np.random.Generator, window: int = 50) -> DriftMonitor:
    reference = ReferenceOutputs(
        probabilities=torch.tensor(sample_outputs(generator, 300), dtype=torch.float32),
        statistics=compute_image_statistics(torch.rand(300, 3, 4, 4)),
        source="made",
    )
    return DriftMonitor(reference, CLASSES, window)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_promised_and_a_shift_is_found():
    generator = np.random.default_rng(0)
    alarms, windows = 0, 0
    for _ in range(30):  # a new reference each time: the promise is over references, too
        monitor = make_monitor(generator)
        monitor.add_outputs([tuple(row) for row in sample_outputs(generator, 500)])
        alarms, windows = alarms + monitor.alarm_count, windows + monitor.window_count
    assert windows == 300
    # at most 1% of 300: more than 9 would be an accident of one in a thousand
    assert alarms <= 9
    monitor.add_outputs([tuple(row) for row in sample_outputs(generator, 50, shift=2.0)])
    assert monitor.latest.is_alarm
    assert monitor.latest.class_index == 0


def test_windows_do_not_overlap():
    generator = np.random.default_rng(1)
    monitor = make_monitor(generator, window=20)
    rows = [tuple(row) for row in sample_outputs(generator, 50)]
    assert monitor.add_outputs(rows[:19]) == []
    assert [test.n for test in monitor.add_outputs(rows[19:])] == [20, 20]
    assert (monitor.window_count, monitor.waiting_count) == (2, 10)
    state = monitor.to_json()
    assert (state["windows"], state["reference_images"], state["alpha"]) == (2, 300, DRIFT_ALPHA)


def test_the_p_value_is_corrected_for_the_number_of_classes(monkeypatch):
    monitor = make_monitor(np.random.default_rng(2))

    class Result:
        pvalue = 0.004

    monkeypatch.setattr(drift, "ks_2samp", lambda *_, **__: Result)
    assert monitor.compare_outputs(np.zeros((3, CLASSES))).p_value == pytest.approx(0.02)


@pytest.mark.parametrize(("p_value", "is_alarm"), [(0.0097, True), (0.0103, False)])
def test_the_level_of_an_alarm(p_value, is_alarm):
    assert DriftTest(p_value, 0, 100).is_alarm is is_alarm


def test_unusual_images_are_named_by_their_statistic():
    images = 0.4 + 0.2 * torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    reference = ReferenceOutputs(
        probabilities=torch.full((100, 2), 0.5), statistics=compute_image_statistics(images), source="made"
    )
    monitor = DriftMonitor(reference, 2, 50)
    dark, flat = images[:1] - 0.3, torch.full((1, 3, 8, 8), 0.5)
    assert monitor.find_unusual_statistics(torch.cat([images[5:6], dark, flat])) == [
        [],
        ["brightness"],
        ["contrast", "sharpness"],
    ]


def test_a_reference_of_another_model_is_refused():
    monitor = make_monitor(np.random.default_rng(3))
    with pytest.raises(ConfigError, match="the reference has 5 classes, the model 7"):
        DriftMonitor(monitor.reference, 7, 50)
