"""The imports of a Python source, read from its text without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_IMPORT = re.compile(r"^[ \t]*import[ \t]+(?P<names>[^\n#;]+)", re.MULTILINE)
_FROM = re.compile(
    r"^[ \t]*from[ \t]+(?P<module>[.\w]+)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n#;(]+)", re.MULTILINE
)
_COMMENT = re.compile(r"#[^\n]*")
_LINE_CONTINUATION = re.compile(r"\\\r?\n")
_NAME = re.compile(r"[^\W\d]\w*(\.\w+)*")


def iterate_imported_names(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Iterate over dotted names of modules that a source may import; some are names in modules.

    It searches the text, which is many times faster than parsing it and finds the same imports. Strings that
    look like an import are included as well, which does no harm.

    Args:
        source: The text.
        module: The module's own dotted name, from which relative imports start.
        is_package: Whether it is a package's ``__init__``.
    """
    source = _LINE_CONTINUATION.sub(" ", source)
    for match in _IMPORT.finditer(source):
        for name in _iterate_names(match["names"]):
            yield from _iterate_parents(name)
    for match in _FROM.finditer(source):
        origin = _resolve_name(match["module"], module, is_package=is_package)
        if origin:
            yield from _iterate_parents(origin)
        for name in _iterate_names(match["names"]):
            yield f"{origin}.{name}" if origin else name


def _iterate_names(text: str) -> Iterator[str]:
    """Iterate over the names of an import list, without their aliases."""
    for part in _COMMENT.sub("", text).strip("() \t\n").split(","):
        match = _NAME.match(part.strip())
        if match is not None:
            yield match[0]


def _resolve_name(name: str, module: str, *, is_package: bool) -> str:
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    parts = module.split(".") if is_package else module.split(".")[:-1]
    parents = parts[: len(parts) - (level - 1)]
    return ".".join([*parents, *filter(None, [name.lstrip(".")])])


def _iterate_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
