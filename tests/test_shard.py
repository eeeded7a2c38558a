"""Which shard an option and the environment ask for; what is ambiguous or contradicts itself is refused."""

from __future__ import annotations

import pytest

from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.options import Options
from robustbench_local.shard import MAX_SHARDS, Shard, resolve_shard


def make_array(number, first, last, count, step=None):
    """The variables of a task of a SLURM array."""
    step = {} if step is None else {"SLURM_ARRAY_TASK_STEP": str(step)}
    return {
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(last),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        **step,
    }


def make_task(number, count=None):
    """A task whose array has no other variables."""
    return {"SLURM_ARRAY_TASK_ID": str(number)} | ({"SLURM_ARRAY_TASK_COUNT": str(count)} if count else {})


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("2/8", {}, "2/8"),
        (" 08 / 8 ", {}, "8/8"),
        (f"1/{MAX_SHARDS}", {}, f"1/{MAX_SHARDS}"),
        ("auto", make_array(0, 0, 7, 8, 1), "1/8"),
        ("auto", make_array(7, 0, 7, 8), "8/8"),
        ("auto/8", make_array(1, 1, 8, 8, 1), "1/8"),
        ("auto", make_array(8, 1, 8, 8, 1), "8/8"),
        ("auto", make_array(14, 10, 20, 6, 2), "3/6"),
        ("auto", make_array(14, 10, 20, 6), "3/6"),
        ("auto", make_array(5, 5, 5, 1, 1), "1/1"),
        ("auto/8", make_task(0), "1/8"),
        ("auto", make_task(8, 8), "8/8"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "0"}, "1/3"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "2"}, "3/3"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "2", **make_array(3, 1, 8, 8)}, "3/8"),
        ("3/8", {"JOB_COMPLETION_INDEX": "2", **make_array(3, 1, 8, 8)}, "3/8"),
        ("1/2", make_array(3, 1, 8, 8), "1/2"),  # an array of something else
        ("auto", {"JOB_COMPLETION_INDEX": "", **make_array(0, 0, 1, 2)}, "1/2"),
    ],
)
def test_a_shard_is_found(text, variables, expected):
    assert str(resolve_shard(text, variables)) == expected


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("2", {}, "'2' is no shard"),
        ("2/8/1", {}, "is no shard"),
        ("-1/8", {}, "is no shard"),
        ("٢/8", {}, "is no shard"),
        ("auto/x", {}, "is no shard"),
        ("AUTO", {}, "is no shard"),
        ("0/8", {}, "there is no shard 0 of 8.*numbered from 1/8 to 8/8"),
        ("9/8", {}, "there is no shard 9 of 8"),
        ("1/0", {}, "0 shards are asked for"),
        (f"1/{MAX_SHARDS + 1}", {}, "100,001 shards are asked for"),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "not of how many. Give auto/N"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "3"}, "beyond the 3 shards"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "-1"}, "no whole number"),
        ("auto", make_task(3), "SLURM_ARRAY_TASK_COUNT is not"),
        ("auto/8", make_task(3), "counts from 0 or from 1"),
        ("auto/4", make_array(3, 1, 8, 8, 1), "the option says 4 shards, and SLURM_ARRAY_TASK_COUNT is 8"),
        ("auto", make_array(3, 1, 7, 3, 1), "not evenly spaced"),
        ("auto", make_array(3, 1, 8, 3), "not evenly spaced"),
        ("auto", make_array(9, 1, 8, 8, 1), "is none of the 8 ids from 1 in steps of 1"),
        ("auto", make_array(11, 10, 20, 6, 2), "is none of the 6 ids from 10 in steps of 2"),
        ("2/8", make_array(3, 1, 8, 8), "names shard 2 of 8, and SLURM_ARRAY_TASK_ID=3 is shard 3 of 8"),
        ("2/8", {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2 is shard 3 of 8. Give auto/8"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "3", **make_array(3, 1, 8, 8)}, "stands for shard 3 of 8, JOB"),
    ],
)
def test_what_is_no_shard_or_contradicts_itself_is_refused_in_one_line(text, variables, message):
    with pytest.raises(ConfigError, match=message) as refused:
        resolve_shard(text, variables)
    assert "\n" not in str(refused.value)


def test_options_know_their_shard(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert Options(shard="auto/4").shard == "3/4"
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    assert Options(shard="1/1").shard is None
    assert Shard(2, 1024).title == "shard 2 of 1,024"
    with pytest.raises(ConfigError, match="evaluate has no option 'shard'"):
        Options(shard="1/2").check_applicable("evaluate")
