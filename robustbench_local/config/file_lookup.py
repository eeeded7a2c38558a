"""Lookup of files named in a grid or a command; symbolic links must not lead out of their folder."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from robustbench_local.config.user_files import check_user_file
from robustbench_local.errors import ModelError, RefusedError


def find_file(name: str, base_folder: Path | None = None) -> Path:
    """Return the file of that name.

    Args:
        name: A path; a relative one is looked up in ``base_folder``, then in the working directory.
        base_folder: The folder of the grid file.

    Returns:
        The path of the file, not resolved.

    Raises:
        ModelError: If there is no such regular file, or it is too large or sparse.
        RefusedError: If a symbolic link leads out of the folder in which the name was looked up.
    """
    name_path = Path(name).expanduser()
    roots = (
        [name_path.parent]
        if name_path.is_absolute()
        else [*([base_folder] if base_folder else []), Path.cwd()]
    )
    for root in roots:
        candidate = root / (name_path.name if name_path.is_absolute() else name_path)
        if _is_file(candidate):
            check_user_file(candidate, where=name, error=ModelError)
            return _check_inside(candidate, root, name)
    candidate = roots[0] / (name_path.name if name_path.is_absolute() else name_path)
    if _is_file(candidate, or_anything=True):
        raise ModelError("this is not a file", where=name, remedy="name the file with the weights")
    if candidate.is_symlink():
        raise ModelError(
            "is a symbolic link that leads to no file",
            where=name,
            remedy="name the file itself, or mend the link",
        )
    neighbours = _list_neighbours(candidate)
    closest = get_close_matches(candidate.name, neighbours, n=1)
    remedy = f"did you mean {closest[0]}?" if closest else "check the path"
    raise ModelError("there is no such file", where=name, remedy=remedy)


def _is_file(path: Path, *, or_anything: bool = False) -> bool:
    """Return True if there is a regular file, or anything at all; False for impossible names."""
    try:
        return path.exists() if or_anything else path.is_file()
    except OSError:
        return False


def _list_neighbours(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def _check_inside(path: Path, root: Path, name: str) -> Path:
    """Return the file, unless a link on its path leads out of ``root``.

    If the name contains ``..``, the file's own folder takes the place of ``root``.
    """
    folder = path.parent if ".." in Path(name).parts else root
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise RefusedError(
            f"a symbolic link leads out of its folder, to {target}",
            where=name,
            remedy="name that file itself",
        )
    return path
