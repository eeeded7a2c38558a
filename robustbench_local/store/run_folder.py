"""What a run directory holds, and whether it may become or stay that of a certain run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from robustbench_local.errors import ConfigError
from robustbench_local.store.atomic_files import convert_storage_errors

DATABASE_NAME, RESOLVED_GRID_NAME, LOCK_NAME = "run.db", "run.yaml", "run.lock"
UNKNOWN_IDENTITY = "unknown"
"""Part of a run's identity that could not be found out, such as the digest of a model that cannot be loaded:
it agrees with any other."""


def refuse_foreign_folder(directory: Path) -> None:
    """A folder with things in it that is no run stays as it is."""
    with convert_storage_errors(directory):
        names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    if DATABASE_NAME not in names and any(name != LOCK_NAME for name in names):
        what = f"the folder is not empty and holds no run (it has {names[0]!r})"
        raise ConfigError(what, where=str(directory), remedy="choose a new or empty folder")


def refuse_other_run(directory: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Resuming another grid's run would mix two experiments in one table."""
    unknown = {key for known in (there, here) for key, value in known.items() if value == UNKNOWN_IDENTITY}
    # Where a model could not be used, there or here, nothing is known of its parts either.
    models = tuple(f" of model {key.partition(' of model ')[2]}" for key in unknown if " of model " in key)
    differing = [
        key
        for key in sorted({*there, *here} - unknown)
        if there.get(key) != here.get(key) and not key.endswith(models)
    ]
    if not differing:
        return
    parts = [
        f"{key}: {_shorten_value(there.get(key))} there, {_shorten_value(here.get(key))} here"
        for key in differing[:3]
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise ConfigError(
        f"the folder holds a run of another grid ({'; '.join(parts)}{more})",
        where=str(directory),
        remedy="use another --out, or the grid of this run",
    )


def _shorten_value(value: str | None) -> str:
    if value is None:
        return "absent"
    return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", value) else value
