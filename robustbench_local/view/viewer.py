"""The work behind the pages: the catalog of runs, and those that are open at the moment."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.errors import ConfigError, DamagedError
from robustbench_local.reports.comparison_files import read_comparison
from robustbench_local.reports.page import render
from robustbench_local.reports.page.comparison_page import render_comparison_page
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.run_data import DataImages
from robustbench_local.store import RunStore
from robustbench_local.view.run_catalog import ListedRun, RunCatalog, Stamp, read_stamp
from robustbench_local.view.run_images import RunImages

MAX_OPEN_RUNS = 3
"""Runs whose outcomes are kept in memory."""
MAX_KEPT_PAGES = 4
"""Reports and comparisons that are kept in memory."""


@dataclass(frozen=True)
class OpenRun:
    """A run whose images can be shown."""

    images: RunImages
    """Its images and outcomes."""
    data: DataImages
    """The data that it was made on."""


class Viewer:
    """Opens runs when a page needs them. It is safe to use from several threads.

    Args:
        root: The folder of runs.
    """

    def __init__(self, root: Path) -> None:
        self.catalog = RunCatalog(root)
        self._open: OrderedDict[tuple[str, Stamp], OpenRun] = OrderedDict()
        self._pages: OrderedDict[tuple[object, ...], str] = OrderedDict()
        self._image_lock, self._page_lock = threading.Lock(), threading.Lock()

    @contextmanager
    def open_run(self, run: ListedRun) -> Iterator[OpenRun]:
        """Open a run for its images; it stays open until others take its place, or its files change.

        Raises:
            DamagedError: If the run is damaged.
        """
        with self._image_lock:
            key = (run.found.id, read_stamp(run.found.directory))
            if key not in self._open:
                for old in [old for old in self._open if old[0] == key[0]]:
                    self._open.pop(old).images.store.close()
                store = RunStore.open_readonly(run.found.directory, copies_log=True)
                try:
                    with convert_content_errors():
                        self._open[key] = OpenRun(RunImages(store), DataImages(store))
                except BaseException:
                    store.close()
                    raise
            self._open.move_to_end(key)
            while len(self._open) > MAX_OPEN_RUNS:
                self._open.popitem(last=False)[1].images.store.close()
            yield self._open[key]

    def render_report(self, run: ListedRun) -> str:
        """Render the report of a run.

        Raises:
            RobustbenchError: If the run cannot be read.
        """
        directory = run.found.directory
        with self._page_lock:
            key = ("report", run.found.id, read_stamp(directory))
            if key not in self._pages:
                with convert_content_errors(), RunStore.open_readonly(directory, copies_log=True) as store:
                    self._keep_page(key, render(read_report_data(store)))
            return self._pages[key]

    def render_comparison(
        self, baseline: ListedRun, run: ListedRun, *, allow_different_data: bool = False
    ) -> str:
        """Render the comparison of a run with a baseline, paired on common images.

        Raises:
            ConfigError: If they are the same run, have no model in common, or other data.
            RobustbenchError: If one cannot be read.
        """
        if baseline.found.id == run.found.id:
            raise ConfigError("a run is not compared with itself", remedy="choose another run")
        directories = [baseline.found.directory, run.found.directory]
        with self._page_lock:
            key = ("comparison", *map(read_stamp, directories), *directories, allow_different_data)
            if key not in self._pages:
                with convert_content_errors():
                    data = read_comparison(
                        directories, allow_different_data=allow_different_data, copies_log=True
                    )
                    self._keep_page(key, render_comparison_page(data))
            return self._pages[key]

    def close(self) -> None:
        """Close the runs that are open."""
        with self._image_lock:
            while self._open:
                self._open.popitem()[1].images.store.close()

    def _keep_page(self, key: tuple[object, ...], page: str) -> None:
        self._pages[key] = page
        while len(self._pages) > MAX_KEPT_PAGES:
            self._pages.popitem(last=False)


@contextmanager
def convert_content_errors() -> Iterator[None]:
    """Convert what a run of unexpected content raises inside the context.

    Raises:
        DamagedError: If something in it is missing, or of another type than this program writes.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DamagedError(f"the content of the run is not as expected ({reason})") from error
