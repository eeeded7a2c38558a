"""Mutants of the harness: ``python -m tests.mutants --harness``.

Each mutant has to fail one of the tests that run its line. pytest and the package are imported and the tests
collected once; a mutant is a fork, in which the function that is there already gets the changed code.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import pkgutil
import re
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType

import pytest
import yaml
from code_mutations import CodeMutant, list_mutants
from coverage_map import TestCoverage, map_tests, run_items
from forked_call import run_forked

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "robustbench_local" / "evaluation" / "harness"
EXPLAINED = Path(__file__).parent / "explained_survivors.yaml"
TESTS = (
    "tests/evaluation/harness",
    "tests/evaluation/isolation",
    "tests/evaluation/test_verify_limits.py",
    "tests/evaluation/test_viewing_limits.py",
    "tests/evaluation/test_lost_workers.py",
    "tests/evaluation/planning/test_goal.py",
    "tests/evaluation/planning/test_certificate_cells.py",
    "tests/evaluation/execution/test_proof_reuse.py",
)
"""The tests that have to notice a mutant."""
MIN_TIMEOUT_SECONDS, TIMEOUT_FACTOR = 30.0, 10.0
"""A mutant hangs if its tests take this many times as long as without it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the mutants of the harness."""
    parser.add_argument("--harness", action="store_true", help="mutants of the harness instead of constants")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keeps what is done, so that the same command goes on"
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="the tests to try")
    parser.add_argument(
        "--budget",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="of tests for each mutant, the quickest first",
    )
    parser.add_argument("--marks", default="not gpu", help="those with these marks, as for pytest -m")


def try_harness_mutants(chosen: argparse.Namespace, number: int, of: int) -> int:
    """Try mutants of the harness; 0 if each was noticed or its survival is explained."""
    everything = [mutant for file in sorted(FOLDER.glob("*.py")) for mutant in list_mutants(file)]
    explained = read_explained()
    mutants = [mutant for mutant in everything if re.search(chosen.only, mutant.name)][number - 1 :: of]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        folder = chosen.work or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        run = _HarnessRun(mutants, folder, chosen.budget)
        os.chdir(ROOT)
        options = ["-q", "-s", "-p", "no:cacheprovider", "-m", chosen.marks]
        code = pytest.main([*options, *chosen.tests], plugins=[run])
    if len(run.results) < len(mutants):
        print(f"ended before the last mutant: pytest's exit code is {int(code)}")
        return 1
    stale = sorted(set(explained) - {mutant.name for mutant in everything})
    stale += [name for name, outcome in run.results.items() if outcome == "killed" and name in explained]
    print("\n".join(format_report(run.results, explained, stale, run.failed_before)))
    print(f"{len(mutants)} mutants in {time.monotonic() - started:.0f} s")
    return int(bool(stale) or any(_is_unexplained(*one, explained) for one in run.results.items()))


def read_explained(file: Path = EXPLAINED) -> dict[str, str]:
    """Read the reasons of the mutants that no test can notice, or that need not be.

    Raises:
        ValueError: If a mutant is explained twice.
    """
    reasons: dict[str, str] = {}
    for entry in yaml.safe_load(file.read_text("utf-8")):
        for name in entry["mutants"]:
            if name in reasons:
                raise ValueError(f"{name} is explained twice")
            reasons[name] = entry["reason"]
    return reasons


def format_report(
    results: Mapping[str, str], explained: Mapping[str, str], stale: Sequence[str], failed: Sequence[str]
) -> list[str]:
    """Format the survivors and the share that was noticed, not counting those that are explained."""
    lines = [
        f"{outcome}: {name}" for name, outcome in results.items() if _is_unexplained(name, outcome, explained)
    ]
    lines += [f"explained, but noticed or gone: {name}" for name in stale]
    lines += [f"fails or is skipped without any change: {name}" for name in failed]
    counts = Counter(outcome for name, outcome in results.items() if name not in explained)
    noticed, of = counts["killed"] + counts["timeout"], sum(counts.values())
    share = f", {100 * noticed / of:.1f}%" if of else ""
    lines.append(f"{noticed} of {of} noticed{share} ({counts['timeout']} by a time limit)")
    lines[-1] += f"; {counts['survived']} survived, {counts['no coverage']} in lines that no test runs"
    lines[-1] += f"; {len(results) - of} more are explained"
    return lines


def _is_unexplained(name: str, outcome: str, explained: Mapping[str, str]) -> bool:
    return outcome in {"survived", "no coverage"} and name not in explained


class _HarnessRun:
    """A plugin of pytest that tries mutants in place of the collected tests.

    Args:
        mutants: The mutants.
        folder: Keeps the map of the tests, and what became of each mutant: what is there is not done again.
        budget_seconds: Of the tests that are tried for a mutant.
    """

    def __init__(self, mutants: Sequence[CodeMutant], folder: Path, budget_seconds: float) -> None:
        self.mutants, self.folder, self.budget_seconds = mutants, folder, budget_seconds
        self.results: dict[str, str] = {}
        """Killed, timeout, survived or no coverage, by the name of the mutant."""
        self.failed_before: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Map the tests to lines, then try each mutant."""
        _import_package()
        functions = _find_functions()
        coverage = map_tests(session, FOLDER, self.folder / "map.json")
        self.failed_before = [name for name, test in coverage.items() if not test.passed]
        known = self._read_known()
        killers: dict[str, str] = {}  # by function: what noticed one mutant often notices the next
        with (self.folder / "mutants.txt").open("a", encoding="utf-8", buffering=1) as done:
            for mutant in self.mutants:
                outcome = known.get(mutant.name)
                if outcome is None:
                    items = self._choose_items(session, mutant, coverage, killers.get(mutant.function, ""))
                    outcome, killer = _try_mutant(session, mutant, items, functions)
                    killers[mutant.function] = killer or killers.get(mutant.function, "")
                    done.write(f"{outcome}\t{mutant.name}\t{killer}\n")
                self.results[mutant.name] = outcome
        return True

    def _choose_items(
        self, session: pytest.Session, mutant: CodeMutant, coverage: Mapping[str, TestCoverage], likely: str
    ) -> list[tuple[pytest.Item, float]]:
        """Choose tests of a mutant's line, with their seconds: the likely one, then the quickest files."""
        place = (mutant.file, mutant.line)
        items = [item for item in session.items if _runs_line(coverage[item.nodeid], place)]
        by_file: dict[Path, float] = defaultdict(float)
        for item in items:
            by_file[item.path] += coverage[item.nodeid].seconds

        def rate(item: pytest.Item) -> tuple[bool, float, str, float]:
            return item.nodeid != likely, by_file[item.path], str(item.path), coverage[item.nodeid].seconds

        chosen: list[tuple[pytest.Item, float]] = []
        spent = 0.0
        for item in sorted(items, key=rate):
            seconds = coverage[item.nodeid].seconds
            if not chosen or spent + seconds <= self.budget_seconds:
                spent += seconds
                chosen.append((item, seconds))
        return chosen

    def _read_known(self) -> dict[str, str]:
        """Read what became of mutants; those that survived are tried again, for the tests may be new."""
        file = self.folder / "mutants.txt"
        rows = [line.split("\t") for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
        return {name: outcome for outcome, name, _ in rows if outcome in {"killed", "timeout"}}


def _import_package() -> None:
    """Import what tests import as they run, once instead of in each fork."""
    import robustbench_local  # not above: mutants of constants import a changed copy

    for module in pkgutil.walk_packages(robustbench_local.__path__, "robustbench_local."):
        if not module.name.endswith("__main__"):
            # libraries that are not installed, or warn of each other
            with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
                importlib.import_module(module.name)


def _try_mutant(
    session: pytest.Session,
    mutant: CodeMutant,
    items: Sequence[tuple[pytest.Item, float]],
    functions: Mapping[tuple[str, str], Sequence[FunctionType]],
) -> tuple[str, str]:
    """Run tests, each with its usual seconds; return what became of the mutant, and the test that failed."""
    if not items:
        return "no coverage", ""
    with tempfile.NamedTemporaryFile(prefix="mutants-") as killer:

        def run_tests() -> int:
            path = str(FOLDER / mutant.file)
            code = mutant.compile_function(path)
            for function in functions[path, mutant.function]:
                function.__code__ = code
            session.config.pluginmanager.register(_KillerReport(Path(killer.name)))
            return run_items(session, [item for item, _ in items], until_failure=True)

        usual = sum(seconds for _, seconds in items)
        code = run_forked(run_tests, max(MIN_TIMEOUT_SECONDS, TIMEOUT_FACTOR * usual))
        name = Path(killer.name).read_text("utf-8")
    if code is None:
        return "timeout", ""
    return "killed" if code else "survived", name


class _KillerReport:
    """Writes the id of the test that fails first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.file.write_text(report.nodeid, "utf-8")


def _runs_line(test: TestCoverage, place: tuple[str, int]) -> bool:
    return test.passed and any(tuple(line) == place for line in test.lines)


def _find_functions() -> dict[tuple[str, str], list[FunctionType]]:
    """Find the functions of the harness, by file and qualified name."""
    files = {str(file) for file in FOLDER.glob("*.py")}
    found = defaultdict(list)
    gc.unfreeze()  # the tests' conftest freezes what is imported, which hides it
    for thing in gc.get_objects():
        # isinstance would ask lazy objects for their class
        if type(thing) is FunctionType and thing.__code__.co_filename in files:
            found[thing.__code__.co_filename, thing.__qualname__].append(thing)
    gc.freeze()
    return found
