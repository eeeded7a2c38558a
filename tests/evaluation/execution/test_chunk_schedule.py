"""The schedule of chunks, on nodes that fail as a test says: nothing is lost, and nothing is there twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from robustbench_local.errors import IncompleteError, InvariantError, ModelError, ModelTimeoutError
from robustbench_local.evaluation.execution.cluster import chunk_schedule
from robustbench_local.evaluation.execution.cluster.chunk_schedule import ChunkSchedule
from robustbench_local.evaluation.execution.cluster.chunks import ChunkLostError, ChunkResult
from robustbench_local.evaluation.execution.cluster.cluster_runner import split_into_chunks

NODE_LOST, PROCESS_LOST = (
    ChunkLostError(f"a {what} was lost", node_lost=what == "node") for what in ("node", "process")
)


@dataclass
class Nodes:
    """A cluster that answers at once, in the order of submission, unless told to wait or to fail."""

    slots: int = 2
    plan: dict[int, list[Any]] = field(default_factory=dict)
    """By the first position of a chunk: what its attempts end with; None: outcomes, "wait": nothing yet."""
    wrong: set[int] = field(default_factory=set)
    """Positions whose clean image is misclassified."""
    broken: set[int] = field(default_factory=set)
    """Positions that the model fails on."""
    answers_backwards: bool = False
    now: float = 0.0
    sent: list[tuple[int, ...]] = field(default_factory=list)
    shrinks: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    running: dict[int, tuple[tuple[int, ...], Any, bool]] = field(default_factory=dict)

    def count_slots(self):
        return self.slots

    def submit_chunk(self, positions, *, shrinks, follows_success):
        assert len(self.running) < max(self.slots, 1)
        endings = self.plan.get(positions[0], [])
        self.running[len(self.sent)] = tuple(positions), endings.pop(0) if endings else None, follows_success
        self.sent.append(tuple(positions))
        self.shrinks.append(shrinks)
        return len(self.sent) - 1

    def wait_for_chunks(self, handles, seconds):
        self.now += 1.0
        ended = [handle for handle in handles if self.running[handle][1] != "wait"]
        return ended[::-1][:1] if self.answers_backwards else ended

    def collect_result(self, handle):
        positions, ending, follows_success = self.running.pop(handle)
        if isinstance(ending, ChunkLostError):
            raise ending
        if isinstance(ending, ChunkResult):
            return ending
        if isinstance(ending, Exception):
            return ChunkResult(failure=ending)
        errors = [position for position in positions if position in self.broken]
        if not follows_success and len(errors) >= 3:
            return ChunkResult(failure=ModelError("it always fails"))
        return ChunkResult(batches=(self.make_batch(positions if ending is None else positions[:ending]),))

    def make_batch(self, positions):
        rows = [
            SimpleNamespace(
                position=position,
                status="error" if position in self.broken else "ok",
                error=f"error on {position}" if position in self.broken else None,
                clean_correct=position not in self.wrong | self.broken,
            )
            for position in positions
        ]
        return SimpleNamespace(outcomes=rows)

    def make_lost_batch(self, position, reason):
        return SimpleNamespace(
            outcomes=[SimpleNamespace(position=position, status="error", error=reason, clean_correct=False)]
        )

    def cancel_chunks(self, handles):
        for handle in handles:
            self.cancelled.append(handle)
            self.running.pop(handle, None)

    def make_schedule(self, chunks, *, has_succeeded=True, max_failures=3, deadline=None):
        return ChunkSchedule(
            chunks,
            self,
            has_succeeded=has_succeeded,
            max_failures=max_failures,
            notify=self.notes.append,
            deadline=deadline,
            clock=lambda: self.now,
        )

    def run(self, count=12, size=3, *, has_succeeded=False, deadline=None):
        chunks = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        schedule = self.make_schedule(
            chunks, has_succeeded=has_succeeded, max_failures=min(3, count), deadline=deadline
        )
        self.done = []
        for result in filter(None, schedule.run()):
            self.done += [row.position for batch in result.batches for row in batch.outcomes]
        assert len(set(self.done)) == len(self.done)
        return sorted(self.done)


def test_every_image_comes_back_once_and_slots_bound_what_runs():
    nodes = Nodes(slots=3)
    assert nodes.run(14, 4) == list(range(14))
    assert nodes.sent == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13)]
    assert nodes.notes == []
    assert Nodes(slots=0).run(6, 3) == list(range(6))  # a cluster that has not grown yet gets one chunk


def test_lost_nodes_and_processes_cost_their_chunks_alone():
    nodes = Nodes(plan={0: [NODE_LOST] * 5, 3: [PROCESS_LOST]})
    assert nodes.run() == list(range(12))
    assert len(nodes.sent) == 4 + 6
    assert nodes.notes.count("a node was lost, at work on 3 images: they are run again") == 5


def test_a_cluster_that_loses_the_same_images_for_ever_is_given_up():
    limit = chunk_schedule.MAX_NODE_LOSSES
    assert Nodes(plan={0: [NODE_LOST] * (limit - 1)}).run() == list(range(12))
    with pytest.raises(IncompleteError, match=f"lost the same 3 images {limit} times"):
        Nodes(plan={0: [NODE_LOST] * limit}).run()


def test_a_chunk_whose_process_dies_again_and_again_is_split_down_to_the_image():
    limit = chunk_schedule.MAX_PROCESS_LOSSES
    nodes = Nodes(slots=1, plan={0: [PROCESS_LOST] * (limit - 1)})
    nodes.run()
    assert set(nodes.sent) == {(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)}
    nodes = Nodes(slots=1, plan={0: [PROCESS_LOST] * (3 * limit)})
    assert nodes.run() == list(range(12))
    assert {(0, 1), (0,), (1,), (2,)} <= set(nodes.sent)


def test_memory_that_runs_out_halves_the_batches_of_the_chunk():
    loss = ChunkLostError("no memory", node_lost=False, out_of_memory=True)
    nodes = Nodes(slots=1, plan={3: [loss, loss]})
    assert nodes.run() == list(range(12))
    assert nodes.shrinks == [0, 0, 1, 2, 0, 0]


def test_a_node_that_stops_gives_back_what_is_left():
    nodes = Nodes(slots=1, plan={3: [2]})
    assert nodes.run() == list(range(12))
    assert nodes.sent[1:3] == [(3, 4, 5), (5,)]
    assert nodes.notes == []


def test_a_node_with_other_code_gives_the_chunk_back():
    nodes = Nodes(plan={0: [ChunkResult(refusal="other code", node="n")]})
    assert nodes.run() == list(range(12))


def test_the_slowest_chunk_is_doubled_at_the_end_and_the_first_result_wins():
    nodes = Nodes(slots=2, plan={3: ["wait"]})
    assert nodes.run(15) == list(range(15))
    assert nodes.sent.count((3, 4, 5)) == 2
    assert nodes.cancelled == [1]
    # not while other chunks wait, and not before a few have shown how long one takes
    assert nodes.sent[-1] == (3, 4, 5)
    nodes = Nodes(slots=3, plan={0: ["wait"], 3: ["wait"]})
    with pytest.raises(ModelTimeoutError):
        nodes.run(9, deadline=20.0)
    assert len(nodes.sent) == 3


def test_a_large_chunk_may_take_longer():
    # four chunks of one image in a step each; one of six images would be late after two, but not yet
    nodes = Nodes(slots=2, plan={0: ["wait"]})
    steps = nodes.make_schedule([[*range(6)], [6], [7], [8], [9]]).run()
    while nodes.now < 12:
        next(steps)
    assert nodes.sent.count(tuple(range(6))) == 1
    assert list(steps)
    assert nodes.sent.count(tuple(range(6))) == 2


def test_a_slot_that_has_just_become_idle_is_for_another_cell():
    nodes = Nodes(slots=2, plan={0: ["wait"]})
    steps = nodes.make_schedule([[0], [1], [2], [3], [4]]).run()
    while nodes.now < 4:
        next(steps)
    assert next(steps) is None  # the second slot is idle, and the first chunk is late
    assert list(nodes.running) == [0]
    nodes.slots = 1  # another cell has taken it
    for _ in range(3):
        next(steps)
    assert nodes.sent.count((0,)) == 1
    nodes.slots = 2
    assert list(steps)
    assert nodes.sent.count((0,)) == 2


def test_the_first_failures_are_those_of_the_model_whatever_the_order_of_the_nodes():
    with pytest.raises(ModelError, match="always"):
        Nodes(broken=set(range(12))).run()
    # the second chunk is back first, and succeeds; still the first three images decide
    nodes = Nodes(slots=2, broken={0, 1, 2}, answers_backwards=True)
    with pytest.raises(ModelError, match="always"):
        nodes.run()
    assert nodes.done == []
    # failures of two chunks before any success add up
    with pytest.raises(ModelError, match="error on 4"):
        Nodes(broken={0, 1, 4}, wrong={2, 3}).run()
    assert Nodes(broken={0, 1, 6}, wrong={2, 3}).run() == list(range(12))


def test_a_chunk_that_fails_after_a_success_of_another_is_run_again_for_its_images():
    nodes = Nodes(slots=4, broken={3, 4, 5})
    assert nodes.run() == list(range(12))
    assert nodes.sent.count((3, 4, 5)) == 2
    nodes = Nodes(slots=4, broken={0, 1, 2})
    assert nodes.run(has_succeeded=True) == list(range(12))
    assert nodes.sent.count((0, 1, 2)) == 1


def test_outcomes_without_any_success_are_kept_at_the_end():
    assert Nodes(wrong=set(range(12)), broken={5, 7}).run() == list(range(12))


@pytest.mark.parametrize("failure", [InvariantError("a rule"), ModelTimeoutError("it hangs")])
def test_what_ends_a_cell_ends_it_at_once_with_what_is_done(failure):
    nodes = Nodes(slots=1, plan={3: [failure]})
    with pytest.raises(type(failure)):
        nodes.run()
    assert nodes.done == [0, 1, 2]
    assert nodes.running == {}


def test_an_interrupt_cancels_what_runs():
    nodes = Nodes(slots=2, plan={0: ["wait"], 3: [KeyboardInterrupt()]})

    def raise_interrupt(handles, seconds):
        raise KeyboardInterrupt

    nodes.wait_for_chunks = raise_interrupt
    with pytest.raises(KeyboardInterrupt):
        nodes.run()
    assert sorted(nodes.cancelled) == [0, 1]


@dataclass
class Work:
    image_count: int
    is_divisible: bool = True
    unit: int = 256

    def build_queue(self, batch_size, done):
        left = [position for position in range(self.image_count) if position not in done]
        return [left[start : start + self.unit] for start in range(0, len(left), self.unit)]


@pytest.mark.parametrize(
    ("count", "batch", "slots", "sizes"),
    [
        (5000, 64, 8, {64: 1, 256: 10, 16: 5}),
        (24, 64, 2, {12: 2}),
        (128, 64, 2, {64: 2}),
        (24, 8, 2, {8: 3}),
        (8, 64, 4, {3: 1, 5: 1}),
        (2, 64, 4, {2: 1}),
        (0, 64, 4, {}),
    ],
)
def test_chunks_fill_batches_and_every_slot(count, batch, slots, sizes):
    chunks = split_into_chunks(Work(count), batch, set(), None, slots)
    assert [position for chunk in chunks for position in chunk] == list(range(count))
    for size, least in sizes.items():
        assert sum(len(chunk) == size for chunk in chunks) >= least, [len(chunk) for chunk in chunks]


def test_chunks_of_a_cell_before_others_stay_large():
    alone = [len(chunk) for chunk in split_into_chunks(Work(5000), 64, set(), None, 32)]
    before = [len(chunk) for chunk in split_into_chunks(Work(5000), 64, set(), None, 32, 0.25)]
    assert min(before[1:-1]) > 128 > alone[-2]
    small = [len(chunk) for chunk in split_into_chunks(Work(64), 64, set(), None, 16, 0.25)]
    assert small == [16] * 4


def test_chunks_leave_out_what_is_done_and_keep_groups_whole():
    assert split_into_chunks(Work(10), 64, {0, 1}, {1, 2, 3, 4}, 1) == [[2, 3, 4]]
    groups = split_into_chunks(Work(10, is_divisible=False, unit=4), 64, set(), None, 8)
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    # a certificate that commits image by image still has as many in a chunk as show a failing model
    assert [len(chunk) for chunk in split_into_chunks(Work(10, unit=1), 64, set(), None, 8)] == [3, 3, 4]
