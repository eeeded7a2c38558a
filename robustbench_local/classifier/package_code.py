"""The parts of this package's own code that an object depends on, computed from imports."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from robustbench_local.classifier.source_imports import iterate_imported_names
from robustbench_local.errors import InvariantError

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
_LAZY_IMPORT = re.compile(rf"[\"']({PACKAGE_FOLDER.name}(?:\.\w+)+)")


def find_reached_modules(roots: Iterable[str], package: Path = PACKAGE_FOLDER) -> dict[str, bytes]:
    """Find the modules that roots import, directly or indirectly, and the roots themselves.

    Names in strings count as imports, because registries name their modules by strings. Packages on the path
    count, because their ``__init__`` runs too; only the outermost is left out, because it re-exports
    everything.

    Args:
        roots: Dotted names of modules, or of folders that stand for everything in them.
        package: The package's folder; its name is the first part of every dotted name.

    Returns:
        Paths inside the package, as in ``"attacks/pgd.py"``, to their bytes, sorted.

    Raises:
        InvariantError: If a root names no module, which a digest would silently miss.
    """
    files = _list_module_files(package)
    waiting: list[str] = []
    for root in roots:
        below = [name for name in files if f"{name}.".startswith(f"{root}.")]
        if not below:
            raise InvariantError(
                f"the package has no module {root!r}, which a digest of its code starts from"
            )
        waiting += below
    contents: dict[str, bytes] = {}
    queued = set(waiting)
    while waiting:
        name = waiting.pop()
        path = package / files[name]
        contents[files[name]] = content = path.read_bytes()
        text = content.decode("utf-8", "replace")
        names = {
            *iterate_imported_names(text, name, is_package=path.name == "__init__.py"),
            *_LAZY_IMPORT.findall(text),
        }
        reached = {
            candidate
            for imported in names
            for candidate in (imported, *_list_parents(imported))
            if candidate in files
        } - queued
        queued |= reached
        waiting += reached
    return dict(sorted(contents.items()))


def digest_code(roots: Iterable[str], package: Path = PACKAGE_FOLDER) -> str:
    """Return the SHA-256 over the paths and bytes of the modules that roots reach.

    Args:
        roots: As in `find_reached_modules`.
        package: The package's folder.
    """
    return _digest_modules(tuple(roots), package)


@cache
def _digest_modules(roots: tuple[str, ...], package: Path) -> str:
    # Once per process: the running code is the code at the time of its import.
    digest = hashlib.sha256()
    for path, content in find_reached_modules(roots, package).items():
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _list_module_files(package: Path) -> dict[str, str]:
    """Map every module's dotted name to its path inside the package, without the package's ``__init__``."""
    module_files = {}
    for folder, _, names in os.walk(package):
        parts = Path(folder).relative_to(package).parts
        for name in names:
            if name.endswith(".py"):
                own = () if name == "__init__.py" else (name.removesuffix(".py"),)
                module_files[".".join((package.name, *parts, *own))] = "/".join((*parts, name))
    module_files.pop(package.name, None)
    return module_files


def _list_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
