"""The runs of a folder with what each says about itself, kept in memory until its files change.

Nothing is written. A run whose summary is not stored, because an older version wrote it or it never ended, is
counted from its outcomes: a few small ones at once, all others one after another in the background.
"""

from __future__ import annotations

import datetime as dt
import queue
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from robustbench_local.errors import RobustbenchError
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.summary.run_summary_rows import read_summary
from robustbench_local.store import RunStore
from robustbench_local.store.lock import is_being_written
from robustbench_local.store.run_folder import DATABASE_NAME, LOAD_TEST_NAME, LOCK_NAME
from robustbench_local.store.run_listing import RunListing, read_listing
from robustbench_local.store.run_summary import RunSummary
from robustbench_local.view.run_folders import FolderScan, FoundRun, scan_folder

MAX_BYTES_AT_ONCE = 2 << 20
"""Size of the databases, together, that one request counts; others are counted in the background."""
_STAMPED_NAMES = (DATABASE_NAME, f"{DATABASE_NAME}-wal", LOAD_TEST_NAME)

Stamp = tuple[tuple[int, int] | None, ...]
"""Time of the last change in nanoseconds and size of each file of a run; None for a file that is missing."""


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run in the list."""

    found: FoundRun
    """Where it is."""
    modified: str
    """Day of the last change of its database; empty if unknown."""
    listing: RunListing | None = None
    """What was read of it; None if it cannot be read."""
    summary: RunSummary | None = None
    """Its verdict and rates; None if they are not known, or not counted yet."""
    problem: str = ""
    """Why it, or its rates, cannot be read, in one line."""
    is_running: bool = False
    """Whether a process is writing to it."""
    is_pending: bool = False
    """Whether its rates are being counted."""

    @property
    def name(self) -> str:
        """Its path below the folder of runs; for the folder itself, the folder's name."""
        path = self.found.path if self.found.path != "." else self.found.directory.resolve().name
        return str(redact_private_data(path))

    @property
    def date(self) -> str:
        """Day on which it started; of its last change if that is not known."""
        started = "" if self.listing is None else str(self.listing.environment.get("started") or "")
        return started[:10] or self.modified

    @property
    def moment(self) -> str:
        """When it started, for sorting."""
        started = "" if self.listing is None else str(self.listing.environment.get("started") or "")
        return started or self.modified

    @property
    def states(self) -> tuple[str, ...]:
        """Its verdict, and whether it is unfinished, running or unreadable."""
        if self.listing is None:
            return ("unreadable",)
        states = ["running"] if self.is_running else []
        if not self.is_running and (self.listing.unfinished_count or not self.listing.cells):
            states.append("unfinished")
        if self.summary is not None:
            states.append("no verdict" if self.summary.verdict == "none" else self.summary.verdict)
        elif self.problem:
            states.append("unreadable")
        return tuple(states)

    @property
    def data_name(self) -> str:
        """Name and split of its images."""
        data = {} if self.listing is None else self.listing.data
        return str(
            redact_private_data(" ".join(str(data.get(key) or "") for key in ("name", "split")).strip())
        )


