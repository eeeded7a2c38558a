"""The grid of a merged run: that of its parts, or what their grids are together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.grid.verdict_keys import flatten_verdict_keys
from robustbench_local.merging.run_part import RunPart
from robustbench_local.store.run_folder import UNKNOWN_IDENTITY

MAX_NAMED_KEYS = 3
"""Differing parts of an identity that one message names."""
_LIST_PATTERN = re.compile(r"(models|attacks|defenses)\[")
_OF_MODEL, _VERSION = " of model ", "version of "
_SHARED_KEYS = ("training", "severity", "declared", "gallery", "allow_batch_dependence")
"""Parts of a grid that hold for the whole run, and decide no verdict of another part's cells."""


def merge_grids(parts: Sequence[RunPart]) -> tuple[Grid, dict[str, str]]:
    """Merge the grids and identities of parts.

    Args:
        parts: The parts.

    Returns:
        The grid whose cells are those of all parts together, and the identity of its run.

    Raises:
        ConfigError: If anything that decides verdicts differs: data, seed, code, versions, a model of the
            same id; the message names it with both values.
    """
    first = parts[0]
    for part in parts[1:]:
        _refuse_other_identity(first, part)
    if all(part.identity == first.identity for part in parts):
        return first.grid, dict(first.identity)
    grid = _combine_grids(parts)
    fixed = {
        key: value
        for part in reversed(parts)
        for key, value in part.identity.items()
        if not _LIST_PATTERN.match(key) and value != UNKNOWN_IDENTITY
    }
    unknown = {
        key: value
        for part in parts
        for key, value in part.identity.items()
        if value == UNKNOWN_IDENTITY and key not in fixed
    }
    return grid, {**flatten_verdict_keys(grid), **fixed, **unknown}


def _refuse_other_identity(first: RunPart, part: RunPart) -> None:
    """Refuse a part whose verdicts rest on something else, or whose model of the same id differs."""
    differing = [
        key
        for key in sorted({*first.identity, *part.identity})
        if not _LIST_PATTERN.match(key) and _has_other_value(first.identity, part.identity, key)
    ]
    if not differing:
        return
    named = [
        f"{key}: {_shorten_value(first.identity.get(key))} in {first.name}, "
        f"{_shorten_value(part.identity.get(key))} in {part.name}"
        for key in sorted(differing, key=lambda key: key.startswith("data."))[:MAX_NAMED_KEYS]
    ]
    more = f" and {len(differing) - MAX_NAMED_KEYS} more" if len(differing) > MAX_NAMED_KEYS else ""
    raise ConfigError(
        f"the parts are of other grids or versions ({'; '.join(named)}{more})",
        remedy="merge runs of the same data, seed, code and weights",
    )


def _has_other_value(first: Mapping[str, str], second: Mapping[str, str], key: str) -> bool:
    """Return whether a part of the identity differs; what only one run has may concern its cells alone."""
    one, other = first.get(key), second.get(key)
    if UNKNOWN_IDENTITY in {one, other}:
        return False
    if one is None or other is None:
        return not (_OF_MODEL in key or key.startswith(_VERSION))
    return one != other


def _combine_grids(parts: Sequence[RunPart]) -> Grid:
    """Combine the entries of several grids so that no cell is added that no part has."""
    contents = [part.grid.dump_resolved() for part in parts]
    for key in _SHARED_KEYS:
        _refuse_other_value(parts, contents, key)
    models = _combine_models(parts, contents)
    ids = [model["id"] for model in models]
    combined = {
        **contents[0],
        "models": models,
        "attacks": _combine_attacks(contents, ids),
        "gates": _combine_gates(contents),
    }
    return Grid.model_validate(combined)


def _refuse_other_value(parts: Sequence[RunPart], contents: Sequence[Mapping[str, Any]], key: str) -> None:
    for part, content in zip(parts, contents, strict=True):
        if content.get(key) != contents[0].get(key):
            raise ConfigError(
                f"{key} differs: {contents[0].get(key)} in {parts[0].name}, {content.get(key)} in {part.name}"
            )


def _combine_models(parts: Sequence[RunPart], contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Combine the models; each carries its own list of defenses where the parts' lists differ."""
    has_same_defenses = all(content["defenses"] == contents[0]["defenses"] for content in contents)
    models: dict[str, tuple[RunPart, dict[str, Any]]] = {}
    for part, content in zip(parts, contents, strict=True):
        for entry in content["models"]:
            own = entry["defenses"] or content["defenses"]
            model = {**entry, "defenses": entry["defenses"] if has_same_defenses else own}
            known = models.setdefault(entry["id"], (part, model))
            if known[1] != model:
                keys = [key for key in model if model[key] != known[1][key]]
                raise ConfigError(
                    f"{', '.join(keys)} of model {entry['id']!r} differs between {known[0].name} and "
                    f"{part.name}",
                    remedy="give other models other ids",
                )
    return [model for _, model in models.values()]


def _combine_attacks(contents: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Combine the attacks; each names its models, unless it is run on all of them."""
    entries: list[tuple[dict[str, Any], list[str]]] = []
    for content in contents:
        own = [model["id"] for model in content["models"]]
        for entry in content["attacks"]:
            plain = {key: value for key, value in entry.items() if key != "models"}
            targets = next((models for known, models in entries if known == plain), None)
            if targets is None:
                targets = []
                entries.append((plain, targets))
            targets += [name for name in entry["models"] or own if name not in targets]
    return [
        {**plain, "models": None if set(models) == set(ids) else sorted(models, key=list(ids).index)}
        for plain, models in entries
    ]


def _combine_gates(contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    gates: list[dict[str, Any]] = []
    for content in contents:
        gates += [gate for gate in content["gates"] if gate not in gates]
    return gates


def _shorten_value(value: str | None) -> str:
    if value is None:
        return "absent"
    return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", value) else value
