"""The section of load tests on the page, in report.md and in results.json."""

from __future__ import annotations

import json

import pytest
from gate_runs import make_run
from load_records import make_load, make_load_test, make_soaked_test

from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.load_figures import describe_trend, format_load
from robustbench_local.store.load_test_file import add_load_test

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_every_form_of_the_report_has_it(tmp_path):
    run = make_run("rrrb").write_store(tmp_path / "run")
    write_report(run)
    assert "Under load" not in (run / "report.md").read_text("utf-8")
    assert json.loads((run / "results.json").read_text("utf-8"))["load_tests"] == []
    add_load_test(run, make_soaked_test())
    add_load_test(run, make_load_test("other", service="http://user:secret@h/", loads=(make_load(),)))
    write_report(run)
    markdown, page = ((run / name).read_text("utf-8") for name in ("report.md", "report.html"))
    assert (
        "| b1-c1 | 1 image, 1 client | 40 (38\N{EN DASH}42) | 20 (19\N{EN DASH}21) | 50 (45\N{EN DASH}55)"
        in markdown
    )
    assert "80 (70\N{EN DASH}\N{INFINITY}) | 400 | 3 timeout |" in markdown
    assert "memory 1,280.0 MiB before and 1,536.0 MiB after; CPU 4.0 s, 10 ms for an image" in markdown
    assert "90.0% (82.0\N{EN DASH}95.0%, n = 100)" in markdown
    assert "<b>fast</b>" not in page
    assert "&lt;b&gt;fast" in page
    assert "secret" not in markdown + page
    assert 'id="load-tests"' in page
    tests = json.loads((run / "results.json").read_text("utf-8"))["load_tests"]
    assert [one["model"] for one in tests] == ["m", "other"]
    assert tests[0]["loads"][0]["p95_ms"] == {
        "value": 50.0,
        "low": 45.0,
        "high": 55.0,
        "n": 400,
        "level": 0.95,
    }


def test_words_of_loads_and_trends():
    assert format_load(make_load("b1-r50")) == "1 image, 50 requests/s arrive"
    (trend,) = make_soaked_test().soak.trends
    assert describe_trend(trend) == (
        "memory over the second half of the soak: +2.86 MiB a minute (99% interval +1.91 to +3.81, "
        "p = 0.0002, n = 30): a trend that matters"
    )
