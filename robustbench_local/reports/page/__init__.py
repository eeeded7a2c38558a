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

from robustbench_local.reports.analysis.certified_accuracy import CERTIFIED_EXPLANATION
from robustbench_local.reports.analysis.certified_vs_empirical import ACCURACY_BOUNDS_EXPLANATION
from robustbench_local.reports.analysis.confusion_by_target import PIXEL_ATTACK_LIMITS
from robustbench_local.reports.analysis.distances import CURVE_STEPS
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import (
    EXAMPLE_SELECTION_RULE,
    CellExamples,
    FloatImage,
    encode_png,
)
from robustbench_local.reports.analysis.heatmap import HeatMapEntry
from robustbench_local.reports.analysis.methods import DRAWN_SIGNS_NOTE
from robustbench_local.reports.analysis.naive_vs_adaptive import NAIVE_VS_ADAPTIVE_EXPLANATION
from robustbench_local.reports.analysis.per_target import GOALS_EXPLANATION
from robustbench_local.reports.analysis.report_data import ReportData
from robustbench_local.reports.analysis.robustness_curves import list_drawn_models
from robustbench_local.reports.analysis.run_warnings import is_guessing
from robustbench_local.reports.analysis.sticker_images import SIGN_SELECTION_RULE
from robustbench_local.reports.analysis.sticker_results import (
    SEVERITY_EXPLANATION,
    SIMULATION_LIMITS,
    STICKERS_EXPLANATION,
)
from robustbench_local.reports.formatting import text as words
from robustbench_local.reports.page import charts
from robustbench_local.reports.summary import headline as answer
from robustbench_local.reports.writers.sticker_text import format_sign_counts

_WORD_JOINER = "\N{WORD JOINER}"
_FACT_NAMES = {
    "code": "Code",
    "device": "Device",
    "platform": "Platform",
    "python": "Python",
    "started": "Started",
}
_FACT_NAMES |= {"threads": "Threads", "torch": "PyTorch"}
"""Facts about the machine that have a nicer name than their key."""


def create_environment() -> jinja2.Environment:
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
    environment.filters |= {
        "budget": words.format_budget,
        "data_uri": encode_data_uri,
        "distance": words.format_distance,
        "duration": words.format_duration,
        "entry_text": describe_entry,
        "estimate": words.format_estimate,
        "integer": format_integer,
        "interval": words.format_interval,
        "per_image": format_per_image,
        "percent": words.format_percent,
        "position": format_position,
        "radius": words.format_radius,
        "ratio": words.format_ratio,
        "sign_counts": format_sign_counts,
        "size": format_size,
        "with_noun": words.format_count,
        "yaml": format_yaml,
    }
    return environment


def render(report_data: ReportData) -> str:
    """The whole page; the same data gives the same bytes."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    evidence = report_data.evidence
    style_by_model = charts.assign_styles(evidence)
    template = create_environment().get_template("report.html.j2")
    return template.render(
        report_data=report_data,
        evidence=evidence,
        question=answer.describe_question(evidence),
        answer=protect_intervals(answer.describe_answer(evidence)),
        eight_bit_answer=protect_intervals(answer.describe_eight_bit_answer(evidence)),
        eight_bit_cases={(case.subject, case.threat): case for case in find_eight_bit_cases(evidence)},
        comparisons=[protect_intervals(sentence) for sentence in answer.describe_comparisons(evidence)],
        guessing_models={subject for subject in evidence.subjects if is_guessing(evidence, subject)},
        charts=[charts.build_chart(panel, style_by_model) for panel in report_data.curve_panels],
        style_by_model=style_by_model,
        chart_module=charts,
        list_drawn_models=list_drawn_models,
        example_selection_rule=EXAMPLE_SELECTION_RULE,
        certified_explanation=CERTIFIED_EXPLANATION,
        naive_vs_adaptive_explanation=NAIVE_VS_ADAPTIVE_EXPLANATION,
        accuracy_bounds_explanation=ACCURACY_BOUNDS_EXPLANATION,
        goals_explanation=GOALS_EXPLANATION,
        severity_explanation=SEVERITY_EXPLANATION,
        stickers_explanation=STICKERS_EXPLANATION,
        pixel_attack_limits=PIXEL_ATTACK_LIMITS,
        simulation_limits=SIMULATION_LIMITS,
        sign_selection_rule=SIGN_SELECTION_RULE,
        curve_steps=CURVE_STEPS,
        examples_by_attack=_group_by_attack(report_data.cell_examples),
        drawn_signs_note=DRAWN_SIGNS_NOTE,
        machine_facts=_describe_machine(evidence),
        style=Markup(style),  # noqa: S704 - our own file, and a style element must not be escaped
        style_hash=hash_style(style),
    )


def hash_style(text: str) -> str:
    """What the page's security policy calls a style sheet by: ``sha256-...``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def encode_data_uri(pixels: FloatImage) -> str:
    """A picture, (H, W, 3) in [0, 1], inside the page itself."""
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()


def format_position(share: float) -> str:
    """Where a share lies on a line from 0 to 100%."""
    return f"{100 * share:.2f}%"


def format_size(distance: float) -> str:
    """A distance with three digits; a dash where it is not a number."""
    return f"{distance:.3g}" if math.isfinite(distance) else words.MISSING_TEXT


def protect_intervals(text: str) -> str:
    """A sentence whose intervals stay on one line."""
    return text.replace(words.EN_DASH, f"{_WORD_JOINER}{words.EN_DASH}{_WORD_JOINER}")


def format_per_image(total: int, count: int) -> str:
    """A total shared out over images."""
    return f"{total / count:,.0f}" if count else words.MISSING_TEXT


def format_integer(number: float) -> str:
    """A count as people write it."""
    return f"{number:,.0f}"


def format_yaml(value: Any) -> str:
    """Plain data as YAML, in the order it has."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def describe_entry(entry: HeatMapEntry) -> str:
    """The text that a pointer resting on an entry of a heat map shows."""
    share = words.format_estimate(entry.estimate) if entry.estimate.is_known else entry.status_text
    return f"{share}: {entry.reason}" if entry.reason else share


def _group_by_attack(cell_examples: Sequence[CellExamples]) -> dict[str, list[CellExamples]]:
    """The examples of one attack together, whatever the model."""
    groups: dict[str, list[CellExamples]] = {}
    for examples in cell_examples:
        groups.setdefault(examples.cell.record.attack, []).append(examples)
    return groups


def _describe_machine(evidence: Evidence) -> dict[str, str]:
    """The environment in words."""
    facts = {key: value for key, value in evidence.environment.items() if key != "versions"}
    versions = evidence.environment.get("versions") or {}
    written = {_FACT_NAMES.get(key, key): str(value) for key, value in facts.items() if value is not None}
    return written | {"Other versions": ", ".join(f"{name} {number}" for name, number in versions.items())}
