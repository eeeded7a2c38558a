"""Work in this very process: what hangs in Python is interrupted, what hangs elsewhere is given up."""

from __future__ import annotations

import threading
import time

import pytest

from robustbench_local.classifier.pass_counter import record_finished_pass
from robustbench_local.errors import ModelTimeoutError
from robustbench_local.evaluation.isolation import watchdog
from robustbench_local.evaluation.isolation.watchdog import Watchdog


def work_for_ever(step):
    while True:
        time.sleep(0.01)
        step()


def test_python_code_that_hangs_is_interrupted():
    with pytest.raises(ModelTimeoutError, match="in time"), Watchdog(0.2, None):
        work_for_ever(lambda: None)


def test_a_cell_whose_time_is_over_is_interrupted_at_work():
    with pytest.raises(ModelTimeoutError), Watchdog(None, time.monotonic() + 0.2):
        work_for_ever(record_finished_pass)


def test_work_that_goes_on_is_left_alone():
    with Watchdog(30.0, time.monotonic() + 60):
        for _ in range(5):
            time.sleep(0.05)
            record_finished_pass()


def test_what_cannot_be_interrupted_is_given_up(monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.1)
    told, released = [], threading.Event()

    def give_up(why):
        told.append(why)
        released.set()

    with Watchdog(0.2, None, give_up):
        try:
            released.wait(60)  # a lock that no exception reaches
        except ModelTimeoutError:
            released.wait(60)
    assert told == ["no pass finished for 0.2 s"]
    for _ in range(1000):  # nothing is left to be raised here
        pass
