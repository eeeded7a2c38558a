"""The parts of a grid file that decide verdicts, flat, so that a difference can be named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from robustbench_local.evaluation.grid.schema import Grid

VERDICT_KEYS = ("seed", "data", "models", "defenses", "attacks", "search_precision", "skip_verified")
"""Parts of a grid file that decide verdicts; the others may change between two runs of the same evidence."""
_GROUP_KEYS = ("groups", "group_pattern", "groups_key")
"""Keys of the data that decide intervals only."""
_LATER_KEYS = ("preprocessing", "interpolation", "twin", "twin_queries", "exclude")
"""Keys of models and data that count only where they are set: runs from before there were such keys go on."""


def flatten_verdict_keys(grid: Grid) -> dict[str, str]:
    """Return everything in a grid that decides verdicts: path of the key -> its value as text."""
    content = grid.dump_without_names()
    for model in content["models"]:
        if model["endpoint"]:
            model["endpoint"] = {key: model["endpoint"][key] for key in ("format", "key")}  # not its patience
    content["data"] = {key: value for key, value in content["data"].items() if key not in _GROUP_KEYS}
    twins = [model["twin"] for model in content["models"] if model["twin"] is not None]
    for entry in (*content["models"], *twins, content["data"]):
        for key in _LATER_KEYS:
            if key in entry and entry[key] is None:
                del entry[key]
    return dict(_flatten_content({key: content[key] for key in VERDICT_KEYS}))


def _flatten_content(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten_content(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _flatten_content(value, f"{path}[{index}]")
    else:
        yield path, str(content)
