"""The page in a real browser: no width scrolls sideways and no column is squeezed, whatever the names."""

from __future__ import annotations

import pytest
from browser import BROWSER, measure_page
from sample_beyond import BEYOND
from sample_run import Sample, build
from sample_stickers import build_stickers
from test_long_names import LONG

from robustbench_local.reports import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or Chrome, and none is installed here"),
]
MAX_HEIGHT_PIXELS = 45_000
"""Of a page whose every name is long, on a telephone; 200 characters a line each would be far more."""


@pytest.mark.parametrize("kind", ["plain", "long", "beyond", "stickers"])
def test_nothing_sticks_out_and_nothing_is_squeezed(tmp_path, kind):
    samples = {"plain": Sample(), "long": LONG, "beyond": BEYOND}
    run = build_stickers(tmp_path / "run") if kind == "stickers" else build(tmp_path / "run", samples[kind])
    for found in measure_page(write_report(run)):
        assert found["page"] <= found["width"], found
        assert found["out"] == [], found
        assert found["thin"] == [], found
        assert found["height"] < MAX_HEIGHT_PIXELS, found
