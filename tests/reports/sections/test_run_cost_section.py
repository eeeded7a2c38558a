"""The section about time and memory: read from what a run stored, in every form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import build_run

from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.sections.run_cost_section import MAX_SHOWN_CALLS, RUN_COST
from robustbench_local.store import RunStore
from robustbench_local.store.run_costs import (
    COSTS_KEY,
    REASONS_KEY,
    REDUCED_KEY,
    SIZES_KEY,
    CallCost,
    read_batch_sizes,
    read_call_costs,
)

COST = {
    "plan": {"passes": {"low": 900, "value": 1000, "high": 1200}, "cpu_seconds": {"low": 3, "high": 5}},
    "seconds": 75.0,
    "expected_seconds": [60.0, 90.0],
    "max_seconds": 600.0,
    "passes": 1234,
    "expected_passes": [1000, 1500],
    "max_passes": 98_765,
    "cpu_seconds": 4.0,
    "peak_bytes": 2**29,
    "expected_peak_bytes": 2**28,
    "images_before_estimate": 1,
}


@pytest.fixture
def evidence(tmp_path):
    """The evidence of a run with costs and a batch size, and its store."""
    directory = build_run(tmp_path / "run")
    with RunStore.create_or_open(
        directory, resolved_yaml="schema: 1\n", identity={"grid": "sample"}
    ) as store:
        store.update_meta(
            {
                COSTS_KEY: [COST],
                SIZES_KEY: {"m | x": 64},
                REASONS_KEY: {"m | x": "measured: 2.8 times faster per image than 8"},
                REDUCED_KEY: {"m | x": 32},
            }
        )
    with RunStore.open_readonly(directory) as store:
        yield read_evidence(store), store


def test_plan_and_actual_stand_side_by_side_in_every_form(evidence):
    evidence, store = evidence
    content = RUN_COST.build_content(evidence, store)
    assert RUN_COST.is_shown(content)
    text = "\n".join(RUN_COST.to_markdown(content, evidence))
    assert "### This run" in text
    for row in (
        "time | 1 min 15 s |  | 1 min 00 s~1 min 30 s, after 1 image | 10 min 00 s",
        "passes | 1,234 | 900~1,200 | 1,000~1,500, after 1 image | 98,765",
        "CPU time | 4.0 s | 3.0 s~5.0 s |  |",
        "memory of the largest process | 512 MiB |  | 256 MiB, after 1 image |",
        "m \\| x | 64 | measured: 2.8 times faster per image than 8; 32 after memory ran out during the run",
    ):
        assert row.replace("~", "\u2013") in text
    encoded = RUN_COST.to_json(evidence)
    assert encoded["run_costs"][0]["planned_passes"] == [900, 1200]
    assert encoded["batch_sizes"] == [
        {
            "model": "m | x",
            "size": 64,
            "reason": "measured: 2.8 times faster per image than 8",
            "reduced_to": 32,
        }
    ]
    many = replace(content, calls=[content.calls[0]] * 5, batch_sizes=())
    headings = [heading for heading, _, _ in RUN_COST.list_calls(many)]
    assert headings == [f"Call {number} of 5" for number in (3, 4, 5)]
    assert MAX_SHOWN_CALLS == 3
    assert "Batch sizes" not in "\n".join(RUN_COST.to_markdown(many, evidence))


@pytest.mark.parametrize(
    "stored",
    [None, {}, 3, [None], ["x"], [{"seconds": "3", "plan": 4, "expected_passes": [1]}], [{"seconds": True}]],
)
def test_what_cannot_be_read_is_unknown(stored):
    assert set(read_call_costs(stored)) <= {CallCost()}


def test_numbers_that_are_none_are_unknown():
    call = CallCost.from_json({"passes": float("nan"), "seconds": -1, "expected_seconds": [1, float("inf")]})
    assert call == CallCost()
    assert read_batch_sizes({"a": 0, "b": "8", "c": True, "d": 8}, None, {"d": -1})[0].reduced_to is None
    assert [row.model for row in read_batch_sizes({"a": 0, "b": "8", "c": True, "d": 8}, None, 5)] == ["d"]
    assert read_batch_sizes([], [], []) == ()
