"""Checks of ``twin:`` in a grid: the float network that a shipped model was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from robustbench_local.errors import did_you_mean

if TYPE_CHECKING:
    from robustbench_local.evaluation.grid.schema import ModelEntry

TWIN_ID = "twin"
"""Id of a twin that the grid does not list among its models."""


def expand_twin(entry: Any) -> Any:
    """Expand a twin that is written as a source, and give it an id.

    Raises:
        ValueError: If it is neither text nor a mapping.
    """
    if isinstance(entry, str):
        return {"id": TWIN_ID, "source": entry}
    if entry is None or isinstance(entry, BaseModel):
        return entry
    if isinstance(entry, dict):
        return {"id": TWIN_ID, **entry}
    raise ValueError("a twin is a source, the id of another model, or a mapping of model keys")


def check_twin(model: ModelEntry, ids: list[str]) -> None:
    """Refuse a twin that is the model itself or has a twin, or that is neither a model nor a source.

    Args:
        model: The model.
        ids: Ids of the models of the grid.

    Raises:
        ValueError: With what is wrong.
    """
    twin, name = model.twin, model.id
    if twin is None:
        if model.twin_queries is not None:
            raise ValueError(f"the model {name!r} has twin_queries and no twin; name its float network")
        return
    if twin.twin is not None or twin.defenses is not None:
        raise ValueError(f"the twin of {name!r} has a twin or defenses; it is used as it is")
    if twin.source == name:
        raise ValueError(f"the model {name!r} is its own twin; name the float network it was made from")
    if twin.source not in ids and ":" not in twin.source:
        others = [other for other in ids if other != name]
        remedy = did_you_mean(twin.source, others) if others else "write a source such as zoo:signs-plain"
        raise ValueError(f"twin of {name!r} is neither a model nor a source: {remedy}")
