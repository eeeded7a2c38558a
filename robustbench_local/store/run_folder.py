"""The content of a run directory, and the conditions for starting or resuming a run in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from robustbench_local.errors import ConfigError
from robustbench_local.store.atomic_files import convert_storage_errors

DATABASE_NAME, RESOLVED_GRID_NAME, LOCK_NAME = "run.db", "run.yaml", "run.lock"
LOAD_TEST_NAME = "load_test.json"
"""Load tests of the run's models; ``rbl load-test`` writes it, before the run or after."""
_OWN_NAMES = frozenset({LOCK_NAME, LOAD_TEST_NAME})
UNKNOWN_IDENTITY = "unknown"
"""Part of a run's identity that is unknown, such as the digest of a model that cannot be loaded; it matches
any value."""

SHARD_PART = "shard"
"""Part of the identity of a run that has some of the images: which shard of how many, such as ``2/8``."""


def refuse_foreign_folder(directory: Path) -> None:
    """Refuse a non-empty folder that holds no run."""
    with convert_storage_errors(directory):
        names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    if DATABASE_NAME not in names and (foreign := [name for name in names if name not in _OWN_NAMES]):
        what = f"the folder is not empty and contains no run (it has {foreign[0]!r})"
        raise ConfigError(what, where=str(directory), remedy="choose a new or empty folder")


def refuse_other_run(directory: Path, stored: Mapping[str, str], requested: Mapping[str, str]) -> None:
    """Refuse to resume the run of another grid, which would mix two experiments in one table."""
    unknown = {
        key for known in (stored, requested) for key, value in known.items() if value == UNKNOWN_IDENTITY
    }
    # If a model could not be loaded in either run, its parts are unknown too.
    models = tuple(f" of model {key.partition(' of model ')[2]}" for key in unknown if " of model " in key)
    shard, other = (known.get(SHARD_PART) for known in (stored, requested))
    if shard != other:
        raise ConfigError(
            f"the folder contains {_name_shard(shard)}, and this is {_name_shard(other)}",
            where=str(directory),
            remedy="give each shard an --out of its own",
        )
    differing = [
        key
        for key in sorted({*stored, *requested} - unknown)
        if stored.get(key) != requested.get(key) and not key.endswith(models)
    ]
    if not differing:
        return
    parts = [
        f"{key}: {_shorten_value(stored.get(key))} there, {_shorten_value(requested.get(key))} here"
        for key in differing[:3]
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise ConfigError(
        f"the folder contains a run of another grid ({'; '.join(parts)}{more})",
        where=str(directory),
        remedy="use another --out, or the grid of this run",
    )


def _name_shard(shard: str | None) -> str:
    return "a run of all images" if shard is None else f"shard {shard.replace('/', ' of ')}"


def _shorten_value(value: str | None) -> str:
    if value is None:
        return "absent"
    return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", value) else value
