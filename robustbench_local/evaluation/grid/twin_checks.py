"""Checks of ``twin:`` in a grid: the float network that a shipped model was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustbench_local.errors import did_you_mean

if TYPE_CHECKING:
    from robustbench_local.evaluation.grid.schema import ModelEntry

TWIN_ID = "twin"
"""Id of a twin that the grid does not list among its models."""


def expand_twin(entry: Any) -> Any:
    """Expand a twin that is written as a source, and give it an id."""
    if isinstance(entry, str):
        return {"id": TWIN_ID, "source": entry}
    return {"id": TWIN_ID, **entry} if isinstance(entry, dict) else entry


def check_twin_entry(twin: ModelEntry | None, queries: int | None, model: str) -> None:
    """Refuse a twin with a twin or defenses of its own, and queries without a twin.

    Raises:
        ValueError: With what is wrong.
    """
    if twin is None:
        if queries is not None:
            raise ValueError(f"the model {model!r} has twin_queries and no twin; name its float network")
        return
    if twin.twin is not None or twin.defenses is not None:
        raise ValueError(f"the twin of {model!r} has a twin or defenses; it is used as it is")


def check_twin_source(source: str, model: str, ids: list[str]) -> None:
    """Refuse a twin that is the model itself, or neither a model of the grid nor a source.

    Raises:
        ValueError: With what is wrong.
    """
    if source == model:
        raise ValueError(f"the model {model!r} is its own twin; name the float network it was made from")
    if source not in ids and ":" not in source:
        raise ValueError(f"twin of {model!r} is neither a model nor a source: {did_you_mean(source, ids)}")
