"""The report and the comparison in a browser, looked through by axe: light, dark, narrow, wide, hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from accessibility import list_violations
from browser import BROWSER_PATH
from sample_run import HOSTILE_CLASS_NAMES, HOSTILE_MODELS, SampleRun, build_run

from robustbench_local.reports import write_report
from robustbench_local.reports.comparison_files import read_comparison, write_comparison

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = [
    pytest.mark.extra,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium: apt-get install chromium"),
]
GATES = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},)
WRONG_CUES = """() => [...document.querySelectorAll(".scroll")].filter(table =>
    (getComputedStyle(table, "::before").maxHeight !== "0px") !== (table.scrollWidth > table.clientWidth)
).map(table => table.ariaLabel)"""
"""Tables that say that they scroll and do not, or do and do not say so."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, blank_figures):
    """The shipped report, a report of hostile names, and a comparison of two such runs."""
    folder = tmp_path_factory.mktemp("axe")
    hostile = SampleRun(models=HOSTILE_MODELS[:2], class_names=HOSTILE_CLASS_NAMES, images=16, gates=GATES)
    run = build_run(folder / "hostile", hostile)
    compared = read_comparison([run, run], {HOSTILE_MODELS[0]: HOSTILE_MODELS[1]}, max_pictures=4)
    shipped = Path(__file__).parents[2] / "reports" / "signs" / "report.html"
    (written,) = write_comparison(compared, folder / "compared.html")
    return [shipped, write_report(run), written]


def test_axe_finds_nothing(pages):
    with playwright.sync_playwright() as opened:
        chromium = opened.chromium.launch(executable_path=BROWSER_PATH, args=["--no-sandbox"])
        for path, width, scheme in zip(pages, (390, 1400, 390), ("dark", "light", "light"), strict=True):
            page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(path.as_uri())
            assert list_violations(page) == [], (path, width, scheme)
            assert page.evaluate(WRONG_CUES) == [], (path, width)
            page.close()
        chromium.close()
