"""The shipped weights: each a safetensors file beside a card that says how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.strict import Strict, read_yaml, validate
from robustbench_local.suggestion import did_you_mean

FOLDER = Path(__file__).parent
"""Where the shipped cards and weights lie."""


class ZooEntry(Strict):
    """A network that ships with the package, as its card describes it.

    Args:
        name: The card's own file name.
        weights: The file beside it.
        sha256: Of that file.
        architecture: One of `robustbench_local.models.architectures`.
        num_classes: How many logits.
        normalize: Means and standard deviations a channel, of images in [0, 1].
        class_names: One a class.
        provenance: How it was made and measured; shown in reports, never read by code.
    """

    schema_: Literal[1] = Field(alias="schema")
    name: str
    weights: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    architecture: str
    num_classes: Annotated[int, Field(ge=2)]
    normalize: tuple[tuple[float, ...], tuple[float, ...]]
    class_names: tuple[str, ...]
    provenance: dict[str, Any]


def list_zoo(folder: Path = FOLDER) -> list[str]:
    """The names of the shipped networks, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_zoo(name: str, folder: Path = FOLDER) -> ZooEntry:
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
    path = folder / f"{name}.yaml"
    try:
        entry = validate(ZooEntry, read_yaml(path, ConfigError), where=path.name, error=ConfigError)
    except ConfigError as error:
        raise ModelError(error.what, where=error.where, remedy="install the package again") from error
    if entry.name != name or entry.weights != Path(entry.weights).name:
        raise ModelError(f"the card names {entry.name!r} and {entry.weights!r}", where=path.name)
    return entry
