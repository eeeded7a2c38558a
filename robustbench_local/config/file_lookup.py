"""Finding the file that a grid or a command names, without leaving the folder by a symbolic link."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from robustbench_local.config.user_files import check_user_file
from robustbench_local.errors import ModelError, RefusedError


def find_file(name: str, base_folder: Path | None = None) -> Path:
    """The file of that name.

    Args:
        name: A path; a relative one is looked up from ``base_folder``, then from the working directory.
        base_folder: The folder of the grid file.

    Returns:
        The path as it was found, not resolved.

    Raises:
        ModelError: If there is no such regular file, or it is too large or sparse.
        RefusedError: If a symbolic link leads out of the folder it was looked up from.
    """
    wanted = Path(name).expanduser()
    roots = [wanted.parent] if wanted.is_absolute() else [*([base_folder] if base_folder else []), Path.cwd()]
    for root in roots:
        found = root / (wanted.name if wanted.is_absolute() else wanted)
        if _is_file(found):
            check_user_file(found, where=name, error=ModelError)
            return _check_inside(found, root, name)
    found = roots[0] / (wanted.name if wanted.is_absolute() else wanted)
    if _is_file(found, or_anything=True):
        raise ModelError("this is not a file", where=name, remedy="name the file with the weights")
    beside = _list_neighbours(found)
    near = get_close_matches(found.name, beside, n=1)
    remedy = f"did you mean {near[0]}?" if near else "check the path"
    raise ModelError("there is no such file", where=name, remedy=remedy)


def _is_file(path: Path, *, or_anything: bool = False) -> bool:
    """Whether a regular file, or anything at all, is there; a name that no file can have is nothing."""
    try:
        return path.exists() if or_anything else path.is_file()
    except OSError:
        return False


def _list_neighbours(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def _check_inside(found: Path, root: Path, name: str) -> Path:
    """The file, unless a link on the way leads out of ``root``, or of the folder that ``..`` leads to."""
    folder = found.parent if ".." in Path(name).parts else root
    target = found.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise RefusedError(
            f"a symbolic link leads out of its folder, to {target}",
            where=name,
            remedy="name that file itself",
        )
    return found
