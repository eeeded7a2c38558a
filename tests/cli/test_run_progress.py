"""The state of a run: statuses whatever the order of events, shares, times, the first estimate."""

from __future__ import annotations

import pytest
from sample_progress import Clock, make_cell, make_counts, make_plan

from robustbench_local.cli.live_table import list_facts
from robustbench_local.cli.run_progress import BEGUN, RUNNING, WAITING, RunProgress


@pytest.fixture
def scene():
    """A plan of six cells, its progress and its clock."""
    plan, clock = make_plan(), Clock()
    seconds = {cell.record.key: 1000.0 for cell in plan.cells}
    return plan, RunProgress(plan, seconds, clock), clock


def list_statuses(progress):
    return [row.status for row in progress.cells]


def test_cells_may_be_worked_on_in_any_order(scene):
    plan, progress, clock = scene
    first, second, third = plan.cells[:3]
    progress.start_cell(first, make_counts(0, 0))
    assert list_statuses(progress)[:2] == [RUNNING, WAITING]
    clock.now += 2
    progress.end_batch(first, make_counts(10, 5, passes=100, seconds=1.5))
    progress.pause_cell(first)
    progress.start_cell(second, make_counts(0, 0))
    assert list_statuses(progress)[:2] == [BEGUN, RUNNING]
    progress.pause_cell(second)
    progress.start_cell(third, make_counts(0, 0))
    assert list_statuses(progress)[:3] == [BEGUN, WAITING, RUNNING]
    clock.now += 3
    progress.end_batch(first, make_counts(20, 10, passes=200, seconds=3.0))  # without a start of its own
    assert list_statuses(progress)[:3] == [RUNNING, WAITING, RUNNING]
    progress.end_cell(third, "error", make_counts(0, 0))
    assert list_statuses(progress)[:3] == [RUNNING, WAITING, "error"]
    assert progress.current.number == 1
    progress.end_cell(first, "done", make_counts(100, 50, passes=1000, seconds=15.0))
    assert progress.current is None
    assert progress.count_statuses() == {"done": 1, "error": 1, WAITING: 4}
    assert progress.finished_images == 200  # the images of an ended cell are not done later
    assert progress.share_done == pytest.approx(1 / 3)


def test_cells_at_work_side_by_side_divide_the_time(scene):
    plan, progress, clock = scene
    rows = [progress.start_cell(cell, make_counts(0, 0)) for cell in plan.cells[:2]]
    clock.now += 4
    assert [progress.get_batch_seconds(row) for row in rows] == [2, 2]
    progress.end_batch(plan.cells[0], make_counts(50, 20, passes=500, seconds=2.0))
    assert progress.current is rows[0]
    assert list_facts(progress)[0] == "cells 1 and 2 of 6"
    progress.end_cell(plan.cells[1], "done", make_counts(100, 20, passes=500, seconds=2.0))
    clock.now += 3
    progress.end_batch(plan.cells[0], make_counts(60, 20, passes=600, seconds=4.0))
    assert [row.wall_seconds for row in rows] == [5, 2]
    assert progress.elapsed_seconds == 7
    for cell in plan.cells:
        progress.start_cell(cell, make_counts(0, 0))
    assert list_facts(progress)[0] == "cells 1, 2, 3 and 3 others of 6"
    progress.is_pilot = True
    assert list_facts(progress)[0] == "cells 1, 2, 3 and 3 others of 6 (first images)"


def test_time_belongs_to_the_cell_at_work(scene):
    plan, progress, clock = scene
    clock.now += 5  # questions to the models
    progress.start_cell(plan.cells[0], make_counts(0, 0))
    clock.now += 2
    assert progress.get_batch_seconds(progress.current) == 2
    row = progress.end_batch(plan.cells[0], make_counts(1, 1, passes=10, seconds=1.0))
    clock.now += 3
    progress.end_cell(plan.cells[0], "done", make_counts(100, 1, passes=1000, seconds=4.0))
    assert row.wall_seconds == 5
    assert progress.elapsed_seconds == 10
    assert progress.ended_seconds == 10
    clock.now += 60  # the report
    assert progress.ended_seconds == 10


