"""Importing a user's own file and its neighbours: afresh each time, from the sources as they lie there now.

Python keeps what was imported, and knows compiled files by the second in which their source was written: both
would let code run that is no longer there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.user_modules import USER_PREFIX, is_user_module, is_user_path
from robustbench_local.errors import ModelError

_KNOWN_LIBRARIES = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "pyautoattack.checks",
    "scipy.ndimage",
    "scipy.special",
    "torch._inductor.config",
    "torchvision",
)
"""Libraries that this package imports when it needs them."""
_imported_sources: dict[str, tuple[ModuleType, str, str]] = {}
"""Modules that users' files brought in: the module, its file and the file's SHA-256 when it was imported."""


def import_file(path: Path) -> ModuleType:
    """Run a user's file as a module of its own.

    Args:
        path: The file.

    Raises:
        ModelError: If it is no Python file, or raises.
    """
    # The name goes into tracebacks and pickles: it follows the code, not the place or the process.
    name = f"{USER_PREFIX}{path.stem}_{digest_file(path)[:16]}"
    if path.suffix != ".py":
        raise ModelError("is not a Python file", where=path.name)
    specification = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if specification is None or specification.loader is None:
        raise ModelError("is not a Python file", where=path.name)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where dataclasses and pickle look a class's module up
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(
            f"raised {type(error).__name__} on import: {extract_first_line(error)}", where=path.name
        ) from error
    return module


@contextmanager
def importable_neighbours(path: Path) -> Iterator[set[str]]:
    """While open, a file's neighbours can be imported, but only after everything that is installed.

    What an earlier file brought in from its folder is forgotten first, and so is all that has changed since.

    Returns:
        When it closes: the names of all modules that were imported meanwhile and are the user's.
    """
    import_known_libraries()
    folder = str(path.parent.resolve())
    kept = _unload_modules(folder)
    before, brought = set(sys.modules), set[str]()
    finder = _NeighbourFinder(folder)
    sys.meta_path.insert(0, finder)
    sys.path.append(folder)
    try:
        yield brought
    finally:
        with suppress(ValueError):  # the user's code may have tidied up
            sys.meta_path.remove(finder)
        with suppress(ValueError):
            sys.path.remove(folder)
        brought |= {name for name in set(sys.modules) - before if is_user_module(name)}
        _record_sources(brought)
        for name, module in kept.items():
            sys.modules.setdefault(name, module)


def import_known_libraries() -> None:
    """Import what this package builds on, with all that comes along.

    What a user's file brings in is told by what was not there before. Whether one of these libraries was
    needed earlier must not change that; and copies of this process share what was imported before.
    """
    for name in _KNOWN_LIBRARIES:
        importlib.import_module(name)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _FreshLoader(SourceFileLoader):
    """Compiles the source that is there, whatever a cache of bytecode says, and leaves no cache."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and remember which source that was, also where nobody is waiting for it."""
        super().exec_module(module)
        _record_sources({module.__name__})


class _NeighbourFinder(MetaPathFinder):
    """Finds what others find, and then what lies in a folder; sources of the user's get a `_FreshLoader`.

    Args:
        folder: The folder of the user's file.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of a module; None where it is for others to find."""
        if path is not None:
            return _refresh_spec(PathFinder.find_spec(fullname, path))
        found = self._find_installed(fullname, target)
        if found is not None:
            return _refresh_spec(found) or found
        loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FreshLoader, [".py"])
        return FileFinder(self._folder, *loaders).find_spec(fullname, target)

    def _find_installed(self, fullname: str, target: ModuleType | None) -> ModuleSpec | None:
        """What the other finders would find without the folder at the end of the path."""
        elsewhere = sys.path[:-1] if sys.path[-1] == self._folder else sys.path
        for finder in sys.meta_path:
            if isinstance(finder, _NeighbourFinder | _LateFinder):
                continue
            if finder is PathFinder:
                spec = PathFinder.find_spec(fullname, elsewhere)
            else:
                find = getattr(finder, "find_spec", None)
                spec = find(fullname, None, target) if find is not None else None
            if spec is not None:
                return spec
        return None


