"""What a grid's ``defenses:`` do to its models: each turns a model into another subject of the grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import Card, expand, find_card
from robustbench_local.config.hyperparameters import parameter_names
from robustbench_local.data.labels import fit_labels
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.wrappers.base import Wrapper
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS, make_wrapper
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, DefenseEntry, Grid
from robustbench_local.evaluation.planning.plan import Subject
from robustbench_local.evaluation.training.train_and_save import with_settings
from robustbench_local.evaluation.training.weight_cache import Workshop


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """One entry of a list of defenses, looked up and checked."""

    name: str
    """The card's name, with what the entry overrides; ``none`` for the model as it is."""

    @abstractmethod
    def apply(self, subject: Subject) -> Subject:
        """The model with this defense.

        Args:
            subject: The model as it was loaded.
        """


@dataclass(frozen=True, kw_only=True)
class Undefended(Defense):
    """The model as it is."""

    def apply(self, subject: Subject) -> Subject:
        """The model itself."""
        return subject


@dataclass(frozen=True, kw_only=True)
class Wrapped(Defense):
    """A wrapper around the model."""

    card: Card
    """Where it comes from."""
    wrapper: Wrapper
    """What is put around the model."""

    def apply(self, subject: Subject) -> Subject:
        """The wrapped model, which knows what it is without the wrapper."""
        classifier = self.wrapper.wrap(subject.classifier)
        wrapper = {"randomness": self.wrapper.randomness, "surrogate": self.wrapper.surrogate}
        known = replace(subject, about={**subject.about, "wrapper": wrapper})
        return derive(known, classifier, self.card, self.name, undefended=subject)


@dataclass(frozen=True, kw_only=True)
class Trained(Defense):
    """The same network, trained by a recipe."""

    card: Card
    """Where it comes from."""
    recipe: Recipe
    """How it is trained."""
    workshop: Workshop
    """What trains it."""

    def apply(self, subject: Subject) -> Subject:
        """The trained model."""
        classifier = self.workshop.train(subject.id, subject.classifier, self.card, self.recipe)
        fitted = fit_labels(subject.data, classifier.num_classes, classifier.class_names)
        about = {**subject.about, "num_classes": classifier.num_classes, "source": f"trained by {self.name}"}
        return derive(replace(subject, data=fitted, about=about), classifier, self.card, self.name)


def derive(
    subject: Subject, classifier: Classifier, card: Card, name: str, *, undefended: Subject | None = None
) -> Subject:
    """The subject that a defense makes of another one.

    Args:
        subject: The model as it was loaded.
        classifier: What the defense made of it.
        card: The defense.
        name: What it is called.
        undefended: What a naive attacker takes it for, if that is a classifier of its own.
    """
    digest = classifier.digest()
    about = {
        **subject.about,
        "defense": name,
        "digest": digest,
        "access": classifier.access,
        "notes": list(classifier.notes),
        "provenance": {**classifier.provenance, "defense": provenance(card)},
    }
    return replace(
        subject, defense=name, classifier=classifier, digest=digest, about=about, undefended=undefended
    )


def provenance(card: Card) -> dict[str, object]:
    """What a reader has to know to find a defense again."""
    return {"card": card.base, "method": card.method, "source": card.source, **card.parameters}


def resolve_defenses(grid: Grid, folders: Sequence[Path], workshop: Workshop) -> dict[str, list[Defense]]:
    """The defenses of every model, by its id, in the order of its list.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.
        workshop: What trains the models of recipes.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or a defense is listed twice.
    """
    common = _resolve(grid.defenses, folders, workshop, "defenses")
    return {
        model.id: common
        if model.defenses is None
        else _resolve(model.defenses, folders, workshop, f"model {model.id!r}, defenses")
        for model in grid.models
    }


def find_defense(
    name: str, overrides: Mapping[str, object], folders: Sequence[Path], workshop: Workshop
) -> list[Defense]:
    """The defenses that a card and its overrides mean: one, or one for each eps of a list.

    Args:
        name: A card such as ``jpeg-75``, or ``none``.
        overrides: Parameters to change.
        folders: Folders with the user's own cards.
        workshop: What trains the models of recipes.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown or impossible.
    """
    if name == NO_DEFENSE:
        if overrides:
            raise ConfigError(f"{NO_DEFENSE!r} has nothing to change", remedy="name a defense's card")
        return [Undefended(name=NO_DEFENSE)]
    card = find_card(name, kind="defense", extra=folders)
    if card.method in WRAPPERS:
        cards = expand(card, overrides, parameters=parameter_names(WRAPPERS[card.method]))
        return [
            Wrapped(name=each.name, card=each, wrapper=make_wrapper(each.method, each.parameters))
            for each in cards
        ]
    trained, recipe = with_settings(card, overrides)
    return [Trained(name=trained.name, card=trained, recipe=recipe, workshop=workshop)]


def _resolve(
    entries: Sequence[DefenseEntry], folders: Sequence[Path], workshop: Workshop, where: str
) -> list[Defense]:
    found: list[Defense] = []
    for entry in entries:
        for defense in find_defense(entry.card, entry.overrides, folders, workshop):
            if defense.name in {other.name for other in found}:
                raise ConfigError(f"the defense {defense.name!r} is listed twice", where=where)
            found.append(defense)
    return found
