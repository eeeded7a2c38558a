"""The page in a real browser: no width scrolls sideways and no column is squeezed, whatever the names."""

from __future__ import annotations

import pytest
from browser import BROWSER_PATH, measure_page
from sample_run import SampleRun, build_run
from sample_stickers import build_sticker_run
from sample_transfers import TRANSFER_SAMPLE
from test_long_names import LONG_NAMES_RUN

from robustbench_local.reports import write_report
from robustbench_local.reports.comparison_files import read_comparison, write_comparison

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium or Chrome, and none is installed here"),
]
MAX_HEIGHT_PIXELS = 20_000
"""Of a page as it opens, whose every name is long, on a telephone; it has 18,400 where this was written."""
MAX_UNFOLDED_HEIGHT_PIXELS = 70_000
"""Of the same page with everything unfolded; it has 67,300 where this was written."""


@pytest.mark.parametrize("kind", ["plain", "long", "beyond", "stickers"])
def test_nothing_sticks_out_and_nothing_is_squeezed(tmp_path, kind):
    samples = {"plain": SampleRun(), "long": LONG_NAMES_RUN, "beyond": TRANSFER_SAMPLE}
    run = (
        build_sticker_run(tmp_path / "run")
        if kind == "stickers"
        else build_run(tmp_path / "run", samples[kind])
    )
    for found in measure_page(write_report(run)):
        assert found["page"] <= found["width"], found
        assert found["out"] == [], found
        assert found["thin"] == [], found
        assert found["height"] < MAX_HEIGHT_PIXELS, found
        assert found["unfolded"] < MAX_UNFOLDED_HEIGHT_PIXELS, found


@pytest.mark.parametrize("kind", ["plain", "long"])
def test_a_comparison_fits_every_width(tmp_path, kind):
    run = build_run(tmp_path / ("r" * 200), SampleRun() if kind == "plain" else LONG_NAMES_RUN)
    first, *_, last = SampleRun().models if kind == "plain" else LONG_NAMES_RUN.models
    for renamed in ({first: last}, None):
        (page,) = write_comparison(read_comparison([run, run], renamed), tmp_path / "compare.html")
        for found in measure_page(page):
            assert found["page"] <= found["width"], found
            assert found["out"] == [], found
            assert found["thin"] == [], found
