"""The fault suite itself: no kind of fault is ever lost from it, and it can tell when the tool deviates."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from pathlib import Path

import pytest
from fault import FAULTS, Fault
from workplace import CommandResult, DeviationError, FaultWorkspace, check_output

LEAST = {
    "damaged stores": 9,
    "hostile files": 113,
    "hostile models": 53,
    "hostile services": 15,
    "mutated grids": 1,
    "random kills": 1,
    "short memory": 8,
    "wrong numbers": 51,
}
"""Kinds of each family: never fewer than now."""


@pytest.fixture(scope="module")
def suite():
    return runpy.run_path(str(Path(__file__).parent / "__main__.py"))


def test_no_kind_of_fault_is_lost(suite):
    counts = Counter(fault.family for fault in FAULTS)
    assert counts.keys() == LEAST.keys()
    assert all(counts[family] >= least for family, least in LEAST.items()), counts
    names = [(fault.family, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)


def test_every_kind_is_tried_once_and_shards_share_them(suite):
    kinds = [Fault("f", str(number), lambda _place, _draw: None, has_variants=False) for number in range(7)]
    shards = [list(suite["schedule_faults"](kinds, 3, 0.0, shard=(part, 2))) for part in (1, 2)]
    assert sorted(fault.name for shard in shards for fault, _ in shard) == [
        str(number) for number in range(7)
    ]
    assert list(suite["schedule_faults"](kinds, 3, 0.0)) == list(suite["schedule_faults"](kinds, 3, 0.0))


def test_a_deviation_is_told_with_what_repeats_it(suite, tmp_path):
    def trial(place: FaultWorkspace, draw: random.Random) -> None:
        raise DeviationError(f"drew {draw.randrange(10**6)}")

    kind = Fault("f", "a kind", trial, has_variants=True)
    told = suite["try_once"](kind, 5, tmp_path / "place")
    assert told.startswith("drew ")
    assert told == suite["try_once"](kind, 5, tmp_path / "place")
    assert told != suite["try_once"](kind, 6, tmp_path / "place")


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "complaint"),
    [
        (70, "", "rbl: error: internal error", "exit code 70"),
        (-11, "", "", "exit code -11"),
        (2, "", "Traceback (most recent call last):\n", "traceback"),
        (0, "\x1b[31mred", "", "control characters"),
        (3, "some words", "", "without a line"),
    ],
)
def test_bad_manners_are_noticed(code, stdout, stderr, complaint):
    with pytest.raises(DeviationError, match=complaint):
        check_output(CommandResult(code, stdout, stderr, 0.0))


def test_good_manners_pass():
    check_output(CommandResult(3, "", "rbl: error: net.pt: is empty. Download it again\n", 0.0))
    check_output(CommandResult(0, "fine\n", "", 0.0))
