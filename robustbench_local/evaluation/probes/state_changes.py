"""Detection of changes to a model, and to the files around it, by an operation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.fresh_copy import is_own_adapter
from robustbench_local.classifier.hidden_state import describe_state, find_external_values
from robustbench_local.evaluation.probes.file_watch import watch_files

FILE_PREFIX = "file "
"""Prefix of a file's path, before its name."""
READ_FILE = "read and written"
"""Text in place of a digest for a file that is read, too."""


def find_state_changes(model: Classifier, act: Callable[[], object]) -> dict[str, str]:
    """Return the state of the model that an operation changed: digests afterwards, by path."""
    if is_own_adapter(model.model):
        act()
        return {}
    places = find_external_values(model.model)
    before = describe_state(model.model, places)
    with watch_files() as files:
        act()
    after = describe_state(model.model, places)
    changed = {path: text for path, text in after.items() if before.get(path) != text}
    return changed | {
        f"{FILE_PREFIX}{Path(file).name}": READ_FILE if is_read else "" for file, is_read in files.items()
    }


def format_names(names: Collection[str], most: int = 2) -> str:
    """Format the first names, and the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(sorted(names)[:most])}{more}"
