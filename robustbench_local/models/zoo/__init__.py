"""The shipped weights: each a safetensors file beside a card that says how it was made."""

from __future__ import annotations

from pathlib import Path

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.models.weights_card import WeightsCard, read_weights_card

ZOO_FOLDER = Path(__file__).parent
"""Where the shipped cards and weights lie."""


def list_zoo(folder: Path = ZOO_FOLDER) -> list[str]:
    """The names of the shipped networks, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_zoo_card(name: str, folder: Path = ZOO_FOLDER) -> WeightsCard:
    """The card of a shipped network.

    Args:
        name: Its name.
        folder: Where cards and weights lie.

    Raises:
        ConfigError: If there is none of that name.
        ModelError: If its card is damaged.
    """
    names = list_zoo(folder)
    if name not in names:
        raise ConfigError(f"the zoo has no {name!r}", remedy=did_you_mean(name, names))
    return read_weights_card(folder / f"{name}.yaml", remedy="install the package again")
