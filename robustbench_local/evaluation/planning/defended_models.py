"""The ``defenses:`` of a grid: each makes a defended model, another evaluation subject, from a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.model_identity import digest_network, digest_parts
from robustbench_local.config.cards import Card, CardThreat, expand_card, find_card
from robustbench_local.config.hyperparameters import list_parameter_names
from robustbench_local.config.strict_yaml import validate
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.recipe_registry import RECIPES
from robustbench_local.defenses.wrappers.base import Wrapper
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS, build_wrapper
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, DefenseEntry, Grid
from robustbench_local.evaluation.planning.outside_code import describe_code
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evaluation.planning.short_labels import build_defense_label
from robustbench_local.evaluation.training.train_and_save import apply_settings
from robustbench_local.evaluation.training.weight_cache import WeightCache
from robustbench_local.extensions.python_reference import format_reference_title


@dataclass(frozen=True, kw_only=True)
class GridDefense(ABC):
    """One entry of a list of defenses, looked up and checked."""

    name: str
    """The card's name, with the entry's overrides; ``none`` for the baseline model."""
    card: Card | None = None
    """The defense's card; None for the baseline model."""
    code: Mapping[str, str] = field(default_factory=dict)
    """The identity of external code; see `describe_code`."""
    label: str = ""
    """Its name in tables; empty for the baseline model."""

    @abstractmethod
    def apply_to_model(self, subject: EvaluationSubject) -> EvaluationSubject:
        """Apply this defense to a model.

        Args:
            subject: The model as it was loaded.
        """


@dataclass(frozen=True, kw_only=True)
class NoDefense(GridDefense):
    """No defense: the baseline model."""

    def apply_to_model(self, subject: EvaluationSubject) -> EvaluationSubject:
        """Return the model itself.

        Args:
            subject: The model as it was loaded.
        """
        return subject


@dataclass(frozen=True, kw_only=True)
class WrapperDefense(GridDefense):
    """A wrapper around the model."""

    card: Card
    wrapper: Wrapper
    """The wrapper."""

    def apply_to_model(self, subject: EvaluationSubject) -> EvaluationSubject:
        """Return the wrapped model, with a reference to the model without the wrapper.

        Args:
            subject: The model as it was loaded.
        """
        classifier = self.wrapper.wrap(subject.classifier)
        if not isinstance(classifier, Classifier):
            what = f"made a {type(classifier).__name__} of the model, not a Classifier"
            raise ModelError(what, where=self.name)
        wrapper = {"randomness": self.wrapper.is_random, "surrogate": self.wrapper.gradient_mode}
        known = replace(subject, description={**subject.description, "wrapper": wrapper})
        return build_defended_subject(known, classifier, self, self.card, undefended=subject)


@dataclass(frozen=True, kw_only=True)
class RecipeDefense(GridDefense):
    """The same network, trained by a recipe."""

    card: Card
    recipe: Recipe
    """The training recipe."""
    weight_cache: WeightCache
    """Trains the model, or loads it from the cache."""

    def apply_to_model(self, subject: EvaluationSubject) -> EvaluationSubject:
        """Return the trained model.

        Args:
            subject: The model as it was loaded.
        """
        classifier = self.weight_cache.train(subject.id, subject.classifier, self.card, self.recipe)
        fitted = fit_labels(subject.data, classifier.num_classes, classifier.class_names)
        about = {
            **subject.description,
            "num_classes": classifier.num_classes,
            "source": f"trained by {self.name}",
        }
        return build_defended_subject(
            replace(subject, data=fitted, description=about), classifier, self, self.card
        )


def build_defended_subject(
    subject: EvaluationSubject,
    classifier: Classifier,
    defense: GridDefense,
    card: Card,
    *,
    undefended: EvaluationSubject | None = None,
) -> EvaluationSubject:
    """Build the subject of a defended model.

    Args:
        subject: The model as it was loaded.
        classifier: The defended classifier.
        defense: The defense.
        card: The defense's card.
        undefended: The classifier for attacks unaware of the defense, if it is a classifier of its own.
    """
    parts = {**classifier.describe_parts(), **defense.code}
    digest = digest_parts(parts)
    about = {
        **subject.description,
        "defense": defense.name,
        "digest": digest,
        "access": classifier.access,
        "notes": list(classifier.notes),
        "provenance": {**classifier.provenance, "defense": describe_provenance(card)},
    }
    return replace(
        subject,
        defense=defense.name,
        classifier=classifier,
        digest=digest,
        network=digest_network(parts),
        description=about,
        undefended=undefended,
    )


