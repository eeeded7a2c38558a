"""The report as one HTML file: no script, no request, every string escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from robustbench_local.reports.analysis.certified_accuracy import READING_CERTIFIED
from robustbench_local.reports.analysis.certified_vs_empirical import READING_BRACKETS
from robustbench_local.reports.analysis.confusion_by_target import LIMITS_OF_PIXELS
from robustbench_local.reports.analysis.distances import STEPS
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import RULE, Exhibit, Floats, png
from robustbench_local.reports.analysis.heatmap import Square
from robustbench_local.reports.analysis.methods import DRAWN
from robustbench_local.reports.analysis.naive_vs_adaptive import READING_LESSONS
from robustbench_local.reports.analysis.per_target import READING_GOALS
from robustbench_local.reports.analysis.report_data import Content
from robustbench_local.reports.analysis.robustness_curves import drawn
from robustbench_local.reports.analysis.run_warnings import is_guessing
from robustbench_local.reports.analysis.sticker_images import RULE_OF_SIGNS
from robustbench_local.reports.analysis.sticker_results import (
    LIMITS_OF_SIMULATION,
    READING_SEVERITY,
    READING_STICKERS,
)
from robustbench_local.reports.formatting import text as words
from robustbench_local.reports.page import charts
from robustbench_local.reports.summary import headline as answer
from robustbench_local.reports.writers.sticker_text import signs_of_cell

_JOINER = "\N{WORD JOINER}"
_FACTS = {
    "code": "Code",
    "device": "Device",
    "platform": "Platform",
    "python": "Python",
    "started": "Started",
}
_FACTS |= {"threads": "Threads", "torch": "PyTorch"}
"""Facts about the machine that have a nicer name than their key."""


def environment() -> jinja2.Environment:
    """The template environment.

    Escaping is forced on: ``select_autoescape`` goes by the end of a file's name, and ``.html.j2`` turns it
    off (fault F71). A name that the template misspells is an error, not an empty space.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robustbench_local.reports", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (words.percent, words.interval, words.full, words.radius, words.budget, words.distance):
        environment.filters[filter_.__name__] = filter_
    environment.filters |= {"counted": words.counted, "listing": words.listing, "duration": words.duration}
    environment.filters |= {
        "data_uri": data_uri,
        "each": each,
        "place": place,
        "signs_of_cell": signs_of_cell,
        "size": size,
        "times": words.times,
        "told": told,
        "whole": whole,
        "yaml": as_yaml,
    }
    return environment


def render(content: Content) -> str:
    """The whole page; the same content gives the same bytes."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    evidence = content.evidence
    style_of = charts.styles(evidence)
    template = environment().get_template("report.html.j2")
    return template.render(
        content=content,
        evidence=evidence,
        question=answer.question(evidence),
        answer=unbroken(answer.answer(evidence)),
        in_eight_bits=unbroken(answer.in_eight_bits(evidence)),
        eight_bit={(case.subject, case.threat): case for case in find_eight_bit_cases(evidence)},
        comparisons=[unbroken(sentence) for sentence in answer.comparisons(evidence)],
        guessing={subject for subject in evidence.subjects if is_guessing(evidence, subject)},
        charts=[charts.make_chart(panel, style_of) for panel in content.panels],
        style_of=style_of,
        drawing=charts,
        drawn=drawn,
        rule=RULE,
        reading_certified=READING_CERTIFIED,
        reading_lessons=READING_LESSONS,
        reading_brackets=READING_BRACKETS,
        reading_goals=READING_GOALS,
        reading_severity=READING_SEVERITY,
        reading_stickers=READING_STICKERS,
        limits_of_pixels=LIMITS_OF_PIXELS,
        limits_of_simulation=LIMITS_OF_SIMULATION,
        rule_of_signs=RULE_OF_SIGNS,
        steps=STEPS,
        exhibits_of=_by_attack(content.exhibits),
        drawn_signs=DRAWN,
        machine=_machine(evidence),
        style=Markup(style),  # noqa: S704 - our own file, and a style element must not be escaped
        style_hash=content_hash(style),
    )


def content_hash(text: str) -> str:
    """What the page's security policy calls a style sheet by: ``sha256-...``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(pixels: Floats) -> str:
    """A picture, (H, W, 3) in [0, 1], inside the page itself."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def place(share: float) -> str:
    """Where a share lies on a line from 0 to 100 %."""
    return f"{100 * share:.2f}%"


def size(distance: float) -> str:
    """A distance with three digits; a dash where it is not a number."""
    return f"{distance:.3g}" if math.isfinite(distance) else words.NOTHING


def unbroken(text: str) -> str:
    """A sentence whose intervals stay on one line."""
    return text.replace(words.DASH, f"{_JOINER}{words.DASH}{_JOINER}")


def each(total: int, count: int) -> str:
    """A total shared out over images."""
    return f"{total / count:,.0f}" if count else words.NOTHING


def whole(number: float) -> str:
    """A count as people write it."""
    return f"{number:,.0f}"


def as_yaml(value: Any) -> str:
    """Plain data as YAML, in the order it has."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def told(square: Square) -> str:
    """What a pointer resting on a square of the heat map is told."""
    known = words.full(square.estimate) if square.estimate.known else square.word
    return f"{known}: {square.reason}" if square.reason else known


def _by_attack(exhibits: Sequence[Exhibit]) -> dict[str, list[Exhibit]]:
    """The examples of one attack together, whatever the model."""
    found: dict[str, list[Exhibit]] = {}
    for exhibit in exhibits:
        found.setdefault(exhibit.cell.record.attack, []).append(exhibit)
    return found


def _machine(evidence: Evidence) -> dict[str, str]:
    """The environment in words."""
    facts = {key: value for key, value in evidence.environment.items() if key != "versions"}
    versions = evidence.environment.get("versions") or {}
    written = {_FACTS.get(key, key): str(value) for key, value in facts.items() if value is not None}
    return written | {"Other versions": ", ".join(f"{name} {number}" for name, number in versions.items())}
