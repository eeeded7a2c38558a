"""The shipped weights: safetensors files, each with a card about its training."""

from __future__ import annotations

from pathlib import Path

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.models.weights_card import WeightsCard, read_weights_card

ZOO_FOLDER = Path(__file__).parent
"""Folder of the shipped cards and weights."""


def list_zoo(folder: Path = ZOO_FOLDER) -> list[str]:
    """Return the names of the shipped networks, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_zoo_card(name: str, folder: Path = ZOO_FOLDER) -> WeightsCard:
    """Return the card of a shipped network.

    Args:
        name: Its name.
        folder: Folder of the cards and weights.

    Raises:
        ConfigError: If there is none of that name.
        ModelError: If its card is damaged.
    """
    names = list_zoo(folder)
    if name not in names:
        raise ConfigError(f"the zoo has no {name!r}", remedy=did_you_mean(name, names))
    return read_weights_card(folder / f"{name}.yaml", remedy="install the package again")