def test_passes_of_the_batch_at_work_are_counted(scene):
    plan, progress, _ = scene
    row = progress.start_cell(plan.cells[0], make_counts(10, 5, passes=100))
    plan.cells[0].queried_subject.classifier.passes = 7
    assert (row.count_passes(), row.count_batch_passes()) == (107, 7)
    progress.pause_cell(plan.cells[0])
    assert (row.count_passes(), row.count_batch_passes()) == (100, 0)


def test_skipped_cells_and_unusable_models_have_no_images():
    cells = [make_cell("m", "a"), make_cell("m", "b", skip_reason="no"), make_cell("n", "a", problem="no")]
    progress = RunProgress(make_plan(cells), {"m/a": 50.0}, Clock())
    assert progress.image_count == 100
    assert progress.max_seconds_left == 50
    progress.end_cell(cells[1], "skipped", make_counts(0, 0))
    progress.end_cell(cells[2], "error", make_counts(0, 0))
    assert progress.share_done == 0
    assert RunProgress(make_plan(cells[1:]), {}, Clock()).share_done == 1


def test_the_upper_bound_shrinks_with_the_images_and_is_unknown_where_a_speed_is(scene):
    plan, progress, _ = scene
    assert progress.max_seconds_left == 6000
    progress.end_batch(plan.cells[0], make_counts(50, 0))
    assert progress.max_seconds_left == 5500
    unknown = RunProgress(plan, {}, Clock())
    assert unknown.max_seconds_left is None


def test_the_first_estimate_is_kept_from_the_end_of_the_pilot(scene):
    plan, progress, clock = scene
    progress.start_pilot(plan.cells[:2])
    for cell in plan.cells[:2]:
        progress.start_cell(cell, make_counts(0, 0))
        assert progress.estimate_seconds_left() is None or cell is plan.cells[1]
        clock.now += 10
        progress.end_batch(cell, make_counts(8, 4, passes=4000, seconds=8.0))
    assert progress.is_pilot
    assert progress.expected_total is None
    progress.end_pilot()
    assert not progress.is_pilot
    assert list_statuses(progress)[:3] == [BEGUN, BEGUN, WAITING]
    expected = progress.expected_total
    # half of the passes, a second an image: the rest of 600 images, 2 s for each of 6 starts, 20 s so far
    assert expected.value == pytest.approx(20 + 584 * 1.0 + 6 * 2, rel=0.35)
    assert progress.expected_after_images == 16
    clock.now += 50
    progress.end_cell(plan.cells[0], "done", make_counts(100, 50, passes=9, seconds=9))
    assert progress.expected_total is expected


def test_without_a_pilot_the_first_ended_cell_gives_the_estimate(scene):
    plan, progress, clock = scene
    progress.start_cell(plan.cells[0], make_counts(0, 0))
    clock.now += 100
    progress.end_cell(plan.cells[0], "done", make_counts(100, 50, passes=50_000, seconds=100.0))
    assert progress.expected_after_images == 100
    assert progress.expected_total.value > 100


def test_what_an_earlier_call_did_is_known(scene):
    plan, progress, clock = scene
    progress.record_known(plan.cells[0], "done", make_counts(100, 50, passes=50_000, seconds=90.0))
    progress.record_known(plan.cells[1], "running", make_counts(40, 20, passes=20_000, seconds=40.0))
    progress.record_known(plan.cells[2], "error", make_counts(0, 0))
    assert list_statuses(progress)[:3] == ["done", BEGUN, WAITING]
    assert progress.finished_images == 140
    assert progress.estimate_seconds_left().value > 0  # measured then
    row = progress.start_cell(plan.cells[1], make_counts(40, 20, passes=20_000, seconds=40.0))
    clock.now += 5
    progress.end_batch(plan.cells[1], make_counts(50, 20, passes=25_000, seconds=44.0))
    assert row.elapsed_seconds == 45
    assert not progress.cells[0].is_run_here
    assert row.is_run_here