class _LateFinder(MetaPathFinder):
    """Finds what lies beside a user's file and is imported only while its model answers.

    Only names that the sources import are found, which are in the model's identity, and none of which two
    folders have a module.
    """

    def __init__(self) -> None:
        self.names_by_folder: dict[str, frozenset[str]] = {}
        """The folders of users' files, with the names that their sources import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of a module; None where it is for others to find."""
        top = fullname.partition(".")[0]
        folders = [folder for folder, names in self.names_by_folder.items() if top in names]
        if not folders or any(isinstance(finder, _NeighbourFinder) for finder in sys.meta_path):
            return None
        if path is not None:
            return _refresh_spec(PathFinder.find_spec(fullname, path))
        found = [
            spec for folder in folders if (spec := _NeighbourFinder(folder).find_spec(fullname, path, target))
        ]
        return found[0] if len({spec.origin for spec in found}) == 1 else None


_late_finder = _LateFinder()


def allow_late_imports(path: Path, names: Collection[str]) -> None:
    """Let a user's file import its neighbours while its model answers, too, as Python itself would.

    Args:
        path: The file.
        names: Dotted names that its sources and those of its neighbours import.
    """
    folder = str(path.parent.resolve())
    tops = {name.partition(".")[0] for name in names}
    _late_finder.names_by_folder[folder] = _late_finder.names_by_folder.get(folder, frozenset()) | tops
    if _late_finder not in sys.meta_path:
        sys.meta_path.insert(0, _late_finder)


def _refresh_spec(spec: ModuleSpec | None) -> ModuleSpec | None:
    """The place of a source of the user's, to be compiled as it lies there; None for any other."""
    if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
        return None
    if not is_user_module(spec.name, spec.origin) or not is_user_path(spec.origin):
        return None
    return importlib.util.spec_from_file_location(
        spec.name,
        spec.origin,
        loader=_FreshLoader(spec.name, spec.origin),
        submodule_search_locations=spec.submodule_search_locations,
    )


@lru_cache(maxsize=20_000)
def _is_in_folder(place: str, folder: str) -> bool:
    """Whether a path lies in a user's folder, and not in a Python or among libraries that lie there, too."""
    return Path(place).resolve().is_relative_to(folder) and is_user_path(place)


def _unload_modules(folder: str) -> dict[str, ModuleType]:
    """Let modules be imported again: those of a folder and of earlier files', others if any has changed.

    Returns:
        Those that are still what lies on the disk, for models that import them while they answer.
    """
    _record_sources(
        {
            name
            for name, module in list(sys.modules.items())
            if name != "__main__"
            and name not in _imported_sources
            and _is_in_folder(_find_source(module), folder)
        }
    )
    changed = {name for name, (_, file, digest) in _imported_sources.items() if _is_changed(file, digest)}
    kept = {}
    for name, (module, file, _) in list(_imported_sources.items()):
        fresh = isinstance(getattr(module, "__loader__", None), _FreshLoader) or _is_in_folder(file, folder)
        if not changed and not fresh:
            continue
        if sys.modules.get(name) is module:
            del sys.modules[name]
            if name not in changed:
                kept[name] = module
        if name in changed:
            del _imported_sources[name]
    return kept


def _find_source(module: object) -> str:
    """A module's Python source; another path than any in a user's folder where it has none."""
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else "/"


def _is_changed(file: str, digest: str) -> bool:
    return not Path(file).is_file() or digest_file(Path(file)) != digest


def _record_sources(names: set[str]) -> None:
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is not None and file and Path(file).is_file() and not name.startswith(USER_PREFIX):
            _imported_sources[name] = (module, file, digest_file(Path(file)))
