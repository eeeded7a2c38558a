"""The mutants of the harness: what is changed, that a change is noticed or not, and what is said of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest
from code_mutations import list_mutants
from forked_call import CRASHED, run_forked
from harness_run import FOLDER, ROOT, format_report, read_explained

SOURCE = '''
def count_large(values, limit=3, *, where="here"):
    """Count the values that are at least the limit."""
    total = 0
    for value in values:
        if value >= limit and not value == 99:
            total += 1
    if total < 0:
        raise ValueError(f"{total} is below 0")
    return total
'''


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(textwrap.dedent(SOURCE))
    return file


def test_each_mutant_is_one_change_and_none_is_of_text_or_defaults(module):
    names = [mutant.name.removeprefix("module.py count_large: ") for mutant in list_mutants(module)]
    assert len(set(names)) == len(names)
    assert {
        "value >= limit and (not value == 99) -> value > limit and (not value == 99)",
        "value >= limit and (not value == 99) -> value < limit and (not value == 99)",
        "value >= limit and (not value == 99) -> value >= limit or not value == 99",
        "value >= limit and (not value == 99) -> value >= limit",
        "value >= limit and (not value == 99) -> not value == 99",
        "value >= limit and (not value == 99) -> value >= limit and value == 99",
        "not value == 99 -> not value != 99",
        "value == 99 -> value == 100",
        "value == 99 -> value == 98",
        "total += 1 -> (deleted)",
        "total += 1 -> total -= 1",
        "total < 0 -> total <= 0",
        "if total < 0: -> if True:",
        "raise ValueError(f'{total} is below 0') -> (deleted)",
        "return total -> return None",
    } <= set(names)
    assert not any("Count" in name or "here" in name or "= 3" in name for name in names)


def run_code(code):
    space = {}
    exec("def count_large(values, limit=3, *, where='here'): pass", space)
    space["count_large"].__code__ = code
    return space["count_large"]


def test_the_changed_code_does_what_the_name_says_and_the_tree_stays_as_it_is(module):
    mutants = {mutant.name.split(": ", 1)[1]: mutant for mutant in list_mutants(module)}
    values = [1, 3, 5, 99]
    for name, total in (
        ("total += 1 -> total -= 1", -2),
        ("value >= limit and (not value == 99) -> value > limit and (not value == 99)", 1),
        ("value >= limit and (not value == 99) -> value >= limit", 3),
        ("return total -> return None", None),
    ):
        if total == -2:
            with pytest.raises(ValueError, match="-2 is below 0"):
                run_code(mutants[name].compile_function(str(module)))(values)
        else:
            assert run_code(mutants[name].compile_function(str(module)))(values) == total
    assert [mutant.name for mutant in list_mutants(module)] == [mutant.name for mutant in mutants.values()]


def test_a_fork_tells_its_code_its_signal_and_its_hang():
    started = time.monotonic()
    assert run_forked(lambda: 3) == 3
    assert run_forked(lambda: 1 // 0) == CRASHED
    assert run_forked(lambda: signal.raise_signal(signal.SIGTERM) or 0) == -signal.SIGTERM
    assert run_forked(lambda: time.sleep(60) or 0, timeout=0.2) is None
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_the_explained_survivors_are_mutants_of_today_with_a_reason():
    names = {mutant.name for file in FOLDER.glob("*.py") for mutant in list_mutants(file)}
    explained = read_explained()
    assert set(explained) <= names
    assert all(len(reason) > 20 for reason in explained.values())


def test_a_mutant_is_explained_once(tmp_path):
    file = tmp_path / "explained.yaml"
    file.write_text("[{reason: one, mutants: [a]}, {reason: two, mutants: [a]}]")
    with pytest.raises(ValueError, match="a is explained twice"):
        read_explained(file)


def test_the_report_leaves_explained_survivors_out_of_the_share_and_names_stale_ones():
    results = {"a": "killed", "b": "timeout", "c": "survived", "d": "survived", "e": "no coverage"}
    *lines, summary = format_report(results, {"d": "equal"}, ["z"], ["broken test"])
    assert lines == [
        "survived: c",
        "no coverage: e",
        "explained, but noticed or gone: z",
        "fails or is skipped without any change: broken test",
    ]
    assert summary.startswith(
        "2 of 4 noticed, 50.0% (1 by a time limit); 1 survived, 1 in lines that no test "
    )
    assert summary.endswith("; 1 more are explained")
    assert format_report({}, {}, [], [])[-1].startswith("0 of 0 noticed (0 by a time limit)")


@pytest.mark.slow
def test_the_command_changes_the_harness_and_sees_its_tests_fail(tmp_path):
    """Few mutants, on one file of tests; the second time, what is known is not done again."""
    call = f"{sys.executable} -m tests.mutants --harness --work {tmp_path}".split()
    call += [
        "--only",
        r"^job.py split_positions: range\(0",
        "--tests",
        "tests/evaluation/harness/test_jobs.py",
    ]
    for _ in range(2):
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "noticed, 100.0%" in done.stdout
    known = (tmp_path / "mutants.txt").read_text("utf-8").splitlines()
    assert len(known) > 2
    assert all(line.startswith("killed\t") and "test_jobs.py::" in line for line in known)
