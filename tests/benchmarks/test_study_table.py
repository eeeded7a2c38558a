"""The study of broken models: what counts as silent, too high, missed or a false alarm, and the tables."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import torch

from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.case_result import CaseResult
from benchmarks.broken_models.study_table import (
    format_catches,
    format_summary,
    format_table,
    is_blind_spot,
    write_csv,
)


def make_case(name: str, *, is_sound: bool = False, honest: str = "1" * 4 + "0" * 16) -> ModelCase:
    return ModelCase(
        name=name,
        is_sound=is_sound,
        kind=name,
        build=torch.nn.Identity,
        data=lambda n: (torch.zeros(n, 1, 2, 2), torch.zeros(n).long()),
        threat="linf-8",
        expected="D7",
        honest_verdicts=tuple(mark == "1" for mark in honest),
        images=20,
        clean_floor=0.4,
    )


def make_result(name: str, *, is_sound: bool = False, **changes) -> CaseResult:
    result = CaseResult(
        case=make_case(name, is_sound=is_sound),
        n=20,
        clean=18,
        robust={"autoattack-linf-8": 4},
        problems={},
        headline=4,
        is_marked=False,
        words=(),
        diagnostics=(),
        gate="fail",
        seconds=60,
    )
    return replace(result, **changes)


def test_a_headline_may_lie_five_points_above_the_honest_one():
    assert make_result("at the limit", headline=5).excess_points == 5.0
    assert not make_result("at the limit", headline=5).is_too_high
    assert make_result("above it", headline=6).is_too_high
    assert not make_result("above it", headline=6, is_marked=True).is_too_high


def test_a_number_that_cannot_be_compared_is_a_blind_spot_unless_it_is_marked():
    unknown = make_result("unknown", case=make_case("unknown", honest=""))
    assert unknown.excess_points is None
    assert is_blind_spot(unknown)
    assert not is_blind_spot(replace(unknown, is_marked=True))
    assert not is_blind_spot(make_result("honest"))


def test_a_result_is_silent_if_nothing_at_all_is_said():
    assert make_result("silent").is_silent
    assert not make_result("a warning", diagnostics=(("D5", "warn", "Probabilities."),)).is_silent
    assert not make_result("a doubt", words=("masking",)).is_silent
    assert not make_result("refused", problems={"run": "depends on the batch"}).is_silent


def test_the_summary_names_what_went_wrong():
    text = format_summary(
        [
            make_result("good", is_sound=True),
            make_result("alarmed", is_sound=True, is_marked=True),
            make_result("too high", headline=20, gate="pass"),
            make_result("caught", is_marked=True, diagnostics=(("D7", "fail", "Wrong."),)),
        ]
    )
    assert "2 sound and 2 broken models" in text
    assert "gate passed: 1 (too high)" in text
    assert "not marked: 1 (too high)" in text
    assert "false alarm: 1 (alarmed)" in text


def test_the_short_table_says_what_caught_each_broken_model():
    text = format_catches(
        [
            make_result("good", is_sound=True),
            make_result("two", is_marked=True, diagnostics=(("D7", "fail", ""), ("D6b", "fail", ""))),
            make_result("refused", is_marked=True, problems={"run": "depends on the batch"}),
            make_result("attacked"),
            make_result("missed", headline=20),
        ]
    )
    assert text.splitlines()[2:] == [
        "| D6b (1) | two |",
        "| D7 (1) | two |",
        "| refused before any attack (1) | refused |",
        "| the attack alone (1) | attacked |",
        "| nothing (1) | missed |",
    ]


def test_every_case_is_a_row_of_the_long_tables():
    results = [make_result("one, with a comma"), make_result("two", robust={}, headline=None, clean=None)]
    rows = list(csv.DictReader(io.StringIO(write_csv(results))))
    assert [row["case"] for row in rows] == ["one, with a comma", "two"]
    assert (rows[0]["autoattack"], rows[0]["adaptive"], rows[0]["honest"]) == ("4", "", "4")
    assert len(format_table(results).splitlines()) == 4
