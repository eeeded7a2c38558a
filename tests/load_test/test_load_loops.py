"""Closed and open loops in virtual time."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from virtual_time import run_virtually

from robustbench_local.load_test.load_loops import (
    ERROR_PAUSE_SECONDS,
    LoadWindow,
    SentRequest,
    draw_arrivals,
    run_closed_loop,
    run_open_loop,
)

TIMES = {"warmup": 1.0, "seconds": 10.0, "timeout": 5.0}


class Server:
    """Answers one request at a time, each in some seconds."""

    def __init__(self, seconds, stall=None, error=""):
        self.seconds, self.stall, self.error = seconds, stall, error
        self.lock, self.numbers, self.most, self.now = asyncio.Lock(), [], 0, 0

    async def send(self, number):
        self.numbers.append(number)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with self.lock:
                if self.stall is not None and asyncio.get_running_loop().time() >= self.stall[0]:
                    await asyncio.sleep(self.stall[1])
                    self.stall = None
                await asyncio.sleep(self.seconds)
        finally:
            self.now -= 1
        return self.error


def run_closed(server, concurrency=1, **times):
    return run_virtually(run_closed_loop(server.send, concurrency=concurrency, **TIMES | times))


def run_open(server, arrivals, **times):
    return run_virtually(run_open_loop(server.send, arrivals, **TIMES | times))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_closed_loop_keeps_its_clients_busy(concurrency):
    server = Server(0.25)
    window = run_closed(server, concurrency)
    assert server.most == concurrency
    assert server.numbers == list(range(len(server.numbers)))
    assert sum(window.count_answers(20)) == 40  # one server, four requests a second, in ten seconds
    assert window.count_answers(5) == [8] * 5
    counted = window.counted
    assert {round(one.latency, 9) for one in counted} == {0.25 * concurrency}
    assert min(one.start for one in counted) >= 1  # the warm-up is not counted


def test_requests_of_the_measured_time_are_waited_for():
    window = run_closed(Server(4.0))
    assert [one.end for one in window.counted] == [8, 12]  # the one at 0 is of the warm-up
    assert sum(window.count_answers(10)) == 2  # at 4 and 8: the answer at 12 came after the measured time


def test_a_slow_answer_times_out_and_a_failed_client_pauses():
    late = run_closed(Server(7.0))
    assert late.errors == {"timeout": 2}
    assert all(math.isinf(one.latency) for one in late.counted)
    refused = run_closed(Server(0.0, error="connection refused"), seconds=1.0)
    assert len(refused.counted) == pytest.approx(1.0 / ERROR_PAUSE_SECONDS, abs=1)
    assert sum(refused.count_answers(4)) == 0


def test_an_open_loop_counts_from_the_intended_time_when_the_service_stalls():
    arrivals = [0.5 * number for number in range(20)]
    window = run_open(Server(0.1, stall=(3.0, 2.0)), arrivals, warmup=0.0)
    by_start = {one.start: round(one.latency, 9) for one in window.counted}
    assert by_start[2.5] == 0.1
    # the stall holds up the request at 3.0 by 2 s, and those that arrive meanwhile by what is left of it
    assert [by_start[start] for start in (3.0, 3.5, 4.0, 4.5, 5.0)] == [2.1, 1.7, 1.3, 0.9, 0.5]
    assert by_start[6.0] == 0.1
    closed = run_closed(Server(0.1, stall=(3.0, 2.0)), warmup=0.0)
    assert sum(one.latency > 0.2 for one in closed.counted) == 1  # a closed loop omits them


def test_an_open_loop_sends_whatever_waits_and_its_time_limit_includes_the_wait():
    server = Server(1.0)
    window = run_open(server, [0.1 * number for number in range(100)], warmup=0.0)
    assert server.most > 40
    assert window.errors["timeout"] == 100 - sum(not one.error for one in window.counted)
    assert max(one.end - one.start for one in window.counted) == pytest.approx(5.0)


def test_an_error_of_our_own_ends_the_load():
    async def fail(number):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_virtually(run_closed_loop(fail, concurrency=3, **TIMES))


def test_arrivals_are_a_poisson_process_of_the_seed():
    arrivals = draw_arrivals(50.0, 100.0, seed=3)
    assert arrivals == draw_arrivals(50.0, 100.0, seed=3) != draw_arrivals(50.0, 100.0, seed=4)
    assert arrivals[0] > 0
    assert arrivals[-1] < 100
    assert len(arrivals) == pytest.approx(5000, abs=4 * math.sqrt(5000))
    gaps = np.diff(arrivals)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)  # of an exponential distribution


def test_slices_are_of_the_measured_time_alone():
    requests = [
        SentRequest(0.0, 1.0, ""),
        SentRequest(1.0, 1.5, "x"),
        SentRequest(1.0, 1.99, ""),
        SentRequest(1.5, 2.0, ""),
    ]
    window = LoadWindow(1.0, 2.0, requests)
    assert window.count_answers(2) == [1, 1]  # the begin belongs to it, the end does not
    assert window.errors == {"x": 1}
