"""Cells side by side: their order, when the next one begins, and what an exception leaves."""

from __future__ import annotations

import pytest

from robustbench_local.evaluation.execution.side_by_side import run_side_by_side


class Works:
    """Pieces of work that need some steps, and a log of what they did."""

    def __init__(self):
        self.log = []

    def make(self, name, steps, failure=None):
        try:
            for step in range(steps):
                self.log.append(f"{name}{step}")
                yield
            if failure:
                raise failure
            self.log.append(f"{name} ends")
        except GeneratorExit:
            self.log.append(f"{name} is closed")
            raise


def test_without_room_one_ends_before_the_next_begins():
    works = Works()
    run_side_by_side((works.make(name, 2) for name in "ab"), lambda: False)
    assert works.log == ["a0", "a1", "a ends", "b0", "b1", "b ends"]
    run_side_by_side([], lambda: True)


def test_with_room_the_next_begins_and_the_first_goes_first():
    works = Works()
    run_side_by_side((works.make(name, 3) for name in "abc"), lambda: len(works.log) == 1)
    # c waits for the end of both
    assert works.log == ["a0", "b0", "a1", "b1", "a2", "b2", "a ends", "b ends", "c0", "c1", "c2", "c ends"]


def test_a_work_without_a_step_ends_at_once():
    works = Works()
    run_side_by_side([works.make("a", 0), works.make("b", 1), works.make("c", 0)], lambda: True)
    assert sorted(works.log) == ["a ends", "b ends", "b0", "c ends"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_an_exception_closes_the_others_and_begins_none(failure):
    works = Works()
    with pytest.raises(type(failure)):
        run_side_by_side([works.make("a", 9), works.make("b", 1, failure), works.make("c", 1)], lambda: True)
    assert works.log == ["a0", "b0", "c0", "a1", "a is closed", "c is closed"]
