"""The card beside a weights file: the network, and the origin of the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from robustbench_local.classifier.input_contract import InputContract, make_contract
from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.strict_yaml import StrictModel, read_yaml, validate
from robustbench_local.errors import ConfigError, ModelError


class WeightsCard(StrictModel):
    """The metadata that turn a weights file into a classifier, and the weights' origin.

    Args:
        name: The card's own file name.
        weights: The file beside it.
        sha256: SHA-256 of that file.
        architecture: One of ``ARCHITECTURES`` in the network registry, or ``torchvision:NAME``,
            ``timm:NAME``, ``python:FILE.py:NAME``.
        num_classes: Number of logits.
        normalize: Means and standard deviations per channel, of images in [0, 1]; None for none.
        input_size: (H, W) that images are resized to; None for any.
        preprocessing: Other fields of the model's `InputContract`, where they are not the defaults.
        class_names: One name per class.
        provenance: Training and measurements; shown in reports, never used by code.
    """

    schema_: Literal[1] = Field(alias="schema")
    name: str
    weights: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    architecture: str
    num_classes: Annotated[int, Field(ge=2)]
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None
    input_size: tuple[int, int] | None = None
    preprocessing: dict[str, Any] | None = None
    class_names: tuple[str, ...]
    provenance: dict[str, Any]

    def build_contract(self) -> InputContract:
        """Return how the model takes its images.

        Raises:
            ConfigError: If the card's values are impossible.
        """
        contract = make_contract(self.preprocessing, normalize=self.normalize, input_size=self.input_size)
        return replace(contract, origin="card", overridden=None)


def read_weights_card(path: Path, *, remedy: str) -> WeightsCard:
    """Read the card beside a weights file.

    Args:
        path: The YAML file.
        remedy: Advice if it is damaged.

    Raises:
        ModelError: If it is damaged, or describes another file.
    """
    try:
        card = validate(WeightsCard, read_yaml(path, ConfigError), where=path.name, error=ConfigError)
    except ConfigError as error:
        raise ModelError(error.what, where=error.where, remedy=remedy) from error
    if card.name != path.stem or card.weights != Path(card.weights).name:
        raise ModelError(f"the card names {card.name!r} and {card.weights!r}", where=path.name, remedy=remedy)
    return card


def find_card(weights: str, base_folder: Path | None = None) -> WeightsCard | None:
    """Find the card that `rbl train` wrote beside a weights file, or return None.

    Args:
        weights: The weights file.
        base_folder: The folder in which a relative path is looked up.

    Raises:
        ModelError: If there is no such weights file, or its card is damaged.
    """
    path = find_file(weights, base_folder).with_suffix(".yaml")
    if not path.is_file():
        return None
    card = read_weights_card(path, remedy="remove it and set architecture, or train again")
    return card if card.weights == Path(weights).name else None
