"""The rule of a grid file that ends a run before its last image."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from robustbench_local.config.strict_yaml import StrictModel
from robustbench_local.number_parser import parse_number

DECIDED = "decided"
"""The rule that ends a run once every gate is decided."""


def parse_precision(value: Any) -> float:
    """Parse a half-width: a share such as ``0.02``, or ``2%``.

    Raises:
        ValueError: If it cannot be read, or does not lie between 0 and 50%.
    """
    is_percent = isinstance(value, str) and value.rstrip().endswith("%")
    try:
        number = parse_number(value.rstrip()[:-1] if is_percent else value)
    except ValueError:
        raise ValueError(f"cannot read the precision {value!r}: write a share such as 2% or 0.02") from None
    share = number / 100 if is_percent else number
    if not 0 < share < 0.5:
        raise ValueError(f"a precision lies between 0 and 50%, got {value}")
    return share


def _expand_rule(value: Any) -> Any:
    """Expand the rule that is written as one word."""
    return {DECIDED: True} if value == DECIDED else value


class StopEntry(StrictModel):
    """When a run ends before its last image."""

    decided: bool = False
    """Once the images left cannot change the verdict of any gate; ``stop: decided`` is short for it."""
    precision: Annotated[float, BeforeValidator(parse_precision)] | None = None
    """Once robust accuracy in the worst case is known to this half-width on every model, such as ``2%``."""

    @model_validator(mode="after")
    def _check_rule(self) -> StopEntry:
        if not self.decided and self.precision is None:
            raise ValueError("stop is decided, {precision: 2%}, or both")
        return self


Stop = Annotated[StopEntry, BeforeValidator(_expand_rule)]
