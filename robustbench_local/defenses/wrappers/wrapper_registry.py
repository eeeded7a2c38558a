"""The wrapper defenses by name, and their construction from a card's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import find_card
from robustbench_local.config.hyperparameters import build_dataclass
from robustbench_local.defenses.wrappers.base import Wrapper
from robustbench_local.errors import ConfigError
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.extensions.open_registry import OpenRegistry

WRAPPERS: OpenRegistry[Wrapper] = OpenRegistry(
    "wrapper defense",
    Wrapper,  # type: ignore[type-abstract]  # for subclass checks only
    {
        "bit-depth": "robustbench_local.defenses.wrappers.bit_depth:BitDepth",
        "jpeg": "robustbench_local.defenses.wrappers.jpeg:JPEG",
        "median": "robustbench_local.defenses.wrappers.median:MedianBlur",
        "noise": "robustbench_local.defenses.wrappers.gaussian_noise:GaussianNoise",
        "resize-pad": "robustbench_local.defenses.wrappers.resize_pad:ResizePad",
        "smoothing": "robustbench_local.defenses.wrappers.smoothing:RandomizedSmoothing",
    },
    group="defenses",
)
"""Wrapper defenses by the ``method`` of a card."""


def build_wrapper(name: str, given: Mapping[str, Any] | None = None) -> Wrapper:
    """Build a wrapper from its name and parameters, as on a card or in a grid file.

    Args:
        name: A name in ``WRAPPERS``.
        given: Parameters; all others have their defaults.

    Raises:
        ConfigError: If the name, a parameter or a value is invalid.
    """
    return build_dataclass(WRAPPERS[name], given or {}, where=f"defense {name!r}")


def defend(
    classifier: Classifier,
    defense: str | Wrapper,
    *,
    cards: Sequence[Path | str] = (),
    allow_code: bool = False,
    **parameters: Any,
) -> Classifier:
    """Put a wrapper defense around a classifier.

    Args:
        classifier: Any classifier; it is not changed and can be attacked without the defense.
        defense: A card such as ``"jpeg-75"``, a custom wrapper, an entry point, or ``"python:FILE.py:NAME"``.
        cards: Folders with custom cards.
        allow_code: Whether ``python:FILE.py:NAME`` may run its file.
        **parameters: Parameters that replace those of the card: ``quality=50``.

    Returns:
        The defended classifier. Attacks pass through the defense, by its surrogate if it has no useful
        gradient; for a stochastic defense they average over 20 draws.

    Raises:
        CardError: If there is no such card.
        ConfigError: If the card's defense has to be trained, or a parameter is invalid.
    """
    if isinstance(defense, Wrapper):
        if parameters:
            raise ConfigError("a wrapper has its parameters already", remedy="set them where it is made")
        return defense.wrap(classifier)
    with permit_code(allow_code):
        if WRAPPERS.is_outside(defense):
            return build_wrapper(defense, parameters).wrap(classifier)
    card = find_card(defense, kind="defense", extra=[Path(folder) for folder in cards])
    if card.method not in WRAPPERS:
        raise ConfigError(
            f"the defense {card.name!r} is a recipe: it makes a new model by training",
            remedy=f"train it with rbl train {card.name}, and load the weights",
        )
    return build_wrapper(card.method, {**card.parameters, **parameters}).wrap(classifier)