class RunCatalog:
    """The runs of a folder.

    Args:
        root: The folder.
        delay_seconds: How long the count in the background waits for the page that began it.
    """

    def __init__(self, root: Path, *, delay_seconds: float = 0.5) -> None:
        self.root = root
        self._delay_seconds = delay_seconds
        self._read: dict[str, tuple[Stamp, ListedRun]] = {}
        self._counted: dict[tuple[str, str], RunSummary | str] = {}
        self._queued: set[tuple[str, str]] = set()
        self._waiting: queue.SimpleQueue[tuple[FoundRun, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()

    def list_runs(self) -> tuple[list[ListedRun], FolderScan]:
        """List the runs as they are now, by path, and what was not looked into."""
        scan = scan_folder(self.root)
        with self._mutex:
            budget = MAX_BYTES_AT_ONCE
            runs = []
            for found in scan.runs:
                run = self._read_run(found)
                if _needs_count(run):
                    run, budget = self._add_summary(run, budget)
                runs.append(run)
            known = {found.id for found in scan.runs}
            self._read = {key: entry for key, entry in self._read.items() if key in known}
        return runs, scan

    def find_run(self, run_id: str) -> ListedRun | None:
        """Return the run with this name in addresses, or None."""
        runs, _ = self.list_runs()
        return next((run for run in runs if run.found.id == run_id), None)

    def wait_until_counted(self) -> None:
        """Wait until no run is being counted."""
        thread = self._thread
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _read_run(self, found: FoundRun) -> ListedRun:
        """Read a run, unless its files are those that were read before."""
        stamp = read_stamp(found.directory)
        known = self._read.get(found.id)
        is_running = not found.problem and is_being_written(found.directory / LOCK_NAME)
        if known is not None and known[0] == stamp and known[1].found == found:
            return replace(known[1], is_running=is_running)
        run = ListedRun(found=found, modified=_read_day(stamp), problem=found.problem)
        if not found.problem:
            try:
                listing = read_listing(found.directory)
                run = replace(run, listing=listing, summary=listing.summary)
            except (RobustbenchError, OSError, sqlite3.Error, ValueError, TypeError) as error:
                run = replace(run, problem=describe_problem(error, found.directory))
        self._read[found.id] = (stamp, run)
        return replace(run, is_running=is_running)

    def _add_summary(self, run: ListedRun, budget: int) -> tuple[ListedRun, int]:
        """Add the summary of a run that stores none, if it is known or small enough to be counted now."""
        assert run.listing is not None  # noqa: S101 - of those that need a count
        key = (run.found.id, run.listing.fingerprint)
        if key not in self._counted:
            size = _read_size(run.found.directory)
            if size > budget or key in self._queued:
                self._queue_run(run.found, key)
                return replace(run, is_pending=True), budget
            budget -= size
            self._counted[key] = self._try_to_count(run.found)
        counted = self._counted[key]
        if isinstance(counted, str):
            return replace(run, problem=counted), budget
        return replace(run, summary=counted), budget

    def _queue_run(self, found: FoundRun, key: tuple[str, str]) -> None:
        if key not in self._queued:
            self._queued.add(key)
            self._waiting.put((found, key[1]))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._count_waiting, name="count-runs", daemon=True)
            self._thread.start()

    def _count_waiting(self) -> None:
        """Count one run after another, until None is read; the page that asked for them comes first."""
        time.sleep(self._delay_seconds)
        while (entry := self._waiting.get()) is not None:
            found, fingerprint = entry
            counted = self._try_to_count(found)
            with self._mutex:
                self._counted[found.id, fingerprint] = counted
                self._queued.discard((found.id, fingerprint))

    def _try_to_count(self, found: FoundRun) -> RunSummary | str:
        try:
            return _count_run(found.directory)
        except Exception as error:  # noqa: BLE001 - one run must not take the list with it
            return describe_problem(error, found.directory)


def read_stamp(directory: Path) -> Stamp:
    """Return the times and sizes of a run's files, which change when a run goes on."""
    stamp: list[tuple[int, int] | None] = []
    for name in _STAMPED_NAMES:
        try:
            status = (directory / name).stat(follow_symlinks=False)
        except OSError:
            stamp.append(None)
        else:
            stamp.append((status.st_mtime_ns, status.st_size))
    return tuple(stamp)


def describe_problem(error: Exception, directory: Path) -> str:
    """Describe in one line why a run cannot be read, without the path of the folder."""
    text = str(error) if isinstance(error, RobustbenchError) else f"{type(error).__name__}: {error}"
    for prefix in (str(directory.resolve()), str(directory)):
        text = text.replace(f"{prefix}/", "").replace(f"{prefix}: ", "")
    return " ".join(str(redact_private_data(text)).split())[:500]


def _count_run(directory: Path) -> RunSummary:
    with RunStore.open_readonly(directory, copies_log=True) as store:
        return read_summary(store)


def _needs_count(run: ListedRun) -> bool:
    """Return whether the rates of a run have to be counted; those of a running one change all the time."""
    return run.listing is not None and run.summary is None and not run.is_running and bool(run.listing.cells)


def _read_size(directory: Path) -> int:
    size = 0
    for name in _STAMPED_NAMES[:2]:
        with suppress(OSError):
            size += (directory / name).stat().st_size
    return size


def _read_day(stamp: Stamp) -> str:
    changed = next((entry[0] for entry in stamp if entry is not None), None)
    if changed is None:
        return ""
    with suppress(OverflowError, OSError, ValueError):
        return dt.datetime.fromtimestamp(changed / 1e9, tz=dt.UTC).date().isoformat()
    return ""