def describe_provenance(card: Card) -> dict[str, object]:
    """Describe a defense's origin, so that a reader can find it again."""
    return {"card": card.base_name, "method": card.method, "source": card.source, **card.parameters}


def resolve_defenses(
    grid: Grid, folders: Sequence[Path], weight_cache: WeightCache
) -> dict[str, list[GridDefense]]:
    """Resolve the defenses of every model, by its id, in the order of its list.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.
        weight_cache: Trains the models of recipes.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or a defense is listed twice.
    """
    common = _resolve_entries(grid.defenses, folders, weight_cache, "defenses")
    return {
        model.id: common
        if model.defenses is None
        else _resolve_entries(model.defenses, folders, weight_cache, f"model {model.id!r}, defenses")
        for model in grid.models
    }


def find_defenses(
    name: str,
    overrides: Mapping[str, object],
    folders: Sequence[Path],
    weight_cache: WeightCache,
    entry_name: str | None = None,
) -> list[GridDefense]:
    """Find the defenses of a card and its overrides: one, or one for each eps of a list.

    Args:
        name: A card such as ``jpeg-75``, or ``none``.
        overrides: Parameters to change.
        folders: Folders with the user's own cards.
        weight_cache: Trains the models of recipes.
        entry_name: Name of the grid's entry in tables.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown or impossible.
    """
    if name == NO_DEFENSE:
        if overrides:
            raise ConfigError(f"{NO_DEFENSE!r} has nothing to change", remedy="name a defense's card")
        return [NoDefense(name=NO_DEFENSE)]
    if WRAPPERS.is_outside(name):
        card = _build_outside_card(name, overrides)
        overrides = overrides if card.method in WRAPPERS else {}  # a recipe cannot be made without them
    else:
        card = find_card(name, kind="defense", extra=folders)
    if card.method in WRAPPERS:
        cards = expand_card(card, overrides, parameters=list_parameter_names(WRAPPERS[card.method]))
        return [_build_wrapper_defense(variant, entry_name) for variant in cards]
    trained, recipe = apply_settings(card, overrides)
    return [
        RecipeDefense(
            name=trained.name,
            label=build_defense_label(trained, entry_name),
            card=trained,
            recipe=recipe,
            weight_cache=weight_cache,
            code=describe_code(recipe),
        )
    ]


def _build_wrapper_defense(card: Card, entry_name: str | None) -> WrapperDefense:
    wrapper = build_wrapper(card.method, card.parameters)
    label = build_defense_label(card, entry_name)
    return WrapperDefense(
        name=card.name, label=label, card=card, wrapper=wrapper, code=describe_code(wrapper)
    )


def _build_outside_card(name: str, settings: Mapping[str, Any]) -> Card:
    """Build the card of an external defense that is used without one.

    Args:
        name: ``python:FILE.py:NAME``, or an entry point.
        settings: Its parameters, and for a recipe the keys of its threat model. Those of a wrapper are no
            part of the card: the caller changes them as in any other card.

    Raises:
        ConfigError: If it is neither a wrapper nor a recipe.
    """
    if name not in WRAPPERS and name not in RECIPES:
        WRAPPERS[name]  # says what is wrong with it
    if name in WRAPPERS:
        settings = {}
    known = CardThreat.model_fields
    threat = {key: value for key, value in settings.items() if key in known}
    parameters = {key: value for key, value in settings.items() if key not in threat}
    shown = ",".join(f"{key}={value}" for key, value in settings.items())
    return Card(
        name=f"{name}[{shown}]" if shown else name,
        base_name=name,
        title=format_reference_title(name),
        changes=dict(settings),
        kind="defense",
        version=1,
        description=f"The defense {name} with parameters from the grid.",
        source=WRAPPERS.describe_origin(name),
        method=name,
        parameters=parameters,
        threat=validate(CardThreat, threat, where=f"defense {name!r}", error=ConfigError) if threat else None,
        path=Path(name),
    )


def _resolve_entries(
    entries: Sequence[DefenseEntry], folders: Sequence[Path], weight_cache: WeightCache, where: str
) -> list[GridDefense]:
    defenses: list[GridDefense] = []
    for entry in entries:
        for defense in find_defenses(entry.card, entry.overrides, folders, weight_cache, entry.name):
            if defense.name in {other.name for other in defenses}:
                raise ConfigError(f"the defense {defense.name!r} is listed twice", where=where)
            defenses.append(defense)
    return defenses
