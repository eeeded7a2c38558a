"""The templates of the pages, with the filters and the style sheet of the report."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.page import build_environment
from robustbench_local.reports.page import read_style as read_report_style

_TEMPLATES = (
    "view_base.html.j2",
    "view_macros.html.j2",
    "run_list.html.j2",
    "run_detail.html.j2",
    "run_images.html.j2",
    "image_detail.html.j2",
    "run_trends.html.j2",
    "compare_runs.html.j2",
    "view_problem.html.j2",
)
_STATE_CLASSES = {
    "pass": "pass",
    "fail": "fail",
    "invalid": "fail",
    "inconclusive": "inconclusive",
    "unreadable": "fail",
}
"""Verdict or state -> its class in the style sheet."""
MAX_OPTION_CHARACTERS = 48
"""Longest text of an option."""
_HEAD = re.compile(r'<div class="page">|<body>')
"""Where the content of a report or a comparison begins."""
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


def render_view(name: str, **values: Any) -> str:
    """Render a page; every string is escaped."""
    return _get_environment().get_template(name).render(**values)


@cache
def read_style() -> str:
    """Return the style sheet: that of the report, and what these pages add."""
    return f"{read_report_style()}\n{read_page_file('view.css')}"


@cache
def read_page_file(name: str) -> str:
    """Return the text of a file beside the templates."""
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def read_page_policy(page: str) -> str | None:
    """Return the security policy that a rendered report or comparison states; None if it states none."""
    match = _POLICY.search(page[:4_000])
    return None if match is None else html.unescape(match[1])


def add_navigation(page: str, links: Mapping[str, str]) -> str:
    """Add links back to the view at the head of a rendered report or comparison.

    Args:
        page: The page.
        links: Address -> text.
    """
    items = " ".join(
        f'<a href="{html.escape(address)}">{html.escape(text)}</a>' for address, text in links.items()
    )
    return _HEAD.sub(lambda match: f'{match[0]}\n<nav aria-label="Runs">{items}</nav>', page, count=1)


def shorten_option(value: object, limit: int = MAX_OPTION_CHARACTERS) -> str:
    """Shorten the text of an option in its middle: a browser makes a list as wide as its longest option."""
    text = str(redact_private_data(str(value)))
    half = limit // 2
    return text if len(text) <= limit else f"{text[: half - 1]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


@cache
def _get_environment() -> jinja2.Environment:
    templates = tuple((name, read_page_file(name)) for name in _TEMPLATES)
    environment = build_environment(templates).overlay()
    environment.filters = {
        **environment.filters,
        "redacted_text": lambda value: str(redact_private_data(str(value))),
        "shortened": shorten_option,
        "state_class": lambda state: _STATE_CLASSES.get(state, ""),
    }
    return environment
