"""The report as one HTML file without scripts or requests, with every string escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from robustbench_local.reports.analysis.distrust_reasons import describe_reasons
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.example_images import FloatImage, encode_png
from robustbench_local.reports.analysis.heatmap import HeatMapEntry
from robustbench_local.reports.analysis.method_descriptions import DRAWN_SIGNS_NOTE
from robustbench_local.reports.analysis.robustness_curves import list_drawn_models
from robustbench_local.reports.analysis.stop_targets import list_stopped_estimates
from robustbench_local.reports.analysis.trust import (
    format_mark,
    mark_model,
    select_blocks,
    select_cell_distrust,
    select_distrust,
)
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    MISSING_TEXT,
    format_budget,
    format_count,
    format_distance,
    format_duration,
    format_estimate,
    format_interval,
    format_percent,
    format_points,
    format_radius,
    format_ratio,
    format_sample,
    format_size_within,
    redact_private_data,
)
from robustbench_local.reports.page import charts
from robustbench_local.reports.page.confusion_map import build_confusion_map
from robustbench_local.reports.page.example_filters import build_filter_rules
from robustbench_local.reports.page.heading_anchors import add_heading_anchors, number_regions
from robustbench_local.reports.page.live_charts import LiveCharts
from robustbench_local.reports.page.trade_off_chart import build_trade_off_chart
from robustbench_local.reports.page.tries_chart import build_tries_charts
from robustbench_local.reports.sections.examples_section import EXAMPLES
from robustbench_local.reports.sections.report_data import ReportData
from robustbench_local.reports.sections.section import ShownSection
from robustbench_local.reports.summary import headline
from robustbench_local.reports.summary.deciding_numbers import list_deciding_worst_cases, list_other_lines
from robustbench_local.reports.summary.run_verdict import build_run_verdict

MAX_SHOWN_LINES = 3
"""Lines of one kind in the first screen that stand open; further ones are folded."""
_WORD_JOINER = "\N{WORD JOINER}"
_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def create_environment(parts: Sequence[ShownSection] = ()) -> jinja2.Environment:
    """Create the template environment with the templates of these sections.

    Escaping is forced on: ``select_autoescape`` goes by the end of a file's name, and ``.html.j2`` turns it
    off (fault F71). A name that the template misspells is an error, not an empty space.
    """
    return build_environment(tuple((part.section.template, part.section.read_template()) for part in parts))


@lru_cache(maxsize=16)
def build_environment(templates: tuple[tuple[str, str], ...]) -> jinja2.Environment:
    """Build the environment with these templates, names and texts; it compiles each of them once."""
    sections = jinja2.DictLoader(dict(templates))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("robustbench_local.reports", "page"), sections]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "budget": format_budget,
        "data_uri": encode_data_uri,
        "distance": format_distance,
        "duration": format_duration,
        "entry_text": describe_entry,
        "estimate": lambda estimate: protect_intervals(format_estimate(estimate)),
        "figure": format_figure,
        "integer": format_integer,
        "interval": lambda estimate: protect_intervals(format_interval(estimate)),
        "per_image": format_per_image,
        "percent": format_percent,
        "points": format_points,
        "position": format_position,
        "radius": format_radius,
        "ratio": format_ratio,
        "redacted": redact_private_data,
        "sample": lambda estimate: protect_intervals(format_sample(estimate)),
        "reasons": describe_reasons,
        "size": format_size,
        "size_within": format_size_within,
        "unbroken": protect_intervals,
        "with_noun": format_count,
        "yaml": format_yaml,
    }
    return environment


def render(report_data: ReportData, live: LiveCharts | None = None) -> str:
    """Render the whole page; the same data gives the same bytes.

    Args:
        report_data: Content of the report.
        live: The scripts of interactive charts; None: the page has no script.
    """
    style = read_style() + build_filter_rules(report_data.get_content(EXAMPLES))
    evidence = report_data.evidence
    parts = [part for part in report_data.list_shown_sections() if part.section.template]
    template = create_environment(parts).get_template("report.html.j2")
    verdict = build_run_verdict(evidence, report_data.gate_report)
    page = template.render(
        report_data=report_data,
        parts=parts,
        evidence=evidence,
        question=headline.describe_question(evidence),
        verdict=verdict,
        deciding_cases=list_deciding_worst_cases(evidence, verdict),
        other_lines=list_other_lines(evidence, verdict),
        max_lines=MAX_SHOWN_LINES,
        most_images=max((cell.tally.n for cell in evidence.cells), default=0),
        answer=protect_intervals(headline.describe_answer(evidence)),
        eight_bit_answer=protect_intervals(headline.describe_eight_bit_answer(evidence)),
        eight_bit_cases={(case.subject, case.threat): case for case in find_eight_bit_cases(evidence)},
        stopped_cases={(one.subject, one.threat): one for one in list_stopped_estimates(evidence)},
        comparisons=[protect_intervals(sentence) for sentence in headline.describe_comparisons(evidence)],
        blocks={subject: select_blocks(evidence, subject) for subject in evidence.subjects},
        select_distrust=partial(select_distrust, evidence),
        mark_cell=lambda cell: format_mark(select_cell_distrust(evidence, cell)),
        mark_model=partial(mark_model, evidence),
        style_by_model=charts.assign_styles(evidence),
        chart_module=charts,
        list_drawn_models=list_drawn_models,
        build_confusion_map=build_confusion_map,
        build_trade_off_chart=build_trade_off_chart,
        build_tries_charts=build_tries_charts,
        drawn_signs_note=DRAWN_SIGNS_NOTE,
        style=Markup(style),  # noqa: S704 - our own file, and a style element must not be escaped
        style_hash=hash_source(style),
        live=live,
        script_hash=hash_source(live.script) if live else "",
    )
    anchored = number_regions(add_heading_anchors(page))
    return _add_scripts(anchored, live) if live else anchored


def _add_scripts(page: str, live: LiveCharts) -> str:
    """Add the scripts to a page that is complete otherwise: what has been hashed is changed no more."""
    head, end, tail = page.rpartition("</body>")
    data = f'<script type="application/json" id="chart-data">{live.data}</script>'
    return f'{head}{data}\n<script type="module">{live.script}</script>\n{end}{tail}'


def read_style() -> str:
    """Read the style sheets of the page and of its sections."""
    folder = resources.files(__package__)
    return "".join(
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "sections.css")
    )


def hash_source(text: str) -> str:
    """Return the hash that allows a style sheet or a script in the page's security policy: ``sha256-...``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def encode_data_uri(pixels: FloatImage) -> str:
    """Encode a picture, (H, W, 3) in [0, 1], as a data URI."""
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()


