"""Import of a user's file and its neighbours, always from the current sources.

Python caches imported modules, and identifies compiled files by their source's modification time in seconds.
Both could run code that no longer exists.
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
from robustbench_local.classifier.user_modules import USER_PREFIX, is_user_module, is_user_path, resolve_file
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
"""Modules imported by users' files: the module, its file and the file's SHA-256 at import."""


def import_file(path: Path) -> ModuleType:
    """Run a user's file as a module of its own.

    Args:
        path: The file.

    Raises:
        ModelError: If it is not a Python file, or raises.
    """
    # The name appears in tracebacks and pickles, so it depends on the code, not on the path or the process.
    name = f"{USER_PREFIX}{path.stem}_{digest_file(path)[:16]}"
    if path.suffix != ".py":
        raise ModelError("is not a Python file", where=path.name)
    specification = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if specification is None or specification.loader is None:
        raise ModelError("is not a Python file", where=path.name)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look up a class's module here
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
    """Make a file's neighbours importable inside the context, after everything that is installed.

    Modules that an earlier file imported from its folder are unloaded first, and so are modules whose source
    has changed.

    Returns:
        A set that holds, once the context is closed, the names of the user's modules imported inside it.
    """
    import_known_libraries()
    folder = str(path.parent.resolve())
    unloaded = _unload_modules(folder)
    previous_names, imported_names = set(sys.modules), set[str]()
    finder = _NeighbourFinder(folder)
    sys.meta_path.insert(0, finder)
    sys.path.append(folder)
    try:
        yield imported_names
    finally:
        with suppress(ValueError):  # the user's code may have removed it
            sys.meta_path.remove(finder)
        with suppress(ValueError):
            sys.path.remove(folder)
        imported_names |= {name for name in set(sys.modules) - previous_names if is_user_module(name)}
        _record_sources(imported_names)
        for name, module in unloaded.items():
            sys.modules.setdefault(name, module)


def import_known_libraries() -> None:
    """Import what this package builds on, with all that comes along.

    The modules that a user's file imports are those that were not loaded before it. An earlier use of one of
    these libraries must not change that set; forks of this process also share earlier imports.
    """
    for name in _KNOWN_LIBRARIES:
        importlib.import_module(name)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _FreshLoader(SourceFileLoader):
    """A loader that always compiles the current source and writes no bytecode cache."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and record its source, also for late imports."""
        super().exec_module(module)
        _record_sources({module.__name__})


class _NeighbourFinder(MetaPathFinder):
    """Finds installed modules first, then those in a folder; the user's sources get a `_FreshLoader`.

    Args:
        folder: The folder of the user's file.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module, or None to leave it to other finders."""
        if path is not None:
            return _refresh_spec(PathFinder.find_spec(fullname, path))
        installed = self._find_installed(fullname, target)
        if installed is not None:
            return _refresh_spec(installed) or installed
        loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FreshLoader, [".py"])
        return FileFinder(self._folder, *loaders).find_spec(fullname, target)

    def _find_installed(self, fullname: str, target: ModuleType | None) -> ModuleSpec | None:
        """Return the spec that the other finders return without the folder on the path."""
        other_paths = sys.path[:-1] if sys.path[-1] == self._folder else sys.path
        for finder in sys.meta_path:
            if isinstance(finder, _NeighbourFinder | _LateFinder):
                continue
            if finder is PathFinder:
                spec = PathFinder.find_spec(fullname, other_paths)
            else:
                find = getattr(finder, "find_spec", None)
                spec = find(fullname, None, target) if find is not None else None
            if spec is not None:
                return spec
        return None


class _LateFinder(MetaPathFinder):
    """Finds modules beside a user's file that are imported only while its model runs.

    Only names that the sources import are found, because these are in the model's identity, and only if not
    more than one folder has such a module.
    """

    def __init__(self) -> None:
        self.names_by_folder: dict[str, frozenset[str]] = {}
        """Folder of a user's file -> names that its sources import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module, or None to leave it to other finders."""
        top = fullname.partition(".")[0]
        folders = [folder for folder, names in self.names_by_folder.items() if top in names]
        if not folders or any(isinstance(finder, _NeighbourFinder) for finder in sys.meta_path):
            return None
        if path is not None:
            return _refresh_spec(PathFinder.find_spec(fullname, path))
        specs = [
            spec for folder in folders if (spec := _NeighbourFinder(folder).find_spec(fullname, path, target))
        ]
        return specs[0] if len({spec.origin for spec in specs}) == 1 else None


_late_finder = _LateFinder()


def allow_late_imports(path: Path, names: Collection[str]) -> None:
    """Let a user's file import its neighbours also while its model runs, as Python itself would.

    Args:
        path: The file.
        names: Dotted names that its sources and those of its neighbours import.
    """
    folder = str(path.parent.resolve())
    top_names = {name.partition(".")[0] for name in names}
    _late_finder.names_by_folder[folder] = _late_finder.names_by_folder.get(folder, frozenset()) | top_names
    if _late_finder not in sys.meta_path:
        sys.meta_path.insert(0, _late_finder)


def list_late_imports() -> dict[str, frozenset[str]]:
    """Return the names that may be imported while models run, by the folder of a user's file."""
    return dict(_late_finder.names_by_folder)


def _refresh_spec(spec: ModuleSpec | None) -> ModuleSpec | None:
    """Return a spec that recompiles a user's source; None for any other module."""
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


def _is_in_folder(path: str, folder: str) -> bool:
    """Return True if a path is in a user's folder, and not in a Python installation or library inside it."""
    resolved = _resolve_user_path(path)
    return resolved is not None and resolved.is_relative_to(folder)


@lru_cache(maxsize=20_000)
def _resolve_user_path(path: str) -> Path | None:
    """Return a user's path without links; None for Python's own files and those of libraries."""
    return resolve_file(path) if is_user_path(path) else None


def _unload_modules(folder: str) -> dict[str, ModuleType]:
    """Unload modules for a new import: those of a folder and of earlier files; all if any has changed.

    Returns:
        The unloaded modules whose source is unchanged, for models that import them while they run.
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
    unchanged = {}
    for name, (module, file, _) in list(_imported_sources.items()):
        is_reloadable = isinstance(getattr(module, "__loader__", None), _FreshLoader) or _is_in_folder(
            file, folder
        )
        if not changed and not is_reloadable:
            continue
        if sys.modules.get(name) is module:
            del sys.modules[name]
            if name not in changed:
                unchanged[name] = module
        if name in changed:
            del _imported_sources[name]
    return unchanged


def _find_source(module: object) -> str:
    """Return a module's Python source; "/", which is in no user's folder, if it has none."""
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
