"""The goal of an attack on a data set: the threat model in class indices, and the images it applies to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.config.cards import CardThreat
from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.threats.threat_model import ThreatModel, is_target


@dataclass(frozen=True, kw_only=True)
class AttackGoal:
    """A threat model with its classes as indices, and the images that it applies to."""

    threat: ThreatModel
    """Budget and goal."""
    sources: tuple[int, ...]
    """Only images of these classes are attacked; empty: all."""
    positions: Tensor
    """The images of the data that are attacked, ascending, int64."""
    excluded: int
    """Images of the data that the goal does not apply to."""


def resolve_goal(
    card_threat: CardThreat, data: Dataset, *, limit: int | None = None, seed: int = 0
) -> AttackGoal:
    """Resolve the class names of a threat model to indices, and find the images that it applies to.

    Args:
        card_threat: The threat model of a card, its classes by name or index.
        data: The images, labels in the classifier's class indices.
        limit: Maximum number of attacked images, evenly over the classes; None for all applicable ones.
        seed: Decides which images are selected.

    Raises:
        ConfigError: If the data do not have one of the classes.
        ThreatError: If the radius or a target is impossible.
    """
    sources = resolve_classes(card_threat.sources, data.class_names)
    threat = card_threat.build_threat_model(resolve_classes(card_threat.targets, data.class_names))
    applicable = find_applicable_positions(data, threat, sources)
    ids = [data.ids[position] for position in applicable.tolist()]
    chosen = choose_images(ids, data.labels[applicable].tolist(), limit=limit, seed=seed)
    return AttackGoal(
        threat=threat,
        sources=sources,
        positions=applicable[chosen],
        excluded=len(data) - len(applicable),
    )


def find_applicable_positions(data: Dataset, threat: ThreatModel, sources: Collection[int] = ()) -> Tensor:
    """Return the positions of the images that a goal applies to.

    Args:
        data: The data set.
        threat: With targets, images whose label is itself a target are left out: a correct classification
            is no attack.
        sources: If given, only images of these classes.

    Returns:
        Positions in the data set, ascending, int64.
    """
    wanted = torch.ones(len(data), dtype=torch.bool)
    if sources:
        wanted &= is_target(data.labels, sources)
    if threat.targets:
        wanted &= ~is_target(data.labels, threat.targets)
    return wanted.nonzero().flatten()
