"""The metadata of a merged run: models, labels, diagnostics, machines, and where its parts came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.merging.merged_cells import MergedCell, count_verdicts
from robustbench_local.merging.run_part import RunPart
from robustbench_local.store.diagnostic_records import (
    DIAGNOSTICS_KEY,
    STATUS_ORDER,
    DiagnosticResult,
    DiagnosticsRecord,
)
from robustbench_local.store.image_groups import GROUPS_KEY
from robustbench_local.store.run_costs import COSTS_KEY, REASONS_KEY, SIZES_KEY
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels

_PLAIN_KEYS = ("seed", "question", "name")
"""Metadata that the first part decides."""
_FACTS_PER_MACHINE = ("python", "torch", "torchvision", "platform", "device", "threads", "workers")


def merge_metadata(parts: Sequence[RunPart], grid: Grid, cells: Sequence[MergedCell]) -> dict[str, Any]:
    """Merge the metadata of parts.

    Args:
        parts: The parts.
        grid: The merged grid.
        cells: The merged cells.

    Raises:
        ConfigError: If the parts describe the same images differently.
    """
    first = parts[0].store
    _refuse_other_images(parts)
    return {
        **{key: first.read_meta(key) for key in (*_PLAIN_KEYS, "data", GROUPS_KEY)},
        "grid": grid.dump_resolved(),
        "gates": [gate.model_dump(mode="json") for gate in grid.gates],
        "models": _merge_models(parts),
        "cards": _merge_mappings(parts, "cards"),
        "severity": _merge_severity(parts),
        SIZES_KEY: _merge_mappings(parts, SIZES_KEY),
        REASONS_KEY: _merge_mappings(parts, REASONS_KEY),
        COSTS_KEY: [call for part in parts for call in part.store.read_meta(COSTS_KEY) or ()],
        LABELS_KEY: _merge_labels(parts, cells),
        DIAGNOSTICS_KEY: _merge_diagnostics(parts),
        "environment": _merge_environments(parts, count_verdicts(cells)),
    }


def list_version_differences(parts: Sequence[RunPart]) -> list[str]:
    """List the libraries whose versions differ between the parts, without those that decide verdicts."""
    versions = [(part.store.read_meta("environment") or {}).get("versions") or {} for part in parts]
    names = sorted({name for known in versions for name in known})
    return [
        f"{name} {', '.join(dict.fromkeys(str(known.get(name)) for known in versions))}"
        for name in names
        if len({known.get(name) for known in versions}) > 1
    ]


def _refuse_other_images(parts: Sequence[RunPart]) -> None:
    """Refuse parts that declare other groups of the same images."""
    groups = parts[0].store.read_meta(GROUPS_KEY) or {}
    for part in parts[1:]:
        if (part.store.read_meta(GROUPS_KEY) or {}) != groups:
            raise ConfigError(
                f"the groups of the images differ between {parts[0].name} and {part.name}",
                remedy="declare the same groups in both grids and run them again",
            )


def _merge_mappings(parts: Sequence[RunPart], key: str) -> dict[str, Any]:
    """Merge mappings; the first part that has an entry decides it."""
    merged: dict[str, Any] = {}
    for part in reversed(parts):
        merged |= part.store.read_meta(key) or {}
    return merged


def _merge_models(parts: Sequence[RunPart]) -> list[dict[str, Any]]:
    """Merge the descriptions of models; one that could be used comes before one that could not."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        for about in part.store.read_meta("models") or ():
            key = (about["id"], about["defense"])
            if key not in merged or merged[key].get("problem"):
                merged[key] = about
    return list(merged.values())


def _merge_severity(parts: Sequence[RunPart]) -> dict[str, Any]:
    tables = [part.store.read_meta("severity") or {} for part in parts]
    models = {name: costs for table in reversed(tables) for name, costs in table.get("models", {}).items()}
    return {**next(filter(None, tables), {}), "models": models} if models else next(filter(None, tables), {})


def _merge_labels(parts: Sequence[RunPart], cells: Sequence[MergedCell]) -> dict[str, Any]:
    """Merge labels; where two attacks share one, the threat model is added, or the identifier replaces it."""
    known = [RunLabels.from_metadata(part.store.read_meta(LABELS_KEY)) for part in parts]
    attacks = {name: label for labels in reversed(known) for name, label in labels.attacks.items()}
    families = {name: label for labels in reversed(known) for name, label in labels.families.items()}
    models = {name: label for labels in reversed(known) for name, label in labels.models.items()}
    threats = {cell.record.attack: cell.record.threat for cell in cells}
    shared = Counter(attacks.values())
    attacks = {
        name: label if shared[label] == 1 else f"{label}, {threats.get(name, name)}"
        for name, label in attacks.items()
    }
    attack_counts, model_counts = Counter(attacks.values()), Counter(models.values())
    return RunLabels(
        attacks={name: label if attack_counts[label] == 1 else name for name, label in attacks.items()},
        families=families,
        models={
            key: label if model_counts[label] == 1 else RunLabels().get_model_label(*key)
            for key, label in models.items()
        },
    ).to_metadata()


def _merge_diagnostics(parts: Sequence[RunPart]) -> dict[str, Any]:
    """Merge diagnostics; of one that was asked in two parts the more serious result counts."""
    stored = [part.store.read_meta(DIAGNOSTICS_KEY) for part in parts]
    records = [DiagnosticsRecord.from_json(content) for content in stored if content is not None]
    merged: dict[tuple[str, str, str, str | None], DiagnosticResult] = {}
    for record in records:
        for result in record.results:
            key = (result.id, result.model, result.defense, result.threat)
            known = merged.setdefault(key, result)
            if STATUS_ORDER.index(result.status) < STATUS_ORDER.index(known.status):
                merged[key] = result
    counted = records[:1] if parts[0].shard else records  # every shard asks the same
    return DiagnosticsRecord(
        results=tuple(merged.values()),
        passes=sum(record.passes for record in counted),
        planned_passes=sum(record.planned_passes for record in counted),
    ).to_json()


def _merge_environments(parts: Sequence[RunPart], counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Merge the machines: facts that differ stand side by side, and each part is described."""
    environments = [part.store.read_meta("environment") or {} for part in parts]
    facts = {
        key: _join_values([environment.get(key) for environment in environments])
        for key in _FACTS_PER_MACHINE
    }
    started = [str(environment["started"]) for environment in environments if environment.get("started")]
    described = [
        _describe_part(part.name, environment, counts.get(part.name, (0, 0)))
        for part, environment in zip(parts, environments, strict=True)
    ]
    return {**environments[0], **facts, "started": min(started, default=None), "parts": described}


def _describe_part(name: str, environment: Mapping[str, Any], counts: tuple[int, int]) -> str:
    machine = [environment.get(key) for key in ("device", "platform", "started")]
    sizes = f"{format_count(counts[0], 'cell')}, {format_count(counts[1], 'verdict')}"
    return ", ".join(str(part) for part in (f"{name}: {sizes}", *machine) if part)


def _join_values(values: Sequence[Any]) -> Any:
    """Return the value that all parts share, or all of them in one text."""
    unique = list(dict.fromkeys(value for value in values if value is not None))
    return unique[0] if len(unique) == 1 else "; ".join(map(str, unique)) or None
