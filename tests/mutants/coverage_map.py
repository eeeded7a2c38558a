"""Which tests run which lines of the harness, in this process and in those that it starts."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from forked_call import run_forked


@dataclass(frozen=True)
class TestCoverage:
    """What a test runs, without any change."""

    __test__ = False

    seconds: float
    passed: bool
    lines: list[tuple[str, int]]
    """Files and line numbers."""


def map_tests(session: pytest.Session, folder: Path, stored: Path) -> dict[str, TestCoverage]:
    """Run each collected test once, the tests of each file in a fork.

    Args:
        session: The session of pytest; its tests are collected.
        folder: The source files whose lines are mapped.
        stored: A file with what was mapped before, of which is used what did not change; it grows by files.

    Returns:
        The coverage by the id of the test.
    """
    sources = _compute_digest(*sorted(folder.glob("*.py")))
    coverage: dict[str, TestCoverage] = {}
    for path in dict.fromkeys(item.path for item in session.items):
        items = [item for item in session.items if item.path == path]
        digest = _compute_digest(path)
        entry = _read_map(stored, sources).get(str(path), {"digest": "", "tests": {}})
        if entry["digest"] != digest or any(item.nodeid not in entry["tests"] for item in items):
            traced = _trace_in_fork(session, items, folder)
            entry = {"digest": digest, "tests": {name: asdict(test) for name, test in traced.items()}}
            files = _read_map(stored, sources) | {str(path): entry}
            part = stored.with_name(f"{stored.name}.{os.getpid()}")
            part.write_text(json.dumps({sources: files}), "utf-8")
            part.replace(stored)
        coverage |= {item.nodeid: TestCoverage(**entry["tests"][item.nodeid]) for item in items}
    return coverage


def _read_map(stored: Path, sources: str) -> dict[str, Any]:
    """Read what was mapped of these sources."""
    return json.loads(stored.read_text("utf-8")).get(sources, {}) if stored.is_file() else {}


def run_items(session: pytest.Session, items: Sequence[pytest.Item], *, until_failure: bool) -> int:
    """Run tests as pytest does; return 1 if one failed."""
    session.items = list(items)
    for index, item in enumerate(items):
        following = items[index + 1] if index + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed and until_failure:
            break
    return int(session.testsfailed > 0)


def _compute_digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _trace_in_fork(
    session: pytest.Session, items: Sequence[pytest.Item], folder: Path
) -> dict[str, TestCoverage]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        lines, report = Path(made) / "lines", Path(made) / "report.json"

        def trace_items() -> int:
            recorder = _TestRecorder(_LineTracer(folder, lines))
            session.config.pluginmanager.register(recorder)
            run_items(session, items, until_failure=False)
            report.write_text(json.dumps(recorder.results), "utf-8")
            return 0

        if run_forked(trace_items) != 0:
            raise RuntimeError("the tests could not be run as they are: run them with pytest and mend them")
        results = json.loads(report.read_text("utf-8"))
        by_context: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for row in lines.read_text("utf-8").splitlines():
            context, file, line = row.rsplit("\t", 2)
            by_context[context].add((file, int(line)))
    coverage = {}
    for item in items:
        contexts = (item.nodeid, *_list_shared_fixtures(item))
        covered = sorted(set().union(*(by_context.get(context, set()) for context in contexts)))
        seconds, passed = results.get(item.nodeid, (0.0, False))
        coverage[item.nodeid] = TestCoverage(seconds, passed, covered)
    return coverage


class _TestRecorder:
    """Notes the seconds and the success of each test, and tells the tracer whose lines run."""

    def __init__(self, tracer: _LineTracer) -> None:
        self.tracer = tracer
        self.results: dict[str, tuple[float, bool]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        with self.tracer.use_context(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        with self.tracer.use_context(_name_fixture(fixturedef)):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds, passed = self.results.get(report.nodeid, (0.0, True))
        self.results[report.nodeid] = (seconds + report.duration, passed and report.passed)


class _LineTracer:
    """Writes each line of a folder's files that runs, once for each context and process."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.files = {str(file): file.name for file in folder.glob("*.py")}
        self.context = ""
        self.seen: set[tuple[str, int]] = set()
        os.register_at_fork(after_in_child=self.start)

    def start(self) -> None:
        """Trace this thread, and those that it starts."""
        threading.settrace(self.trace_call)
        sys.settrace(self.trace_call)

    @contextmanager
    def use_context(self, name: str) -> Iterator[None]:
        """Attribute lines to a test or to a fixture."""
        before = self.context, self.seen
        self.context, self.seen = name, set()
        self.start()
        try:
            yield
        finally:
            self.context, self.seen = before
            self.start()

    def trace_call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """Trace the functions of the folder alone."""
        return self.trace_line if frame.f_code.co_filename in self.files else None

    def trace_line(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """Write a line that this context has not run yet."""
        place = self.files[frame.f_code.co_filename], frame.f_lineno
        if place not in self.seen:
            self.seen.add(place)
            os.write(self.handle, f"{self.context}\t{place[0]}\t{place[1]}\n".encode())
        return self.trace_line


def _list_shared_fixtures(item: pytest.Item) -> list[str]:
    """Name the fixtures of a test that other tests share: their lines are those of each."""
    groups = item._fixtureinfo.name2fixturedefs.values()
    return [_name_fixture(each) for group in groups for each in group if each.scope != "function"]


def _name_fixture(fixturedef: Any) -> str:
    return f"fixture {fixturedef.baseid} {fixturedef.argname}"