def format_position(share: float) -> str:
    """Format the position of a share on a line from 0 to 100%."""
    return f"{100 * share:.2f}%"


def format_figure(number: float | None) -> str:
    """Format a figure with four digits, or a dash if there is none."""
    return MISSING_TEXT if number is None else f"{number:.4g}"


def format_size(distance: float) -> str:
    """Format a distance with three digits, or a dash if it is not finite."""
    return f"{distance:.3g}" if math.isfinite(distance) else MISSING_TEXT


def protect_intervals(text: str) -> str:
    """Insert characters that keep intervals, budgets and image counts of a sentence on one line."""
    intervals = text.replace(EN_DASH, f"{_WORD_JOINER}{EN_DASH}{_WORD_JOINER}")
    for sign in ("=", "<", "\N{LESS-THAN OR EQUAL TO}"):
        intervals = intervals.replace(f" {sign} ", f"{_NO_BREAK_SPACE}{sign}{_NO_BREAK_SPACE}")
    return intervals


def format_per_image(total: int, count: int) -> str:
    """Format a total divided by the number of images."""
    return f"{total / count:,.0f}" if count else MISSING_TEXT


def format_integer(number: float) -> str:
    """Format a count with separators for thousands."""
    return f"{number:,.0f}"


def format_yaml(value: Any) -> str:
    """Format plain data as YAML and keep its order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def describe_entry(entry: HeatMapEntry) -> str:
    """Return the tooltip of a heat map entry."""
    share = format_estimate(entry.estimate) if entry.estimate.is_known else entry.status_text
    return f"{share}: {entry.reason}" if entry.reason else share
