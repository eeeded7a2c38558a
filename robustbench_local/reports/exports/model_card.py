"""A section about robustness for the model card of each model, with metadata as on Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_lines import format_verdict
from robustbench_local.reports.analysis.shard_evidence import format_shard_prefix
from robustbench_local.reports.exports.file_slugs import make_slugs
from robustbench_local.reports.exports.model_figures import ModelFigure, list_model_figures
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_estimate, redact_private_data
from robustbench_local.reports.sections.report_data import ReportData

_TASK = {"type": "image-classification", "name": "Image Classification"}
_READING = (
    "Robust accuracy is an upper bound: a stronger attack can only lower it. Certified accuracy is a lower "
    "bound. Intervals are 95% intervals over images like these; they say nothing about other data."
)


def write_model_cards(report_data: ReportData) -> dict[str, str]:
    """Write a section for the model card of each evaluated model.

    Each file is a valid README.md of its own for a repository on Hugging Face: metadata with a
    ``model-index``, and the section. Numbers that a diagnostic forbids are in the section with the reason,
    and never in the metadata, which cannot hold one.

    Returns:
        File name -> Markdown.
    """
    subjects = report_data.evidence.subjects
    slugs = make_slugs(map(str, subjects))
    return {
        f"model-card-{slug}.md": _write_card(report_data, subject)
        for slug, subject in zip(slugs, subjects, strict=True)
    }


def _write_card(report_data: ReportData, subject: EvaluatedModel) -> str:
    figures = list_model_figures(report_data.evidence, subject)
    metadata = yaml.safe_dump(
        redact_private_data({"model-index": [_build_index(report_data, subject, figures)]}),
        sort_keys=False,
        allow_unicode=True,
        width=110,
    )
    return "\n".join(
        ["---", metadata.rstrip("\n"), "---", "", *_render_section(report_data, subject, figures)]
    )


def _build_index(
    report_data: ReportData, subject: EvaluatedModel, figures: Sequence[ModelFigure]
) -> dict[str, Any]:
    evidence = report_data.evidence
    data = evidence.data
    return {
        "name": str(subject),
        "results": [
            {
                "task": dict(_TASK),
                "dataset": {
                    "name": str(data.get("name", "unknown")),
                    "type": str(data.get("name", "unknown")),
                    **({"split": str(data["split"])} if data.get("split") else {}),
                    "args": {"sha256": str(data.get("digest", ""))},
                },
                "metrics": [_encode_metric(figure) for figure in figures if _is_stated(figure)],
            }
        ],
    }


def _is_stated(figure: ModelFigure) -> bool:
    return figure.estimate.is_known and not figure.is_void


def _encode_metric(figure: ModelFigure) -> dict[str, Any]:
    """Encode a share in [0, 1]; what a reader must know is part of its name, which every page shows."""
    share = figure.estimate
    return {
        "type": "accuracy" if figure.metric.endswith("accuracy") else figure.metric,
        "name": f"{figure.name} ({figure.caveat})" if figure.caveat else figure.name,
        "value": round(share.value, 6),
        "args": {
            "metric": figure.metric,
            "confidence_interval": [round(share.low, 6), round(share.high, 6)],
            "level": figure.level,
            "n": share.n,
            **({"phases": list(share.phases)} if share.phases else {}),
            **({"groups": share.groups} if share.groups else {}),
            **({"attacks": list(figure.attacks)} if figure.attacks else {}),
        },
    }


def _render_section(
    report_data: ReportData, subject: EvaluatedModel, figures: Sequence[ModelFigure]
) -> list[str]:
    evidence = report_data.evidence
    rows = (
        [
            escape_markdown(figure.name),
            "no number"
            if figure.is_void
            else format_estimate(figure.estimate)
            if figure.estimate.is_known
            else escape_markdown(figure.status_text or "not known"),
            escape_markdown(", ".join(figure.attacks)),
            escape_markdown(figure.caveat),
        ]
        for figure in figures
    )
    return [
        "## Adversarial robustness",
        "",
        _describe_measurement(evidence, subject),
        "",
        *render_table(["measured", "share (95% interval unless noted, n)", "attacks", "note"], rows),
        "",
        *_render_gates(report_data, subject),
        *_render_origin(
            evidence.data, _find_model(report_data, subject), evidence.environment, evidence.seed
        ),
    ]


def _describe_measurement(evidence: Evidence, subject: EvaluatedModel) -> str:
    data = evidence.data
    split = f", {data['split']} split" if data.get("split") else ""
    images = f"images of {data.get('name') or 'unknown data'}{split}"
    return f"{format_shard_prefix(evidence)}{escape_markdown(f'{subject} on {images}')}. {_READING}"


def _render_gates(report_data: ReportData, subject: EvaluatedModel) -> list[str]:
    verdicts = [one for one in report_data.gate_report.verdicts if one.subject == subject]
    lines = [f"- {escape_markdown(format_verdict(verdict))}" for verdict in verdicts]
    return ["### Gates", "", *lines, ""] if lines else []


def _find_model(report_data: ReportData, subject: EvaluatedModel) -> Mapping[str, Any]:
    evidence = report_data.evidence
    return next(
        (
            about
            for about in evidence.models
            if evidence.get_subject(about["id"], about["defense"]) == subject
        ),
        {},
    )


def _render_origin(
    data: Mapping[str, Any], model: Mapping[str, Any], environment: Mapping[str, Any], seed: int | None
) -> list[str]:
    """Render what identifies the weights, the images and the program."""
    quarantined = len(data.get("quarantined") or ())
    facts = {
        "weights": model.get("digest"),
        "images": data.get("digest"),
        "quarantined images": str(quarantined) if quarantined else None,
        "drawn by a program, not photographed": "yes" if data.get("drawn") else None,
        "seed": seed,
        "program": f"robustbench_local {environment.get('code', '')}".strip(),
        "torch": environment.get("torch"),
        "device": environment.get("device"),
    }
    lines = [
        f"- {name}: {escape_markdown(str(redact_private_data(str(value))))}"
        for name, value in facts.items()
        if value is not None
    ]
    return ["### Origin of the numbers", "", *lines, ""]
