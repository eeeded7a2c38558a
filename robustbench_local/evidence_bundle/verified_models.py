"""Which models of a run a verifier has, and what of the bundle's own description of them is believed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, Grid, ModelEntry, load_grid
from robustbench_local.evidence_bundle.bundle_files import RESULTS_NAME
from robustbench_local.evidence_bundle.check_results import BundleError

_PUBLISHED_WEIGHTS = re.compile(r"[A-Z0-9_]+")
"""Names of published weights, such as ``DEFAULT`` or ``IMAGENET1K_V2``."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the verifier has a model of the run."""

    name: str | None
    """Its id in the run, with ``+ DEFENSE`` for one that was trained; None: the only model of the run."""
    source: str
    """As in a grid: ``checkpoint:FILE``, ``zoo:NAME``, ``python:FILE.py:NAME``, ..."""
    weights: str | None = None
    """Its weights file or published weights, where the source has none; a file that the bundle names is not
    read."""


def read_grid(results: Mapping[str, Any]) -> Grid:
    """Read the grid of the run, which results.json repeats.

    Raises:
        BundleError: If it is no grid of this version.
    """
    try:
        return load_grid(dict(results["grid"]))[0]
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the grid in {RESULTS_NAME} cannot be read: {error}") from error


def list_subjects(results: Mapping[str, Any]) -> list[str]:
    """List the defended models of the run, as ``ID + DEFENSE``."""
    cells = results.get("cells")
    rows = [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []
    return list(dict.fromkeys(f"{cell.get('model')} + {cell.get('defense')}" for cell in rows))


def name_sources(sources: Sequence[ModelSource], grid: Grid, subjects: Sequence[str]) -> list[ModelSource]:
    """Give every source the id of its model.

    Args:
        sources: What the verifier gives.
        grid: The grid of the run.
        subjects: The defended models of the run, as ``ID + DEFENSE``.

    Raises:
        ConfigError: If a model or a defense is unknown, or an id missing where the run has several models.
    """
    ids = [entry.id for entry in grid.models]
    named = []
    for source in sources:
        if source.name is None and len(ids) > 1:
            what = f"the run has {format_count(len(ids), 'model')}: {', '.join(ids)}"
            raise ConfigError(what, where="--model", remedy="write ID=SOURCE")
        name = source.name or ids[0]
        if (model := name.partition(" + ")[0]) not in ids:
            raise ConfigError(
                f"the run has no model {model!r}", where="--model", remedy=did_you_mean(model, ids)
            )
        if " + " in name and name not in subjects:
            known = [subject for subject in subjects if subject.partition(" + ")[2] != NO_DEFENSE]
            remedy = did_you_mean(name, known) if known else f"give {model} alone"
            raise ConfigError(f"the run has no {name!r}", where="--model", remedy=remedy)
        named.append(ModelSource(name=name, source=source.source, weights=source.weights))
    return named


def build_entry(grid: Grid, source: ModelSource) -> ModelEntry:
    """Return the entry of the grid with the verifier's own source; other settings stay, but for two.

    A bundle comes from somebody else. It may not say that a pickle can be trusted, which would run its code,
    nor name a file of the verifier's machine: the names of published weights stay alone.
    """
    model = (source.name or "").partition(" + ")[0]
    entry = next(entry for entry in grid.models if entry.id == model)
    changes: dict[str, Any] = {
        "source": source.source,
        "sha256": None,
        "twin": None,
        "trust_pickle": None,
    }
    if source.weights is not None or not _PUBLISHED_WEIGHTS.fullmatch(entry.weights or ""):
        changes["weights"] = source.weights
    return entry.model_copy(update=changes)
