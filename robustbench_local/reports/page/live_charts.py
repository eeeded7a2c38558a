"""The script of an interactive page: the library that draws its charts, our own code, and their data."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import NamedTuple

from robustbench_local.errors import ConfigError, format_install_command
from robustbench_local.reports.analysis.accuracy_trade_off import build_trade_offs
from robustbench_local.reports.analysis.certified_accuracy import build_certified_groups
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.robustness_curves import build_curve_panels
from robustbench_local.reports.page.chart_specs import build_panel_spec, build_trade_off_spec
from robustbench_local.reports.page.charts import assign_styles, build_chart
from robustbench_local.reports.page.trade_off_chart import build_trade_off_chart


class LiveCharts(NamedTuple):
    """What a page with interactive charts has besides the others."""

    script: str
    """The library, and the code that draws the charts."""
    data: str
    """The specifications by the keys of the charts, as JSON that is safe inside a script element."""
    licenses: str
    """Copyright notices of the library."""


def build_live_charts(evidence: Evidence) -> LiveCharts:
    """Build the scripts of an interactive page.

    Raises:
        ConfigError: If the extra ``charts`` is not installed.
    """
    styles = assign_styles(evidence)
    panels = [*build_curve_panels(evidence)]
    panels += [panel for group in build_certified_groups(evidence) for panel in group.panels]
    specs = {build_chart(panel, styles).key: build_panel_spec(panel, styles) for panel in panels}
    for trade_off in build_trade_offs(evidence):
        specs[build_trade_off_chart(trade_off, styles).key] = build_trade_off_spec(trade_off, styles)
    return LiveCharts(
        script=load_chart_script(), data=encode_script_data(specs), licenses=_read("chart_licenses.txt")
    )


@cache
def load_chart_script() -> str:
    """Load Vega-Lite with the code that draws our charts, as one module script; it takes some seconds.

    Raises:
        ConfigError: If the extra ``charts`` is not installed.
    """
    try:
        import vl_convert  # noqa: PLC0415 - it is an extra, and large
    except ImportError as error:
        raise ConfigError(
            "interactive charts need Vega-Lite, which is not installed",
            where="--interactive",
            remedy=f"run {format_install_command('charts')}, or leave the option out",
        ) from error
    script: str = vl_convert.javascript_bundle(_read("live_charts.js"))
    return script


def encode_script_data(data: object) -> str:
    """Encode JSON for a script element: nothing in it can end the element, or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
