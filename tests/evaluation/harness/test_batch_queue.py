"""The queue of a cell's batches: after each kind of failure, exactly what is tried next, and what is told."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import InvariantError, ModelError, ModelTimeoutError, UnreachableError
from robustbench_local.evaluation.harness import batches
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, prepare_models, run_batches
from robustbench_local.evaluation.harness.job import AttackFailedError, OutcomeBatch
from robustbench_local.evaluation.harness.outcome import build_error_outcome
from robustbench_local.evaluation.harness.shares import ShareResult
from robustbench_local.evaluation.harness.worker_pool import WorkerLostError
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=0.02)


@dataclass(frozen=True, kw_only=True)
class OneBatch(PGD):
    refills_batches = False


@dataclass(frozen=True, kw_only=True)
class Grouped(OneBatch):
    per_image = False
    group_size = 2


@dataclass
class Scene:
    """A pool that fails as a test says, and what came of it."""

    asked: list[list[int]] = field(default_factory=list)
    shares: list[list[int]] = field(default_factory=list)
    """What workers took, of what was not asked for in this way."""
    sizes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    problem: Exception | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    is_open: bool = False
    asked_before: list[int] = field(default_factory=list)
    """Batches that were asked for before each one that came back."""
    announced: list[list[int]] = field(default_factory=list)
    """Images that are read ahead."""

    @property
    def errors(self) -> list[int]:
        return [row.position for row in self.rows if row.status == "error"]


@pytest.fixture
def play(monkeypatch, linear, data):
    """Runs images in batches; ``fail(positions)`` returns what the pool raises, or None."""

    def go(
        fail,
        *,
        count=8,
        size=4,
        done=(),
        correct=lambda _: True,
        attack=None,
        isolation=None,
        agreement=None,
        pool_size=1,
        **options,
    ):
        scene = Scene()
        few, attack = data.select_images(range(count)), attack or OneBatch(steps=1)
        job = AttackJob(key="cell", classifier=linear, data=few, attack=attack, threat=LINF, seed=1)

        class Pool(AbstractContextManager):
            size = pool_size

            def __enter__(self):
                scene.is_open = True
                return self

            def __exit__(self, *_):
                scene.is_open = False

            def run(self, positions, batch_size):
                assert scene.is_open
                scene.asked.append(list(positions))
                scene.sizes.append(batch_size)
                failure = fail(positions)
                if failure is not None:
                    raise failure
                return self.make_batch(positions)

            def run_shares(self, shares, get_batch_size):
                """Two workers, one of which gets its share before the other comes back."""
                waiting = []
                while True:
                    while len(waiting) < 2 and (share := shares.take_share()):
                        waiting.append((share, get_batch_size()))
                    if not waiting:
                        return
                    share, batch_size = waiting.pop(0)
                    scene.shares.append(share)
                    failure = fail(share)
                    batch = self.make_batch(share) if failure is None else None
                    lost = isinstance(failure, WorkerLostError)
                    for other, _ in waiting if lost else ():
                        shares.return_share(other)
                    yield ShareResult(share, batch_size, batch, failure)
                    if lost:
                        return

            def make_batch(self, positions):
                made = [build_error_outcome("cell", at, job.data.select_images([at]), "") for at in positions]
                rows = tuple(
                    replace(row, status="ok", error=None, clean_correct=correct(row.position)) for row in made
                )
                return OutcomeBatch(
                    outcomes=rows,
                    candidates=job.data.images[positions],
                    agreement=agreement or AgreementCounts(),
                )

        def open_pool(given, workers, **settings):
            assert given is job
            scene.settings = {"workers": workers, **settings}
            return Pool()

        monkeypatch.setattr(batches, "WorkerPool", open_pool)
        monkeypatch.setattr(
            AttackJob, "announce_images", lambda _, positions: scene.announced.append(list(positions))
        )
        options |= {"isolation": isolation} if isolation else {}
        try:
            for batch in run_batches(
                job, batch_size=size, done_positions=done, notify=scene.notes.append, **options
            ):
                scene.rows += batch.outcomes
                scene.asked_before.append(len(scene.asked))
        except Exception as error:  # noqa: BLE001
            scene.problem = error
        return scene

    return go


def on(make, *cursed):
    """Fails where one of these images is."""
    return lambda positions: make() if set(cursed) & set(positions) else None


def test_where_nothing_fails_the_batches_are_those_of_the_queue(play):
    scene = play(lambda _: None, count=10, done={1, 9})
    assert scene.asked == [[0, 2, 3, 4], [5, 6, 7, 8]]
    assert [row.position for row in scene.rows] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert (scene.notes, scene.problem) == ([], None)
    assert scene.asked_before == [1, 2]  # what is done is kept at once
    assert scene.announced == [[5, 6, 7, 8]]  # the next batch is read beside the first


def test_only_chosen_images_that_are_not_done_are_run(play):
    scene = play(lambda _: None, count=10, done={1, 9}, selected_positions=[0, 1, 4, 7, 8])
    assert scene.asked == [[0, 4, 7, 8]]
    assert play(lambda _: None, count=10, selected_positions=[]).asked == []


def test_batches_wait_for_the_first_success(play):
    assert play(lambda _: None, correct=lambda position: position == 5, size=2).asked_before == [3, 3, 3, 4]
    assert play(lambda _: None, correct=lambda _: False, size=4).asked_before == [2, 2]


def test_a_failure_is_confined_by_halves_and_told_once(play):
    scene = play(on(lambda: ValueError("bad\nimage"), 2), count=9)
    assert scene.asked == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [4, 5, 6, 7], [8]]
    assert scene.errors == [2]
    assert scene.notes == ["made/2: ValueError: bad image"]
    assert sorted(row.position for row in scene.rows) == list(range(9))
    three = play(on(lambda: ValueError("bad"), 2), count=5, size=5)
    assert three.asked == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4]]


@pytest.mark.parametrize(("count", "asked"), [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_before_any_success_the_third_image_alone_convicts_the_model(play, count, asked):
    scene = play(lambda _: ValueError("never"), count=count, size=1)
    assert (len(scene.asked), str(scene.problem), scene.rows) == (asked, "never", [])


def test_two_failures_before_a_success_are_those_of_their_images(play):
    scene = play(on(lambda: ValueError("bad"), 0, 1), count=4, size=1)
    assert (scene.errors, scene.problem) == ([0, 1], None)
    assert [row.position for row in scene.rows] == [0, 1, 2, 3]
    assert scene.notes == ["made/0: ValueError: bad", "made/1: ValueError: bad"]
    late = play(on(lambda: ValueError("bad"), 1, 2, 3), count=4, size=1)
    assert (late.errors, late.problem) == ([1, 2, 3], None)
    resumed = play(on(lambda: ValueError("bad"), 1, 2, 3), count=4, size=1, done={0})
    assert (resumed.errors, resumed.problem) == ([1, 2, 3], None)


def test_misclassified_images_prove_nothing_about_the_attack(play):
    scene = play(on(lambda: ValueError("bad"), 1, 2, 3), count=5, size=1, correct=lambda _: False)
    assert (str(scene.problem), scene.rows) == ("bad", [])
    scene = play(on(lambda: ValueError("bad"), 1, 2), count=5, size=1, correct=lambda _: False)
    assert scene.errors == [1, 2]


def test_one_success_stays_one_whatever_comes_after(play):
    """One correctly classified image makes a batch a success; a later batch without takes nothing back."""
    cursed = on(lambda: ValueError("bad"), 4, 5, 6, 7)
    scene = play(cursed, size=2, correct=lambda position: position == 1)
    assert (scene.problem, scene.errors) == (None, [4, 5, 6, 7])
    assert [row.position for row in scene.rows] == list(range(8))
    assert not scene.is_open


def test_several_workers_get_a_batch_each(play):
    scene = play(lambda _: None, count=12, pool_size=3, workers=5)
    assert (scene.asked, scene.shares) == ([list(range(12))], [])
    assert set(scene.sizes) == {4}
    assert scene.settings["workers"] == 5
    assert play(lambda _: None).settings["workers"] == 1


def test_more_than_that_is_shared_after_the_first_success(play):
    scene = play(lambda _: None, count=24, pool_size=2)
    assert scene.asked == [[0, 1, 2, 3]]
    assert [len(share) for share in scene.shares] == [8, 6, 3, 1, 1, 1]  # two batches at most
    assert sorted(row.position for row in scene.rows) == list(range(24))
    resumed = play(lambda _: None, count=24, pool_size=2, done={1})
    assert (resumed.asked, len(resumed.shares[0])) == ([], 8)
    chosen = play(lambda _: None, count=24, pool_size=2, selected_positions=range(9), done={20})
    assert sorted(at for share in chosen.shares for at in share) == list(range(9))
    groups = play(lambda _: None, count=24, pool_size=2, attack=Grouped(steps=1), done={23})
    assert groups.shares == []


def test_nothing_is_shared_before_the_first_success(play):
    scene = play(lambda _: None, count=24, pool_size=2, correct=lambda position: position == 13)
    assert scene.asked == [list(range(4)), list(range(4, 12)), list(range(12, 20))]
    assert scene.asked_before[:3] == [3, 3, 3]
    assert sorted(at for share in scene.shares for at in share) == list(range(20, 24))
    broken = play(lambda _: ValueError("never"), count=24, pool_size=2)
    assert (str(broken.problem), broken.rows) == ("never", [])
    assert broken.asked[0] == [0, 1, 2, 3]
    wrong = play(lambda _: None, count=24, pool_size=2, correct=lambda _: False)
    assert (len(wrong.asked), wrong.shares, len(wrong.rows)) == (4, [], 24)
    assert wrong.asked_before == [4, 4, 4, 4]


def test_an_image_that_fails_in_a_share_is_found_when_the_rest_is_done(play):
    scene = play(on(lambda: ValueError("bad"), 9), count=24, pool_size=2, done={0})
    assert sorted(at for share in scene.shares for at in share) == list(range(1, 24))
    assert scene.asked[0] == [1, 3, 5, 7]  # the first half of the share [1, 3, ..., 15]
    assert (scene.errors, scene.notes) == ([9], ["made/9: ValueError: bad"])
    assert sorted(row.position for row in scene.rows) == list(range(1, 24))
    alone = play(on(lambda: ValueError("bad"), 23), count=24, pool_size=2, done={0}, size=1)
    assert (alone.errors, alone.asked[-1]) == ([23], [23])
    ended = play(on(lambda: InvariantError("no"), 9), count=24, pool_size=2, done={0})
    assert isinstance(ended.problem, InvariantError)


def test_shares_that_run_out_of_memory_halve_the_batches_once(play):
    failures = [torch.OutOfMemoryError("out of memory"), torch.OutOfMemoryError("out of memory")]
    scene = play(lambda _: failures.pop() if failures else None, count=24, pool_size=2, done={0})
    assert scene.notes == ["out of memory with 4 images: going on with 2 at a time"]
    # the second share began with four and is another worker's later; the first is tried in pieces
    assert scene.asked == [[1, 3, 5, 7], [9, 11, 13, 15]]
    assert set(scene.sizes) == {2}
    assert scene.errors == []
    assert sorted(row.position for row in scene.rows) == list(range(1, 24))


def test_a_share_whose_process_ends_is_tried_again_and_the_others_go_on(play):
    left = iter([1])
    scene = play(
        lambda share: lost(killed=True)() if 9 in share and next(left, None) else None,
        count=24,
        pool_size=2,
        done={0},
    )
    assert scene.notes == ["it died, at work on 8 images: trying again"]
    assert scene.asked == [[1, 3, 5, 7, 9, 11, 13, 15]]
    assert sorted(row.position for row in scene.rows) == list(range(1, 24))
    assert scene.errors == []


def test_an_attack_that_raises_keeps_the_record_of_the_image_and_its_cause(play, data):
    outcome = replace(
        build_error_outcome("cell", 2, data.select_images([2]), "it raised"), clean_correct=True
    )

    def fail():
        cause = ModelError("it raised", where="linear")
        cause.__cause__ = KeyError("inside")
        return AttackFailedError(outcome, cause)

    scene = play(on(fail, 2), size=1)
    assert scene.rows[2] == outcome
    assert scene.notes == ["made/2: it raised"]
    every = play(lambda _: fail(), size=1)
    assert isinstance(every.problem, ModelError)
    assert isinstance(every.problem.__cause__, KeyError)


@pytest.mark.parametrize("kind", [InvariantError, UnreachableError])
def test_what_no_image_can_cause_ends_the_cell_at_once(play, kind):
    scene = play(on(lambda: kind("no"), 5))
    assert isinstance(scene.problem, kind)
    assert scene.asked == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_disagreeing_answers_end_the_cell_before_its_rows_count(play):
    scene = play(lambda _: None, agreement=AgreementCounts(4, 2))
    assert "linear: remembers" in str(scene.problem)
    assert (len(scene.asked), scene.rows) == (1, [])
    assert play(lambda _: None, agreement=AgreementCounts(4, 1)).problem is None


def test_out_of_memory_halves_the_batches_for_the_rest_of_the_cell(play):
    def fail(positions):
        return torch.OutOfMemoryError("CUDA out of memory") if len(positions) > 1 else None

    scene = play(fail, count=7, size=3)
    assert scene.asked == [[0, 1, 2], [0, 1], *[[at] for at in range(7)]]
    assert scene.sizes == [3, 2, *[1] * 7]
    assert scene.notes == [
        "out of memory with 3 images: going on with 2 at a time",
        "out of memory with 2 images: going on with 1 at a time",
    ]
    assert (scene.errors, scene.problem) == ([], None)


def test_what_is_halved_is_what_was_in_memory(play, monkeypatch):
    """Fewer images than a batch, and signs of which each brings several views."""

    def fail(positions):
        return torch.OutOfMemoryError("out of memory") if len(positions) > 1 else None

    scene = play(fail, count=3, size=8)
    assert scene.asked == [[0, 1, 2], [0, 1], [0], [1], [2]]
    assert scene.notes[0] == "out of memory with 3 images: going on with 2 at a time"
    monkeypatch.setattr(AttackJob, "images_per_position", 4)
    scene = play(fail, count=2, size=16)
    assert scene.notes[0] == "out of memory with 8 images: going on with 4 at a time"


def test_a_single_image_that_does_not_fit_is_an_error(play):
    scene = play(on(lambda: torch.OutOfMemoryError("CUDA out of memory"), 3), count=4, size=1, done={0})
    assert (scene.errors, scene.asked) == ([3], [[1], [2], [3]])


def test_two_images_of_two_workers_are_tried_apart_before_one_is_tried_again(play):
    scene = play(on(lambda: torch.OutOfMemoryError("out of memory"), 1), count=2, size=4, pool_size=2)
    assert scene.asked == [[0, 1], [0], [1], [1]]
    assert scene.errors == [1]


def test_a_fixed_group_stays_whole_and_its_model_gets_less_at_once(play):
    failures = [torch.OutOfMemoryError("out of memory")]
    scene = play(lambda _: failures.pop() if failures else None, count=4, size=4, attack=Grouped(steps=1))
    assert scene.asked[0] == scene.asked[1]
    assert scene.notes == ["out of memory with 4 images: going on with 2 at a time"]
    assert scene.errors == []


def test_an_attack_that_runs_out_of_memory_halves_the_batches_too(play, data):
    outcome = build_error_outcome("cell", 0, data.select_images([0]), "")

    def fail(positions):
        return (
            AttackFailedError(outcome, torch.OutOfMemoryError("out of memory"))
            if len(positions) > 2
            else None
        )

    assert play(fail).sizes == [4, 2, 2, 2, 2]


def lost(**how):
    return lambda: WorkerLostError("it died", **how)


def test_a_process_that_ends_is_confined_and_a_single_image_tried_twice(play):
    scene = play(on(lost(), 2))
    assert scene.asked == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [2], [3], [4, 5, 6, 7]]
    assert scene.errors == [2]
    assert scene.notes == [
        "it died, at work on 4 images: trying again",
        "made/2: linear: it died. Run it by itself",
    ]
    assert play(on(lost(), 2), count=3, size=3).asked == [[0, 1, 2], [0, 1], [2], [2]]
    assert play(on(lost(), 0), size=1).notes[0] == "it died, at work on one image: trying again"


def test_a_process_that_somebody_killed_is_tried_again_and_then_with_half(play):
    left = iter([1, 1])
    scene = play(lambda _: lost(killed=True)() if next(left, None) else None)
    assert scene.asked == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert scene.sizes == [4, 4, 2, 2, 2, 2]
    assert scene.notes == [
        "it died, at work on 4 images: trying again",
        "it died with 4 images: going on with 2 at a time",
    ]


def test_a_fixed_group_is_tried_twice_and_then_split(play):
    scene = play(on(lost(), 2), attack=Grouped(steps=1))
    assert scene.asked == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [2, 3], [2, 3], [2], [2], [3], [4, 5, 6, 7]]
    assert scene.errors == [2]


def test_processes_that_always_end_convict_the_model(play):
    scene = play(lambda _: lost()())
    assert str(scene.problem) == "linear: it died. Run it by itself"
    assert type(scene.problem) is ModelError
    assert scene.problem.__cause__ is None
    assert scene.rows == []


def test_two_hundred_ended_processes_end_the_cell(play, monkeypatch, data, linear):
    monkeypatch.setattr(
        type(data), "select_images", lambda self, rows: _CountedImages(len(torch.as_tensor(rows)))
    )
    scene = play(lambda _: lost()(), count=150, done={0})
    assert str(scene.problem) == "linear: it died, 200 times in this cell. Run it by itself"
    assert len(scene.asked) == 200


class _CountedImages:
    """Data of which only the number counts."""

    def __init__(self, count):
        self.count, self.images = count, torch.zeros(count, 3, 4, 4)
        self.ids, self.labels = tuple(map(str, range(count))), torch.zeros(count, dtype=torch.int64)

    def __len__(self):
        return self.count

    def select_images(self, rows):
        return _CountedImages(len(rows))

    def load_images(self):
        return self


HANG = lost(hung=True)


def test_a_hang_before_any_success_tries_two_alone_and_the_rest_by_the_square_root(play):
    scene = play(on(HANG, 9), count=18, size=17)
    parts = [[0], [1], [2, 3, 4, 5], [6, 7, 8, 9], [6], [7], [8], [9]]
    assert scene.asked == [list(range(17)), *parts, [10, 11, 12, 13], [14, 15, 16], [17]]
    assert scene.errors == [9]
    assert scene.notes == [
        "it died, at work on 17 images: its process was ended",
        "it died, at work on 4 images: its process was ended",
        "it died, at work on one image: its process was ended",
        "made/9: linear: it died. Find out why it hangs, or raise --timeout",
    ]


@pytest.mark.parametrize(("count", "pieces"), [(10, [1] * 9), (11, [3, 3, 3, 1]), (17, [4, 4, 4, 4])])
def test_a_hang_after_a_success_tries_few_images_singly(play, count, pieces):
    left = iter([1])
    scene = play(lambda _: HANG() if next(left, None) else None, count=count, size=20, done={0})
    assert [len(positions) for positions in scene.asked[1:]] == pieces
    assert scene.errors == []


def test_two_images_that_hang_before_any_success_are_tried_one_by_one(play):
    scene = play(on(HANG, 0), count=3, size=2)
    assert (scene.asked, scene.errors) == ([[0, 1], [0], [1], [2]], [0])


def test_a_single_image_that_hangs_is_an_error_at_once(play):
    assert play(on(HANG, 1), size=1, count=3).asked == [[0], [1], [2]]
    assert play(on(HANG, 0), size=1, count=3).asked == [[0], [1], [2]]


@pytest.mark.parametrize(("done", "hangs"), [((), 3), ({0}, 6)])
def test_so_many_hangs_end_the_cell(play, done, hangs):
    scene = play(lambda _: HANG(), count=30, size=1, done=done)
    assert isinstance(scene.problem, ModelTimeoutError)
    expected = f"linear: it died, {hangs} times in this cell. Find out why it hangs, or raise --timeout"
    assert (str(scene.problem), len(scene.asked)) == (expected, hangs)
    one_less = iter(range(hangs - 1))
    scene = play(lambda _: HANG() if next(one_less, None) is not None else None, count=30, size=1, done=done)
    assert (scene.problem, len(scene.errors)) == (None, hangs - 1)


def test_the_pool_gets_the_limits_of_the_cell(play, linear):
    before = time.monotonic()
    settings = IsolationSettings(isolated=True, timeout=7, cell_timeout=50, abort_hung_model=print)
    given = play(lambda _: None, isolation=settings).settings
    assert (given["isolated"], given["timeout"], given["abort_hung_model"]) == (True, 7, print)
    assert before + 50 <= given["deadline"] <= time.monotonic() + 50
    for none in (None, 0):
        assert (
            play(lambda _: None, isolation=IsolationSettings(cell_timeout=none)).settings["deadline"] is None
        )
    scene = play(lambda _: None)
    given = scene.settings
    assert (given["isolated"], given["timeout"]) == (False, None)
    with given["prepare_models"]():
        assert linear.settings.batch_size == 4
    assert linear.settings.batch_size is None
    assert given["abort_hung_model"]("why") is None


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images)


def test_models_at_work_are_ready_and_put_back(linear, data):
    surrogate = Noisy(Classifier(type(linear.module)(), num_classes=4, name="other"))
    job = AttackJob(
        key="cell",
        classifier=linear,
        data=data,
        attack=PGD(steps=1),
        threat=LINF,
        seed=9,
        surrogate=surrogate,
    )
    linear.module.train()
    surrogate.module.train()
    with prepare_models(job, 13):
        assert not linear.module.training
        assert not surrogate.module.training
        assert surrogate.settings.batch_size == 13
        assert surrogate._attack_seed == 9
        assert not next(linear.module.parameters()).requires_grad
    assert linear.module.training
    assert surrogate.module.training
    assert surrogate.settings.batch_size is None
    assert surrogate._attack_seed == 0
    assert next(linear.module.parameters()).requires_grad
