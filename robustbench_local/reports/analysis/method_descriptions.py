"""Descriptions of every attack and certificate of a run, with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.targeted_goal import format_goal_classes
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    format_budget,
    format_count,
    isolate_direction,
    join_in_sentence,
)

DRAWN_SIGNS_NOTE = "drawn by a program, not photographed"
"""Description of the embedded signs."""

_TIMES_SIGN = " \N{MULTIPLICATION SIGN} "
_COUNT_NOUNS = {
    "steps": ("step", "steps"),
    "restarts": ("start", "starts"),
    "queries": ("query", "queries"),
    "targets": ("target class at a time", "target classes at a time"),
    "draws": ("draw averaged", "draws averaged"),
    "views": ("fresh view a step", "fresh views a step"),
}
"""Nouns of hyper-parameters that are counts."""
_RANGE_PHRASES = {
    "distance": "sign {} px large",
    "yaw": "turned sideways by up to {}°",
    "pitch": "up or down by up to {}°",
    "roll": "rolled by up to {}°",
    "shift": "off centre by up to {} of the frame",
    "gain": "brightness \N{MULTIPLICATION SIGN} {}",
    "offset": "brighter or darker by up to {}",
    "gamma": "gamma {}",
    "blur": "out of focus by up to sigma {} px",
    "motion": "moved by up to {} px",
    "noise": "noise of up to sigma {}",
    "jpeg": "JPEG quality {}",
}
"""Phrases of view parameters; pixels of blur and motion refer to a frame 32 pixels wide."""
_KNOWLEDGE_PHRASES = {
    "white-box": "the model and its gradients",
    "scores": "the scores of the model",
    "labels": "the predicted label",
}
"""Phrases of the attacker's knowledge; other values are phrases already."""


@dataclass(frozen=True, kw_only=True)
class MethodDescription:
    """One attack or certificate, described from its first cell."""

    name: str
    """Label in tables."""
    attack: str
    """Identifier in results.json."""
    budget: str
    """Perturbation budget in symbols."""
    goal: str
    """Predictions that count as success; empty for a certificate."""
    attacker_knowledge: str
    """The attacker's knowledge of the model; empty for a certificate."""
    card_description: str
    """Description of its card; empty if the run did not record it."""
    source: str
    """Papers of the method; empty if the run did not record them."""
    settings: str
    """Hyper-parameters, in words if possible."""
    views: str
    """Parameters of the views of a sign; empty without views."""
    note: str
    """A note on the method."""

    @property
    def identifier_text(self) -> str:
        """Its identifier if that differs from the label."""
        return "" if self.name == self.attack else self.attack


@collect_once
def build_method_descriptions(evidence: Evidence) -> tuple[MethodDescription, ...]:
    """Describe every attack and certificate, in the order of the grid."""
    first: dict[str, CellResult] = {}
    for cell in evidence.cells:
        first.setdefault(cell.record.attack, cell)
    return tuple(_build_description(evidence, cell) for cell in first.values())


def describe_images(data: Mapping[str, Any]) -> str:
    """Describe source, number and kind of the images; empty if unknown."""
    shape = data.get("image_shape")
    size = f" of {_TIMES_SIGN.join(map(str, shape))} (channels, height, width)" if shape else ""
    parts = [
        data.get("name"),
        data.get("split") and f"split {data['split']}",
        data.get("n") and f"{format_count(data['n'], 'image')}{size}",
        DRAWN_SIGNS_NOTE if data.get("drawn") else "",
        *(data.get("notes") or ()),
    ]
    return "; ".join(str(part) for part in parts if part)


def _build_description(evidence: Evidence, cell: CellResult) -> MethodDescription:
    record, proof = cell.record, cell.is_certificate
    card = evidence.card_texts.get(record.card) or {}
    return MethodDescription(
        name=cell.label,
        attack=record.attack,
        budget=format_budget(record.norm, record.eps, record.surface),
        goal="" if proof or cell.is_corruption else _describe_goal(evidence, cell),
        attacker_knowledge="" if proof or cell.is_corruption else _describe_knowledge(cell),
        card_description=_describe_card(cell, " ".join(str(card.get("description") or "").split())),
        source=str(card.get("source") or ""),
        settings=_format_settings(record.parameters),
        views=_format_views(record.parameters.get("ranges"), record.identity.get("test views")),
        note=record.note,
    )


def _describe_card(cell: CellResult, description: str) -> str:
    """Return the card's description, with a note if the grid overrides its parameters."""
    record = cell.record
    origin = "[naive]" if cell.is_naive else f"[from={record.surrogate}]"
    shipped = record.card in {record.attack.removesuffix(origin), record.parameters.get("method")}
    if shipped or not description:
        return description
    return f"Changed from the card {record.card}, whose description is: {description}"


def _describe_knowledge(cell: CellResult) -> str:
    if cell.transferred:
        return f"crafted on {isolate_direction(str(cell.surrogate_label))}, without access to the model"
    return f"the attacker knows: {_KNOWLEDGE_PHRASES.get(cell.attacker_knowledge, cell.attacker_knowledge)}"


def _describe_goal(evidence: Evidence, cell: CellResult) -> str:
    if not cell.targeted:
        return "any wrong class"
    sources, targets = format_goal_classes(evidence, cell)
    return f"{sources} misclassified as {targets}"


def _format_settings(parameters: Mapping[str, Any]) -> str:
    parts = [_format_setting(key, value) for key, value in parameters.items() if key != "ranges"]
    return ", ".join(part for part in parts if part)


def _format_setting(key: str, value: Any) -> str:
    """Format one hyper-parameter; empty if it is switched off or left to the attack."""
    if value is None or value == "":
        return ""
    if key in _COUNT_NOUNS and isinstance(value, int):
        return format_count(value, *_COUNT_NOUNS[key])
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {_format_number(value)}"


def _format_number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        numbers = [_format_number(one) for one in value]
        return EN_DASH.join(numbers) if len(numbers) == 2 else join_in_sentence(numbers)
    return str(value)


def _format_views(ranges: Mapping[str, Any] | None, judged: str | None) -> str:
    found = [
        _RANGE_PHRASES[key].format(_format_number(value))
        for key, value in (ranges or {}).items()
        if key in _RANGE_PHRASES
    ]
    over = f"evaluated over {judged} held-out views of each sign" if judged else ""
    return "; ".join(filter(None, [", ".join(found), over]))
