"""Cards of named hardware: those of the package, and those of the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from robustbench_local.config.display_names import check_display_name
from robustbench_local.config.strict_yaml import StrictModel, decode_yaml, read_yaml, validate
from robustbench_local.errors import ConfigError, did_you_mean

_WHERE = "--hardware"
_CARDS_FILE = "hardware_cards.yaml"
Throughput = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class HardwareCard(StrictModel):
    """One accelerator, or any other machine."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
    """Name on the command line."""
    title: Annotated[str, AfterValidator(check_display_name)]
    """Name in the plan."""
    fp32_tflops: Throughput
    """Peak throughput in single precision, in 10^12 operations a second."""
    bf16_tflops: Throughput | None = None
    """The same in bfloat16, without sparsity; None if it has none."""
    price_per_hour: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    """Price of an hour; None if unknown."""
    source: Annotated[str, AfterValidator(check_display_name)]
    """Where the throughput is published, and when."""


class _HardwareFile(StrictModel):
    schema_: Literal[1] = Field(default=1, alias="schema")
    cards: Annotated[list[HardwareCard], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_names(self) -> _HardwareFile:
        names = [card.name for card in self.cards]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the card {name!r} is there twice")
        return self


def find_hardware(entries: Sequence[str], price_per_hour: float | None = None) -> tuple[HardwareCard, ...]:
    """Find the cards that a user names.

    Args:
        entries: Names of cards, and files with cards, which end with ``.yaml`` or ``.yml``. A file adds its
            cards; where no card is named, all cards of the files are meant.
        price_per_hour: Price of an hour of any of them; None: that of the card, if it has one.

    Returns:
        The cards, each once.

    Raises:
        ConfigError: If there is no such card, or a file cannot be read.
    """
    files = [entry for entry in entries if Path(entry).suffix in {".yaml", ".yml"}]
    own = {card.name: card for file in files for card in _read_file(Path(file))}
    known = {card.name: card for card in _read_shipped()} | own
    names = [entry for entry in entries if entry not in files] or list(own)
    for name in names:
        if name not in known:
            remedy = f"{did_you_mean(name, known).removesuffix('?')}; a file of your own ends with .yaml"
            raise ConfigError(f"there is no card {name!r}", where=_WHERE, remedy=remedy)
    cards = [known[name] for name in dict.fromkeys(names)]
    if price_per_hour is not None:
        cards = [card.model_copy(update={"price_per_hour": price_per_hour}) for card in cards]
    return tuple(cards)


def _read_file(path: Path) -> list[HardwareCard]:
    content = read_yaml(path, ConfigError)
    return validate(_HardwareFile, content, where=str(path), error=ConfigError).cards


def _read_shipped() -> list[HardwareCard]:
    content = resources.files(__package__).joinpath(_CARDS_FILE).read_bytes()
    parsed = decode_yaml(content, where=_CARDS_FILE, error=ConfigError)
    return validate(_HardwareFile, parsed, where=_CARDS_FILE, error=ConfigError).cards
