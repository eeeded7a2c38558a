"""The batch size that is measured, and the speed that a plan's estimate rests on."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.evaluation.execution import batch_size as tuning
from robustbench_local.evaluation.execution import memory_use
from robustbench_local.evaluation.execution.batch_size import ModelSpeed, measure_speed, tune_batch_size
from robustbench_local.evaluation.execution.kept_batch_sizes import MIN_FULL_BATCH, find_most_images
from robustbench_local.evaluation.execution.pass_timer import time_pass

IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _all_batch_sizes(monkeypatch, full_batch_size):
    monkeypatch.setattr(tuning, "MAX_BATCH_SIZE", full_batch_size)
    monkeypatch.setattr(tuning, "REPEATED_ROUNDS", 2)


class Timed(Classifier):
    """A linear classifier that says how large its batches were."""

    def __init__(self, largest: int = 10**6) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), num_classes=3)
        self.sizes, self.largest = [], largest
        self.error = torch.OutOfMemoryError("CUDA out of memory (made up)")

    def __call__(self, images, rows=None):
        self.sizes.append(len(images))
        if len(images) > self.largest:
            raise self.error
        return super().__call__(images, rows)


@pytest.fixture
def clock(monkeypatch):
    """Replaces the clock: a pass over n images takes ``cost(n)`` seconds; memory never runs out."""
    classifier = Timed()

    def set_cost(cost):
        def timed(call, device):
            call()
            return cost(classifier.sizes[-1])

        monkeypatch.setattr(tuning, "time_pass", timed)
        monkeypatch.setattr(tuning, "find_available_bytes", lambda device: None)
        return classifier

    return set_cost


@pytest.mark.parametrize(
    ("cost", "size", "reason"),
    [
        # a fixed cost of 64 images: at 256 an image costs 1.25 and at 1,024 a share of 0.85 of that
        (lambda n: 1e-6 * (63 + n), 256, "measured: 7.1 times faster per image than 8"),
        (lambda n: 1e-6 * (65 + n), 1024, "measured: 8.6 times faster per image than 8"),
        (lambda n: 1e-6 * (2.5 + n), 16, "measured: 1.1 times faster per image than 8"),
        (lambda n: 1e-6 * n**2, 8, "measured: larger batches are no faster per image"),
        # an early size that looks expensive does not end the search
        (
            lambda n: 1e-6 * (63 + n) * (1.3 if n == 16 else 1),
            256,
            "measured: 7.1 times faster per image than 8",
        ),
        (lambda n: 0.4 + 0.05 * n, 8, "measured: larger batches are no faster per image"),
    ],
)
def test_the_batch_grows_while_an_image_gets_cheaper(clock, cost, size, reason):
    classifier = clock(cost)
    choice = tune_batch_size(classifier, IMAGES)
    assert (choice.size, choice.reason) == (size, reason)
    if size == 8:  # slower, or slow: no more than one size beyond
        assert max(classifier.sizes) <= 16


def test_a_disturbance_of_the_first_round_changes_nothing(clock):
    seen = Counter()

    def cost(size):
        seen[size] += 1
        return 1e-6 * (40 + size) * (9 if size == 16 and seen[size] == 1 else 1 + 1 / seen[size])

    assert tune_batch_size(clock(cost), IMAGES).size == 256
    assert max(seen) == 1024


@pytest.mark.parametrize(("fixed", "is_close"), [(20, False), (35, True), (100, True), (130, False)])
def test_a_close_call_is_measured_more_often(clock, fixed, is_close):
    classifier = clock(lambda n: 2e-5 * (fixed + n))
    tune_batch_size(classifier, IMAGES)
    rounds = tuning.REPEATED_ROUNDS * (tuning.CLOSE_CALL_FACTOR if is_close else 1)
    assert classifier.sizes.count(256) == 2 + rounds
    if is_close:  # with the best one, and no other
        assert classifier.sizes.count(1024) == 2 + rounds
        assert classifier.sizes.count(64) < 2 + 3 * rounds
    assert (tuning.CLOSE_CALL_SHARE, tuning.MAX_COST_SHARE) == (0.1, 0.85)


@pytest.mark.parametrize(
    ("largest", "size", "reason"),
    [
        (200, 128, "measured: 256.0 times faster per image than 8; memory ran out with 256"),
        (32, 32, "measured: 16.0 times faster per image than 8; memory ran out with 64"),
        (8, 8, "memory ran out with 16"),
        (7, 4, "memory ran out with 8"),
        (1, 1, "memory ran out with 2"),
        (0, 1, "memory ran out with 2"),
    ],
)
def test_what_does_not_fit_into_memory_is_not_taken(clock, largest, size, reason):
    classifier = clock(lambda size: 0.005 / size)
    classifier.largest = largest
    choice = tune_batch_size(classifier, IMAGES)
    assert (choice.size, choice.reason) == (size, reason)
    assert classifier.memory_limit.max_images is None  # a larger batch was a trial, and no need


@pytest.mark.parametrize(
    ("workers", "room", "size"),
    [(1, 1024, 1024), (1, 1023, 512), (1, 511, 256), (2, 1023, 256), (1, 63, 32), (1, 31, 16), (99, 1023, 8)],
)
def test_the_batches_of_all_workers_fit_into_memory(clock, monkeypatch, workers, room, size):
    """Passes take no more than 0.7 of the memory; where four times a size would not fit, twice may."""
    classifier = clock(lambda n: 1e-6 * (300 + n))

    def measure(call, device):
        call()
        return 1000 + 350 * classifier.sizes[-1] if classifier.sizes else 1000

    monkeypatch.setattr(tuning, "measure_peak_bytes", measure)
    monkeypatch.setattr(tuning, "find_available_bytes", lambda device: 350 * room / 0.7 + 1)
    choice = tune_batch_size(classifier, IMAGES, workers=workers)
    assert choice.size == size
    if size < 1024:
        each = "" if workers == 1 else f" in each of {workers} workers"
        assert choice.reason.endswith(f"{2 * size} at once might not fit into memory{each}")
    assert tuning.MAX_MEMORY_SHARE == 0.7


def test_an_error_that_is_none_of_memory_is_the_model_s(clock):
    classifier = clock(lambda n: 1e-6 * (64 + n))
    classifier.largest, classifier.error = 16, ValueError("no")
    with pytest.raises(ValueError, match="no"):
        tune_batch_size(classifier, IMAGES)


def test_time_that_passes_while_others_compute_does_not_count():
    def wait_and_work():
        time.sleep(0.05)
        torch.ones(300, 300) @ torch.ones(300, 300)

    assert 0 < time_pass(wait_and_work, torch.device("cpu")) < 0.04


def test_memory_is_read_where_the_system_tells_it(tmp_path, monkeypatch):
    device = torch.device("cpu")
    before = memory_use.measure_peak_bytes(lambda: None, device)
    peak = memory_use.measure_peak_bytes(lambda: torch.ones(2**24).sum(), device)
    assert peak - before > 2**25  # of 2**26; another test may have left room in the heap
    free = memory_use.find_available_bytes(device)
    assert 0 < free < 2**50
    group = tmp_path / "pod" / "box"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/pod/box\n")
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("5000\n")
    (group.parent / "memory.current").write_text("3000\n")
    (group.parent / "memory.stat").write_text("anon 7\ninactive_file 1000\n")
    monkeypatch.setattr(memory_use, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory_use, "_PROCESS", tmp_path)
    assert memory_use.find_available_bytes(device) == 3000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("200\n")
    (tmp_path / "cgroup").write_text("4:cpu,memory:/job/away\n0::/\n")
    assert memory_use.find_available_bytes(device) == 700


def test_a_callable_is_hardly_asked():
    asked = []

    def service(images):
        asked.append(len(images))
        return images.flatten(1)[:, :3]

    classifier = Classifier(service, num_classes=3)
    choice = tune_batch_size(classifier, IMAGES)
    assert (choice.size, choice.reason) == (256, "by the size of the images: a callable is not measured")
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


@pytest.mark.parametrize(("most_images", "largest"), [(64, 64), (65, 256), (256, 256), (None, 1024)])
def test_no_size_is_measured_that_no_batch_can_have(clock, most_images, largest):
    classifier = clock(lambda n: 1e-6 * (1000 + n))
    choice = tune_batch_size(classifier, IMAGES, most_images=most_images)
    assert choice.size == max(classifier.sizes) == largest


def make_cell(linear, count, *, name="m", network="", problem=None, **record):
    record = {"concerns": "model", "parameters": {}, "measure": "ball"} | record
    subject = type("Subject", (), {"network": network, "classifier": linear, "__str__": lambda _: name})()
    return SimpleNamespace(
        queried_subject=subject, image_count=count, problem=problem, record=SimpleNamespace(**record)
    )


def test_the_most_images_are_those_of_the_largest_cell_of_a_network(linear):
    def find(*cells):
        return find_most_images(SimpleNamespace(cells=cells), cells[0].queried_subject)

    assert (MIN_FULL_BATCH, find(make_cell(linear, 5))) == (64, 64)
    assert find(make_cell(linear, 65), make_cell(linear, 70), make_cell(linear, 900, name="other")) == 70
    assert find(make_cell(linear, 65), make_cell(linear, 900, problem=ValueError())) == 65
    same = make_cell(linear, 900, name="other", network="n")
    assert find(make_cell(linear, 65, network="n"), same) == 900


@pytest.mark.parametrize(
    "several_rows",
    [
        {"concerns": "vote"},
        {"measure": "views"},
        {"parameters": {"samples": 2048}},
    ],
)
def test_cells_with_several_rows_for_an_image_set_no_limit(linear, several_rows):
    cell = make_cell(linear, 5, **several_rows)
    assert find_most_images(SimpleNamespace(cells=[cell]), cell.queried_subject) is None


class Drawing(RandomizedClassifier):
    identity = "drawing"

    def sample(self, images, numbers):
        return self.inner(images)


def test_a_model_that_draws_sets_no_limit(linear):
    drawing = SimpleNamespace(cells=[make_cell(Drawing(linear, draws=4), 5)])
    assert find_most_images(drawing, drawing.cells[0].queried_subject) is None
