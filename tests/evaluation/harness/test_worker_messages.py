"""Workers without processes: who gets which images, when one counts as hung, and what is told at the end."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import pytest
import torch

from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError, ModelTimeoutError
from robustbench_local.evaluation.harness import worker_pool, worker_process
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.outcome import build_error_outcome
from robustbench_local.evaluation.harness.shares import Shares
from robustbench_local.evaluation.harness.worker_pool import (
    WorkerLostError,
    WorkerPool,
    can_be_isolated,
    count_usable_workers,
)
from robustbench_local.evaluation.harness.worker_process import (
    WorkerRequest,
    WorkerResponse,
    run_request,
    serve_requests,
)
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=0.02)


@dataclass(frozen=True, kw_only=True)
class Grouped(PGD):
    per_image = False


def make_job(classifier, data, **changes):
    given = {"attack": PGD(steps=1), "threat": LINF, "seed": 1, **changes}
    return AttackJob(key="cell", classifier=classifier, data=data, **given)


def make_batch(data, positions):
    rows = [build_error_outcome("cell", at, data.select_images([at]), "") for at in positions]
    rows = tuple(replace(row, seconds=6.0) for row in rows)
    return OutcomeBatch(outcomes=rows, candidates=data.images[positions])


class Office:
    """Plays the child processes and the clock: a wait takes half a second unless a test says so."""

    def __init__(self, data):
        self.data, self.now, self.round_seconds = data, 100.0, 0.5
        self.children, self.rounds, self.pauses = [], 0, []
        self.answer_rounds = {}  # by number of the child: after so many rounds it answers; else at once
        self.answer_every = {}  # by number of the child: it answers in every so many-th round
        self.failures, self.ended, self.killed = {}, set(), set()
        self.passes = lambda _rounds: {}  # by number of the child: its finished passes after so many rounds
        self.received = lambda _rounds: 0
        self.pool = None

    def make_child(self, serve, threads):
        child = Child(self, len(self.children), threads)
        self.children.append(child)
        return child

    def wait(self, waiting, pause):
        self.rounds, self.now = self.rounds + 1, self.now + self.round_seconds
        self.pauses.append(pause)
        for number, count in self.passes(self.rounds).items():
            self.pool._pass_counts[2 * number + 1] = count
        return [
            child
            for child in waiting
            if child.number in self.ended
            or (
                self.rounds >= self.answer_rounds.get(child.number, 0)
                and self.rounds % self.answer_every.get(child.number, 1) == 0
            )
        ]


class Child:
    def __init__(self, office, number, threads):
        self.office, self.number, self.threads = office, number, threads
        self.requests, self.is_stopped, self.pid = [], False, number

    def send_request(self, order):
        self.requests.append(order)

    def receive_responses(self):
        if self.number in self.office.ended:
            raise EOFError
        order, note = self.requests[-1], (f"note {self.number}",)
        if order == "stop":
            return [WorkerResponse(None, None, (f"last {self.number}",))]
        failure = self.office.failures.get(self.number)
        return [
            WorkerResponse(None if failure else make_batch(self.office.data, order.positions), failure, note)
        ]

    def count_received_bytes(self):
        return self.office.received(self.office.rounds)

    def was_killed(self):
        return self.number in self.office.killed

    def describe_exit(self):
        return f"child {self.number} ended"

    def stop(self):
        self.is_stopped = True


@pytest.fixture
def office(monkeypatch, data):
    made = Office(data)
    monkeypatch.setattr(worker_pool, "ChildProcess", made.make_child)
    monkeypatch.setattr(worker_pool, "wait_for_responses", made.wait)
    monkeypatch.setattr(worker_pool.time, "monotonic", lambda: made.now)
    return made


def open_pool(office, linear, data, workers=3, **options):
    office.pool = WorkerPool(make_job(linear, data), workers, prepare_models=nullcontext, **options)
    return office.pool


def test_images_are_dealt_out_and_come_back_in_order(office, linear, data):
    with open_pool(office, linear, data) as pool:
        batch = pool.run([5, 1, 2, 9, 4, 8, 7], 64)
        assert (pool.size, pool.isolated) == (3, True)
    assert [child.requests[0].positions for child in office.children] == [[5, 9, 7], [1, 4], [2, 8]]
    assert [row.position for row in batch.outcomes] == [1, 2, 4, 5, 7, 8, 9]
    assert torch.equal(batch.candidates, data.images[[1, 2, 4, 5, 7, 8, 9]])
    assert {row.seconds for row in batch.outcomes} == {2.0}  # three worked at once
    assert {child.threads for child in office.children} == {1}


def test_every_worker_passes_whole_batches(office, linear, data):
    with open_pool(office, linear, data) as pool:
        pool.run([0, 1, 2, 3], 64)
    assert [child.requests[0].batch_size for child in office.children] == [64] * 3


def test_a_single_worker_keeps_the_batch_and_the_threads(office, linear, data, monkeypatch):
    monkeypatch.setattr(worker_pool.torch, "get_num_threads", lambda: 3)
    with open_pool(office, linear, data, workers=1, isolated=True) as pool:
        batch = pool.run([3, 4], 64)
        assert (pool.size, pool.isolated) == (1, True)
    (child,) = office.children
    assert child.requests == [WorkerRequest([3, 4], 64), "stop"]
    assert child.threads == 3
    assert {row.seconds for row in batch.outcomes} == {6.0}


def test_few_images_leave_workers_idle_and_workers_are_kept(office, linear, data):
    with open_pool(office, linear, data) as pool:
        batch = pool.run([7, 3], 64)
        pool.run([1, 2, 3], 64)
    assert {row.seconds for row in batch.outcomes} == {3.0}
    assert [len(child.requests) for child in office.children] == [3, 3, 2]
    assert len(office.children) == 3


def test_notes_of_all_are_kept_and_the_first_failure_is_raised(office, linear, data):
    office.failures = {1: ValueError("first"), 2: ValueError("second")}
    with pytest.raises(ValueError, match="first"), open_pool(office, linear, data) as pool:
        pool.run([0, 1, 2], 64)
    assert list(linear.notes)[-3:] == ["note 0", "note 1", "note 2"]
    assert all(child.is_stopped for child in office.children)
    assert not any("stop" in child.requests for child in office.children)  # after an error, at once


def run_shares(pool, count, *, workers=2, batch_size=4, most=4, sizes=None):
    shares = Shares(range(count), workers=workers, batch_size=batch_size, most=most)
    results = pool.run_shares(shares, sizes or (lambda: batch_size))
    return shares, results


def test_a_worker_that_is_done_takes_the_next_share_and_waits_for_no_other(office, linear, data):
    office.answer_every = {1: 3}
    sizes = iter([8, 8, 4, 4, 2, 2, 2])
    with open_pool(office, linear, data, workers=2) as pool:
        shares, results = run_shares(pool, 10, sizes=lambda: next(sizes))
        ended = list(results)
    assert sorted(at for result in ended for at in result.positions) == list(range(10))
    first, second = ([order.positions for order in child.requests[:-1]] for child in office.children)
    assert first == [[0, 2, 4, 6], [5], [7]]
    assert second == [[1, 3, 8], [9]]
    assert [result.batch_size for result in ended][:2] == [8, 4]
    assert shares.list_left() == []
    # two worked at once, and one alone at the end
    assert {row.seconds for result in ended for row in result.batch.outcomes} <= {3.0, 6.0}
    assert {row.seconds for row in ended[0].batch.outcomes} == {3.0}
    assert office.pool._workers == []


def test_a_share_that_fails_stops_no_other(office, linear, data):
    office.failures = {0: ValueError("bad")}
    with open_pool(office, linear, data, workers=2) as pool:
        ended = list(run_shares(pool, 12)[1])
    failed = [result for result in ended if result.failure is not None]
    assert {str(result.failure) for result in failed} == {"bad"}
    assert all(result.batch is None for result in failed)
    assert sorted(at for result in ended for at in result.positions) == list(range(12))


def test_a_lost_worker_gives_back_the_shares_of_the_others(office, linear, data):
    office.answer_rounds, office.ended = {0: 10**6}, {1}
    with open_pool(office, linear, data, workers=2) as pool:
        shares, results = run_shares(pool, 12)
        ended = list(results)
        assert all(child.is_stopped for child in office.children)
        (result,) = ended
        assert (result.failure.description, result.failure.worker) == ("child 1 ended", 1)
        assert result.positions == office.children[1].requests[0].positions
        assert set(shares.list_left()) == set(range(12)) - set(result.positions)
        office.ended, office.answer_rounds = set(), {}
        rest = list(pool.run_shares(shares, lambda: 4))
    assert sorted(at for result in rest for at in result.positions) == sorted(
        set(range(12)) - set(result.positions)
    )


def test_a_worker_that_hangs_in_a_share_is_lost_and_one_that_goes_on_is_not(office, linear, data):
    office.answer_rounds = {1: 10**6}
    with open_pool(office, linear, data, workers=2, timeout=2) as pool:
        *done, last = run_shares(pool, 16)[1]
    assert (last.failure.hung, last.failure.worker) == (True, 1)
    assert last.positions == office.children[1].requests[0].positions
    assert len(done) == 3


def test_the_time_of_the_cell_ends_shares_with_what_is_done(office, linear, data):
    office.answer_rounds = {1: 10**6}
    done = []
    with open_pool(office, linear, data, workers=2, deadline=102.2) as pool:
        results = run_shares(pool, 12)[1]
        with pytest.raises(ModelTimeoutError):
            done.extend(results)
    assert [bool(result.batch) for result in done] == [True] * len(done)
    assert len(done) >= 2
    assert all(child.is_stopped for child in office.children)


def test_at_the_end_workers_say_their_last_words_and_are_stopped(office, linear, data):
    with open_pool(office, linear, data) as pool:
        pool.run([0, 1, 2], 64)
        assert not any(child.is_stopped for child in office.children)
    assert all(child.requests[-1] == "stop" and child.is_stopped for child in office.children)
    assert [note for note in linear.notes if "last" in note] == ["last 0", "last 1", "last 2"]
    with open_pool(office, linear, data):
        pass  # nothing was asked, and nobody is there


def test_a_worker_that_is_silent_at_the_end_is_stopped_after_half_a_minute(office, linear, data):
    with open_pool(office, linear, data, workers=2) as pool:
        pool.run([0, 1], 64)
        office.answer_rounds = {0: 10**6}
        before = office.now
    assert 29 <= office.now - before <= 31
    assert all(child.is_stopped for child in office.children)


def hang(office, linear, data, timeout, **options):
    with open_pool(office, linear, data, workers=2, timeout=timeout, **options) as pool:
        return pool.run([0, 1], 64)


def test_a_worker_without_a_finished_pass_for_so_long_is_lost(office, linear, data):
    office.answer_rounds = {1: 10**6}
    with pytest.raises(WorkerLostError, match="no pass finished for 2 s") as caught:
        hang(office, linear, data, 2)
    assert (caught.value.hung, caught.value.killed) == (True, False)
    assert caught.value.description == "no pass finished for 2 s"
    assert office.rounds == 4
    assert all(child.is_stopped for child in office.children)
    assert set(office.pauses) == {0.5}


def test_short_limits_are_watched_in_short_rounds(office, linear, data):
    office.answer_rounds, office.round_seconds = {1: 10**6}, 0.1
    with pytest.raises(WorkerLostError):
        hang(office, linear, data, 0.4)
    assert set(office.pauses) == {0.1}
    assert office.rounds in {4, 5}


@pytest.mark.parametrize("sign", ["passes", "received"])
def test_a_sign_of_progress_starts_the_time_anew(office, linear, data, sign):
    office.answer_rounds = {1: 12}
    if sign == "passes":
        office.passes = lambda rounds: {1: rounds // 3}
    else:
        office.received = lambda rounds: rounds // 3
    assert len(hang(office, linear, data, 2).outcomes) == 2
    assert office.rounds >= 12


def test_progress_of_another_worker_is_none(office, linear, data):
    office.answer_rounds = {0: 10**6, 1: 10**6}
    office.passes = lambda rounds: {0: rounds}
    with pytest.raises(WorkerLostError):
        hang(office, linear, data, 2)
    assert office.rounds == 4


def test_an_answer_in_the_last_moment_counts(office, linear, data):
    office.answer_rounds = {1: 4}
    assert len(hang(office, linear, data, 2).outcomes) == 2


def test_a_pause_of_this_process_is_no_hang(office, linear, data):
    office.answer_rounds, office.round_seconds = {1: 10}, 1000.0
    assert len(hang(office, linear, data, 20).outcomes) == 2
    office.rounds, office.answer_rounds = 0, {3: 30}
    with pytest.raises(WorkerLostError):
        hang(office, linear, data, 20)
    assert office.rounds == 20  # each round counts as two heartbeats: a second


def test_without_a_limit_nobody_is_lost(office, linear, data):
    office.answer_rounds, office.round_seconds = {1: 500}, 10.0
    for timeout in (None, 0):
        office.rounds = 0
        office.answer_rounds = {len(office.children) + 1: 500}
        assert len(hang(office, linear, data, timeout).outcomes) == 2


def test_the_time_of_the_cell_ends_it(office, linear, data):
    office.answer_rounds = {1: 10**6}
    with pytest.raises(ModelTimeoutError, match="linear: the cell's time is over") as caught:
        hang(office, linear, data, None, deadline=103.0)
    assert "--cell-timeout" in str(caught.value)
    assert office.now == 103.5
    assert all(child.is_stopped for child in office.children)
    office.answer_rounds = {}
    assert len(hang(office, linear, data, None, deadline=0.0).outcomes) == 2  # all answers are here


def test_a_child_that_ends_is_lost_with_its_reason_and_replaced(office, linear, data):
    office.ended, office.killed = {1}, {1}
    with open_pool(office, linear, data, workers=2) as pool:
        with pytest.raises(WorkerLostError, match="child 1 ended") as caught:
            pool.run([0, 1], 64)
        assert (caught.value.hung, caught.value.killed) == (False, True)
        assert [child.is_stopped for child in office.children] == [True, True]
        assert len(pool.run([0, 1], 64).outcomes) == 2
        assert len(office.children) == 4
    assert WorkerLostError("x").hung is WorkerLostError("x").killed is False


def test_passes_under_way_are_told_and_forgotten(office, linear, data, monkeypatch):
    told = []
    monkeypatch.setattr(linear, "record_worker_passes", told.append)
    office.answer_rounds = {0: 3, 1: 3}

    def count(rounds):
        office.pool._pass_counts[0], office.pool._pass_counts[2] = 10 * rounds, rounds
        return {0: 1000, 1: 1000}  # finished ones are counted by the worker itself

    office.passes = count
    hang(office, linear, data, None)
    assert told[:3] == [11, 22, 33]
    assert told[-1] == 0


def test_an_unisolated_job_runs_here_with_its_limits(office, linear, data):
    entered = []

    @contextmanager
    def prepare():
        entered.append("in")
        yield
        entered.append("out")

    job = make_job(linear, data)
    with WorkerPool(job, 1, prepare_models=prepare) as pool:
        assert (pool.isolated, entered) == (False, ["in"])
        with linear.evaluation_mode():
            assert [row.position for row in pool.run([4, 2], 13).outcomes] == [4, 2]
        assert linear.settings.batch_size == 13
    assert entered == ["in", "out"]
    assert office.children == []
    with (
        WorkerPool(job, 1, prepare_models=nullcontext, deadline=99.0) as pool,
        pytest.raises(ModelTimeoutError),
    ):
        pool.run([4], 13)
    with WorkerPool(job, 1, prepare_models=nullcontext, deadline=1e9) as pool, linear.evaluation_mode():
        assert len(pool.run([4], 13).outcomes) == 1


def test_only_networks_on_the_cpu_with_divisible_work_are_shared(linear, data, monkeypatch):
    service = Classifier(linear.module.forward, num_classes=4, access="scores", name="service")
    assert count_usable_workers(make_job(linear, data), 4) == 4
    assert count_usable_workers(make_job(linear, data), 0) == 1
    assert count_usable_workers(make_job(linear, data.select_images([1, 2])), 4) == 2
    assert count_usable_workers(make_job(linear, data, attack=Grouped(steps=1)), 4) == 1
    for mixed in (
        make_job(service, data),
        make_job(linear, data, surrogate=service),
        make_job(service, data, surrogate=linear),
    ):
        assert count_usable_workers(mixed, 4) == 1
    unsafe = Classifier(linear.module, num_classes=4, name="unsafe").configure(is_fork_safe=False)
    for mixed in (make_job(unsafe, data), make_job(linear, data, surrogate=unsafe)):
        assert not can_be_isolated(mixed)
        assert count_usable_workers(mixed, 4) == 1
    monkeypatch.setattr(worker_pool, "can_fork", lambda _device: False)
    assert not can_be_isolated(make_job(linear, data))


class Line:
    """A channel with given requests; after the last one the line is dead."""

    def __init__(self, *orders):
        self.orders, self.sent = list(orders), []

    def receive_request(self):
        if not self.orders:
            raise EOFError
        return self.orders.pop(0)

    def send_response(self, answer):
        self.sent.append(answer)


class Told:
    """A job that does what a test says."""

    model_names = "told"

    def __init__(self, linear, data, does=None):
        self.classifier = self.queried_model = linear
        self.data, self.does, self.sizes = data, does, []

    def run(self, positions):
        self.classifier.add_note(f"worked on {positions}")
        self.sizes.append(self.classifier.settings.batch_size)
        if self.does is not None:
            raise self.does
        return make_batch(self.data, positions)


def serve(job, line, ready=nullcontext):
    serve_requests(job, ready, (worker_pool.ctypes.c_int64 * 2)(), line)
    return line.sent


def test_a_worker_answers_each_request_with_its_new_notes(linear, data):
    linear.add_note("old")
    job = Told(linear, data)
    first, second, last = serve(job, Line(WorkerRequest([1], 5), WorkerRequest([2, 3], 7), "stop"))
    assert [row.position for row in first.batch.outcomes] == [1]
    assert [row.position for row in second.batch.outcomes] == [2, 3]
    assert (first.notes, second.notes) == (("worked on [1]",), ("worked on [2, 3]",))
    assert (first.failure, last.batch, last.failure, last.notes) == (None, None, None, ())
    assert job.sizes == [5, 7]


def test_what_is_noted_as_the_model_is_put_back_is_the_last_word(linear, data):
    @contextmanager
    def ready():
        yield
        linear.add_note("put back")

    sent = serve(Told(linear, data), Line(WorkerRequest([1], 5), "stop"), ready)
    assert sent[-1].notes == ("put back",)


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (ValueError("bad"), ValueError, "bad"),
        (SystemExit(3), ModelError, "told: .*exit"),
        (KeyboardInterrupt(), ModelError, "told: "),
    ],
)
def test_a_failure_of_the_job_travels_as_an_exception(linear, data, problem, kind, message):
    answer = run_request(Told(linear, data, problem), WorkerRequest([1], 5))
    assert answer.batch is None
    assert answer.notes == ("worked on [1]",)
    with pytest.raises(kind, match=message):
        raise answer.failure


def test_a_model_that_cannot_be_made_ready_fails_every_request(linear, data):
    @contextmanager
    def refuse():
        raise ValueError("cannot be made ready")
        yield

    sent = serve(Told(linear, data), Line(WorkerRequest([1], 5), WorkerRequest([2], 5), "stop"), refuse)
    assert [str(answer.failure) for answer in sent[:-1]] == ["cannot be made ready"] * 2
    assert (sent[-1].failure, sent[-1].batch) == (None, None)


def test_a_worker_whose_line_is_dead_ends_without_a_word(linear, data):
    assert len(serve(Told(linear, data), Line(WorkerRequest([1], 5)))) == 1


@pytest.mark.parametrize(("deadline", "is_over"), [(5.0, False), (4.9, True), (None, False)])
def test_work_in_this_process_is_watched_until_the_time_of_the_cell_is_over(
    linear, data, monkeypatch, deadline, is_over
):
    given = []

    def watch(*limits):
        given.append(limits)
        return nullcontext()

    def abort(reason):
        raise AssertionError(reason)

    monkeypatch.setattr(worker_pool, "Watchdog", watch)
    monkeypatch.setattr(worker_pool.time, "monotonic", lambda: 5.0)
    pool = WorkerPool(
        make_job(linear, data), 1, prepare_models=nullcontext, timeout=2.0, deadline=deadline,
        abort_hung_model=abort,
    )  # fmt: skip
    with linear.evaluation_mode(), pool:
        if is_over:
            with pytest.raises(ModelTimeoutError, match="time is over"):
                pool.run([1], 8)
            assert given == []
            return
        assert [row.position for row in pool.run([1], 8).outcomes] == [1]
    assert given == [(2.0, deadline, abort)]


def test_each_worker_publishes_both_counts_in_a_place_of_its_own(linear, data, monkeypatch):
    counts = []

    def make_child(serve, threads):
        counts.append(serve.args[2])

    monkeypatch.setattr(worker_pool, "ChildProcess", make_child)
    pool = WorkerPool(make_job(linear, data), 3, prepare_models=nullcontext)
    for index in range(3):
        pool._start_worker(index)
        counts[index][0], counts[index][1] = 10 + index, 20 + index
    assert list(pool._pass_counts) == [10, 20, 11, 21, 12, 22]


def test_the_thread_that_publishes_counts_does_not_keep_a_worker_alive(linear, data, monkeypatch):
    made = []

    class Thread:
        def __init__(self, **given):
            made.append(given)

        def start(self):
            made.append("started")

    monkeypatch.setattr(worker_process.threading, "Thread", Thread)
    serve(Told(linear, data), Line("stop"))
    assert made[0]["daemon"] is True
    assert made[1:] == ["started"]
