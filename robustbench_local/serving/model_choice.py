"""Which models are served: a source with its options, an entry of a grid file, or a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import set_evaluation_mode
from robustbench_local.defenses.wrappers.wrapper_registry import defend
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.schema import (
    NO_DEFENSE,
    Grid,
    ModelEntry,
    load_grid,
)
from robustbench_local.evaluation.planning.model_loading import load_entry
from robustbench_local.models.model_sources import load_classifier

GRID_SUFFIXES = frozenset({".yaml", ".yml"})
WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pt", ".pth"})


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model and how it is loaded; it can be pickled, so that another process loads the same.

    Args:
        name: Its name in answers.
        source: As for `load_classifier`.
        settings: Further arguments of `load_classifier`, or keys of the entry that it replaces.
        entry: The model's entry in a grid file; None for a source alone.
        base_folder: The folder in which relative paths are looked up before the working directory.
        defense: Card of a wrapper defense around it; None for none.
        device: Device to compute on.
        allow_code: Allow Python files to be run.
    """

    name: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    entry: ModelEntry | None = None
    base_folder: Path | None = None
    defense: str | None = None
    device: str = "cpu"
    allow_code: bool = False

    def load(self) -> Classifier:
        """Load the classifier, in evaluation mode.

        Raises:
            RobustbenchError: As `load_classifier` and `defend` do.
        """
        common: dict[str, Any] = {
            "device": self.device,
            "allow_code": self.allow_code,
            "base_folder": self.base_folder,
        }
        if self.entry is not None:
            classifier = load_entry(self.entry.model_copy(update=dict(self.settings)), **common)
        else:
            classifier = load_classifier(self.source, name=self.name, **common, **self.settings)
        if classifier.module is not None:
            set_evaluation_mode(classifier.module)
        if self.defense is not None:
            classifier = defend(classifier, self.defense, allow_code=self.allow_code)
        return classifier


def choose_models(
    model: str,
    *,
    model_id: str | None = None,
    compare: str | None = None,
    defense: str | None = None,
    compare_defense: str | None = None,
    settings: Mapping[str, Any],
    device: str = "cpu",
    allow_code: bool = False,
) -> list[ModelChoice]:
    """Choose the served model, and the one beside it if there is any.

    Args:
        model: A model source, a weights file of ``rbl train``, or a grid file.
        model_id: Id of the model in the grid file.
        compare: The model beside it: a source, a weights file, or another id of the grid file.
        defense: Card of a wrapper defense around the model.
        compare_defense: The same for the model beside it; alone it means the same model with that defense.
        settings: Options of the model's source that the user gave.
        device: Device to compute on.
        allow_code: Allow Python files to be run.

    Raises:
        ConfigError: If a name is unknown, or options do not fit each other.
    """
    if Path(model).suffix in GRID_SUFFIXES:
        grid, base = load_grid(Path(model))
        first = _choose_entry(_find_entry(grid, model_id, model), settings, base)
        ids = [entry.id for entry in grid.models]
        second = None
        if compare is not None:
            is_id = compare in ids
            second = (
                _choose_entry(_find_entry(grid, compare, model), {}, base)
                if is_id
                else _choose_source(compare)
            )
    else:
        if model_id is not None:
            raise ConfigError(
                "--model names an entry of a grid file", remedy=f"leave it out, {model} is a model"
            )
        first = replace(_choose_source(model), settings=dict(settings))
        second = None if compare is None else _choose_source(compare)
    if second is None and compare_defense is not None:
        second = first
    common: dict[str, Any] = {"device": device, "allow_code": allow_code}
    choices = [_apply_defense(replace(first, **common), defense)]
    if second is not None:
        choices.append(_apply_defense(replace(second, **common), compare_defense))
    if len({choice.name for choice in choices}) < len(choices):
        raise ConfigError("--compare names the same model", remedy="name another one, or a defense around it")
    return choices


def _apply_defense(choice: ModelChoice, defense: str | None) -> ModelChoice:
    if defense in (None, NO_DEFENSE):
        return choice
    return replace(choice, defense=defense, name=f"{choice.name} + {defense}")


def _choose_source(text: str) -> ModelChoice:
    """Choose a source; a weights file may be given without ``checkpoint:``."""
    source = f"checkpoint:{text}" if Path(text).suffix in WEIGHTS_SUFFIXES and ":" not in text else text
    kind, _, rest = source.partition(":")
    return ModelChoice(name=Path(rest).stem if kind == "checkpoint" else source, source=source)


def _find_entry(grid: Grid, model_id: str | None, file: str) -> ModelEntry:
    ids = [entry.id for entry in grid.models]
    if model_id is None and len(ids) > 1:
        raise ConfigError(f"{file} has {len(ids)} models", remedy=f"name one with --model: {', '.join(ids)}")
    if model_id is not None and model_id not in ids:
        raise ConfigError(f"{file} has no model {model_id!r}", remedy=did_you_mean(model_id, ids))
    return grid.models[0 if model_id is None else ids.index(model_id)]


def _choose_entry(entry: ModelEntry, overrides: Mapping[str, Any], base: Path) -> ModelChoice:
    """Choose an entry of a grid file, with the options of the command over its own."""
    return ModelChoice(
        name=entry.id, source=entry.source, settings=dict(overrides), entry=entry, base_folder=base
    )
