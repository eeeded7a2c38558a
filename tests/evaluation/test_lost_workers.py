"""After a worker is lost: which images are tried again, how often, and when the cell is given up."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest

from robustbench_local.attacks.pgd import PGD
from robustbench_local.errors import ModelError, ModelTimeoutError
from robustbench_local.evaluation.harness import batches
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import (
    MAX_HANGS,
    MAX_HANGS_BEFORE_SUCCESS,
    MAX_PROCESS_ENDS,
    run_batches,
)
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.outcome import build_error_outcome
from robustbench_local.evaluation.harness.worker_pool import WorkerLostError
from robustbench_local.threats.threat_model import ThreatModel


class FakeCrew(AbstractContextManager):
    """Does the work at once, except where a test wants a loss."""

    size = 1

    def __init__(self, work, lose, correct=True):
        self.work, self.lose, self.correct, self.asked = work, lose, correct, []

    def __exit__(self, *_):
        pass

    def run(self, positions, batch_size):
        self.asked.append((list(positions), batch_size))
        if (loss := self.lose(positions)) is not None:
            raise loss
        rows = []
        for position in positions:
            row = build_error_outcome("cell", position, self.work.data.select_images([position]), "")
            rows.append(SimpleNamespace(**{**vars(row), "status": "ok", "clean_correct": self.correct}))
        return OutcomeBatch(outcomes=tuple(rows), candidates=self.work.data.images[positions])


@pytest.fixture
def lossy(monkeypatch, linear, data):
    """Runs sixty images in batches of thirty with a plan of losses; the crew and the rows."""

    def go(lose, *, correct=True, size=30, done=(), attack=None):
        attack = attack or PGD(steps=1)
        threat = ThreatModel(norm="Linf", eps=0.02)
        job = AttackJob(key="cell", classifier=linear, data=data, attack=attack, threat=threat, seed=1)
        crew = FakeCrew(job, lose, correct)
        monkeypatch.setattr(batches, "WorkerPool", lambda *_more, **_options: crew)
        rows, problem = [], None
        try:
            for batch in run_batches(job, batch_size=size, done_positions=done):
                rows += batch.outcomes
        except ModelError as error:
            problem = error
        return crew, rows, problem

    return go


def hang_on(*cursed):
    return lambda positions: WorkerLostError("it hangs", hung=True) if set(cursed) & set(positions) else None


def die_on(*cursed):
    return lambda positions: WorkerLostError("it died") if set(cursed) & set(positions) else None


def errors(rows):
    return sorted(row.position for row in rows if row.status == "error")


@pytest.mark.parametrize("cursed", [0, 7, 29, 30, 59])
def test_one_image_that_hangs_costs_few_waits(lossy, cursed):
    crew, rows, problem = lossy(hang_on(cursed), size=15)
    assert problem is None
    assert errors(rows) == [cursed]
    assert sorted(row.position for row in rows) == list(range(60))
    assert sum(cursed in positions for positions, _ in crew.asked) <= 3


def test_a_cell_in_which_nothing_succeeded_is_given_up_at_its_third_hang(lossy):
    crew, _, problem = lossy(hang_on(*range(60)))
    assert isinstance(problem, ModelTimeoutError)
    assert "it hangs, 3 times in this cell" in str(problem)
    assert len(crew.asked) == MAX_HANGS_BEFORE_SUCCESS


@pytest.mark.parametrize(("cursed", "hangs"), [((3, 20), 4), ((3, 20, 40), MAX_HANGS)])
def test_a_cell_is_given_up_at_its_sixth_hang(lossy, cursed, hangs):
    crew, rows, problem = lossy(hang_on(*cursed), size=2, done=[0])
    assert sum(bool(set(cursed) & set(positions)) for positions, _ in crew.asked) == hangs
    if hangs < MAX_HANGS:
        assert problem is None
        assert errors(rows) == list(cursed)
    else:
        assert isinstance(problem, ModelTimeoutError)
        assert "it hangs, 6 times in this cell" in str(problem)


def test_images_that_end_the_process_are_found(lossy):
    _, rows, problem = lossy(die_on(3, 17, 44))
    assert problem is None
    assert errors(rows) == [3, 17, 44]
    assert sorted(row.position for row in rows) == list(range(60))


def test_a_process_that_always_ends_convicts_the_model_after_three_images(lossy):
    crew, _, problem = lossy(die_on(*range(60)))
    assert "it died" in str(problem)
    assert not isinstance(problem, ModelTimeoutError)
    assert len({positions[0] for positions, _ in crew.asked if len(positions) == 1}) == 3


def test_a_cell_is_given_up_after_so_many_deaths(lossy, monkeypatch):
    crew, rows, problem = lossy(die_on(*range(60)), done=[0])
    assert problem is None
    assert errors(rows) == list(range(1, 60))
    deaths = len(crew.asked)
    assert deaths < MAX_PROCESS_ENDS
    monkeypatch.setattr(batches, "MAX_PROCESS_ENDS", deaths + 1)
    assert lossy(die_on(*range(60)), done=[0])[2] is None
    monkeypatch.setattr(batches, "MAX_PROCESS_ENDS", deaths)
    assert f"it died, {deaths} times in this cell" in str(lossy(die_on(*range(60)), done=[0])[2])


def test_a_single_image_gets_a_second_opinion(lossy):
    seen = []

    def once(positions):
        if positions == [5] and not seen:
            seen.append(1)
            return WorkerLostError("it died")
        return None

    _, rows, problem = lossy(once, size=1)
    assert problem is None
    assert errors(rows) == []


def test_a_killed_process_is_tried_again_before_batches_are_halved(lossy):
    left = iter([1])
    crew, rows, _ = lossy(lambda _: WorkerLostError("killed", killed=True) if next(left, None) else None)
    assert [len(positions) for positions, _ in crew.asked] == [60, 60]
    assert {size for _, size in crew.asked} == {30}
    left = iter([1, 1])
    crew, rows, _ = lossy(lambda _: WorkerLostError("killed", killed=True) if next(left, None) else None)
    assert [size for _, size in crew.asked][:3] == [30, 30, 15]
    assert errors(rows) == []
