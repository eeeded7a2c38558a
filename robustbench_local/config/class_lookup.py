"""Classes as cards, grid files and gates name them: names, beginnings of names, or indices."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.errors import ConfigError, did_you_mean


def resolve_classes(entries: Sequence[int | str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Convert class names or indices, as in cards and grid files, to indices.

    Args:
        entries: Indices, or names in any case; a unique prefix of a name is enough.
        class_names: Name of each class index.

    Returns:
        The indices in the order of ``entries``, each once.

    Raises:
        ConfigError: If an index is out of range, or a name is unknown or matches several classes.
    """
    return tuple(dict.fromkeys(_resolve_class(entry, class_names) for entry in entries))


def _resolve_class(entry: int | str, class_names: Sequence[str]) -> int:
    keys = [normalize_class_name(name) for name in class_names]
    if isinstance(entry, str):
        wanted = normalize_class_name(entry)
        exact = [index for index, key in enumerate(keys) if key == wanted]
        matches = exact or [index for index, key in enumerate(keys) if wanted and key.startswith(wanted)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(f"{index} {class_names[index]}" for index in matches[:5])
            raise ConfigError(f"the class {entry!r} is ambiguous: {choices}", remedy="write its number")
        if not wanted.isdecimal():
            raise _build_unknown_class_error(entry, class_names)
    index = int(entry)
    if isinstance(entry, bool) or not 0 <= index < len(class_names):
        raise ConfigError(f"there is no class {entry!r}: the classes are 0 to {len(class_names) - 1}")
    return index


def _build_unknown_class_error(entry: str, class_names: Sequence[str]) -> ConfigError:
    if list(class_names) == [str(index) for index in range(len(class_names))]:
        remedy = "write its number: neither the data nor the model has class names"
    else:
        remedy = did_you_mean(entry, class_names, limit=5)
    return ConfigError(f"there is no class {entry!r}", remedy=remedy)


def normalize_class_name(name: str) -> str:
    """Normalize a name: case does not count, and underscores equal spaces."""
    return " ".join(str(name).replace("_", " ").casefold().split())
