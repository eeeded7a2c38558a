"""Imports inside functions of a user's model: the only code that does not travel with the model itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robustbench_local.extensions.user_import import allow_late_imports, list_late_imports


@dataclass(frozen=True)
class LateImports:
    """The sources in a user's folder that a model may import while it runs."""

    folder: str
    """The folder on the driver's machine."""
    names: frozenset[str]
    """Names that are imported."""
    sources: Mapping[str, bytes] = field(default_factory=dict)
    """Contents of their files, by the path inside the folder."""


_allowed: set[str] = set()
"""Folders of the driver whose names this process can import."""


def read_late_imports() -> tuple[LateImports, ...]:
    """Read the sources that the models of this process may import while they run."""
    found = []
    for folder, names in list_late_imports().items():
        paths = [path for name in sorted(names) if name for path in _list_sources(Path(folder), name)]
        sources = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        found.append(LateImports(folder, names, sources))
    return tuple(found)


def apply_late_imports(imports: tuple[LateImports, ...]) -> None:
    """Let this process import the same names: from the folder if it has these sources, else from copies."""
    for entry in imports:
        if entry.folder in _allowed or not entry.sources:
            continue
        _allowed.add(entry.folder)
        folder = Path(entry.folder)
        if not _holds_sources(folder, entry.sources):
            folder = Path(tempfile.mkdtemp(prefix="rbl-imports-"))
            for name, content in entry.sources.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        allow_late_imports(folder / "model.py", entry.names)


def _list_sources(folder: Path, name: str) -> list[Path]:
    single = folder / f"{name}.py"
    return [single] if single.is_file() else sorted((folder / name).rglob("*.py"))


def _holds_sources(folder: Path, sources: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == content for name, content in sources.items())
    except OSError:
        return False
