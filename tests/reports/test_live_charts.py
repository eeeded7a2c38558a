"""Interactive charts: asked for, inside the page, safe against every name, with the data of the drawings."""

from __future__ import annotations

import builtins
import json
import re

import pytest
from accessibility import list_violations
from browser import BROWSER_PATH
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.accuracy_trade_off import build_trade_offs
from robustbench_local.reports.analysis.robustness_curves import build_curve_panels
from robustbench_local.reports.page import charts, hash_source, live_charts, render
from robustbench_local.reports.page.chart_specs import build_panel_spec, build_trade_off_spec
from robustbench_local.reports.page.live_charts import build_live_charts, encode_script_data

HOSTILE = "</script><script>alert(1)</script><!--"


@pytest.fixture
def live_page(content, monkeypatch):
    """The page with the data of its charts, and a script that does nothing."""
    monkeypatch.setattr(live_charts, "load_chart_script", lambda: "'<h2>script</h2>'")
    return render(content, build_live_charts(content.evidence))


def test_a_page_without_the_option_has_no_script(content, sample):
    assert "<script" not in sample.html
    assert "contains no script" in sample.html
    assert render(content) == sample.html


def test_the_policy_allows_just_this_script_and_nothing_changes_it(live_page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', live_page)[1]
    script = re.search(r'<script type="module">(.*?)</script>', live_page, re.DOTALL)[1]
    assert script == "'<h2>script</h2>'"
    assert f"script-src '{hash_source(script)}'" in policy.replace("&#39;", "'")
    assert "unsafe" not in policy
    assert live_page.count("<script") == 2
    assert "University of Washington Interactive Data Lab" in live_page
    assert "contains one script" in live_page


def test_every_drawing_has_its_data_and_every_drawing_stays(live_page):
    specs = json.loads(re.search(r'id="chart-data">(.*?)</script>', live_page, re.DOTALL)[1])
    figures = re.findall(r'<figure[^>]* data-chart="([^"]+)">(.*?)</figure>', live_page, re.DOTALL)
    assert {key for key, _ in figures} == set(specs)
    assert len(figures) == len(specs) > 3
    assert all("<svg" in drawing for _, drawing in figures)


def test_the_data_are_those_of_the_drawings(content):
    styles = charts.assign_styles(content.evidence)
    (panel, *_) = build_curve_panels(content.evidence)
    spec, palette = build_panel_spec(panel, styles).values()
    rows = spec["data"]["values"]
    assert [row["id"] for row in rows] == list(range(len(rows)))
    for curve in panel.curves:
        values = [row["value"] for row in rows if row["model"] == str(curve.subject)]
        assert values == [100 * share.value for _, share in curve.points]
    assert palette == [styles[curve.subject] for curve in panel.curves]
    (trade_off, *_) = build_trade_offs(content.evidence)
    spec, palette = build_trade_off_spec(trade_off, styles).values()
    assert [row["robust"] for row in spec["data"]["values"]] == [
        100 * point.robust_accuracy.value for point in trade_off.points
    ]
    bind = next(param["bind"] for param in spec["params"] if param["name"] == "model")
    assert bind["labels"] == ["all models", *(str(point.subject) for point in trade_off.points)]
    assert len(palette) == len(trade_off.points)


def test_nothing_ends_the_element_of_the_data():
    data = {HOSTILE: [HOSTILE, "\u2028\u2029"]}
    text = encode_script_data(data)
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == data


def test_without_the_extra_nothing_is_written(sample, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "vl_convert":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    live_charts.load_chart_script.cache_clear()
    with pytest.raises(ConfigError, match=r"^--interactive: .*pip install '\.\[charts\]'"):
        write_report(sample.run_dir, tmp_path / "page.html", interactive=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
@pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_draws_them_and_says_no_word_of_complaint(tmp_path):
    pytest.importorskip("vl_convert", reason="needs the extra charts")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    live_charts.load_chart_script.cache_clear()
    sample = SampleRun(models=("plain", HOSTILE), images=48, failing_cell=None)
    page = write_report(build_run(tmp_path / "run", sample), interactive=True)
    assert page.stat().st_size < 10_000_000
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=BROWSER_PATH, args=["--no-sandbox"])
        tab, complaints = browser.new_page(viewport={"width": 390, "height": 900}), []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda one: complaints.append(one.url) if one.url.startswith("http") else None)
        tab.goto(page.as_uri())
        for figure in tab.locator("figure[data-chart]:visible").all():
            figure.scroll_into_view_if_needed()
            playwright.expect(figure.locator(".plot svg")).to_be_visible(timeout=60_000)
            playwright.expect(figure.locator("> svg")).to_be_hidden()
            figure.locator(".plot").focus()
            tab.keyboard.press("ArrowLeft")
            playwright.expect(figure.locator(".reading")).to_contain_text(HOSTILE)
            figure.locator("select").select_option(label=HOSTILE)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.emulate_media(color_scheme="dark")
        assert list_violations(tab) == []
        tab.emulate_media(media="print")
        playwright.expect(tab.locator("figure[data-chart] > svg").first).to_be_visible()
        browser.close()
    assert complaints == []


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.skipif(BROWSER_PATH is None, reason="needs chromium: apt-get install chromium")
def test_filters_hide_rows_and_tiles_without_a_script(sample):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=BROWSER_PATH, args=["--no-sandbox"])
        tab = browser.new_context(java_script_enabled=False).new_page()
        tab.goto(sample.page_path.as_uri() + "#image-4")
        rows, tiles = tab.locator(".example-row"), tab.locator(".tile")
        playwright.expect(tab.locator("#image-4 img").first).to_be_visible()  # the link has unfolded it
        count = tiles.filter(visible=True).count()
        tab.locator(".filters").get_by_label("Model", exact=True).focus()
        tab.keyboard.press("ArrowDown")
        shown = [one.get_attribute("class").split() for one in tiles.filter(visible=True).all()]
        assert 0 < len(shown) < count
        assert all("m0" in names for names in shown)
        tab.locator(".filters").get_by_label("Image", exact=True).select_option(index=2)
        assert rows.filter(visible=True).count() == 1
        assert "i2" in rows.filter(visible=True).first.get_attribute("class").split()
        browser.close()
