"""Code that has to run here is interrupted when its time is over, and signals are as before."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from robustbench_local.errors import ModelTimeoutError
from robustbench_local.evaluation.isolation.time_limit import limit_time


@pytest.fixture(autouse=True)
def signals_are_as_before():
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("wait", [time.sleep, threading.Event().wait], ids=["sleeps", "waits"])
def test_what_takes_longer_is_interrupted(wait):
    with (
        pytest.raises(ModelTimeoutError, match=r"it: was loaded once, and takes more than 0\.1 s"),
        limit_time(0.1, "it"),
    ):
        wait(60)


@pytest.mark.parametrize("seconds", [60.0, None, 0.0])
def test_what_takes_less_goes_on(seconds):
    with limit_time(seconds, "it"):
        time.sleep(0.01)


def test_an_error_of_the_code_is_its_own():
    with pytest.raises(ValueError, match="mine"), limit_time(60.0, "it"):
        raise ValueError("mine")


def test_in_another_thread_there_is_no_limit():
    done = threading.Event()

    def work():
        with limit_time(0.01, "it"):
            time.sleep(0.1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done.is_set()
