"""Detection of user modules, and the files of all of them that a module imports."""

from __future__ import annotations

import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from robustbench_local.classifier.source_imports import iterate_imported_names

USER_PREFIX = "robustbench_local_user_"
"""Prefix of the names under which a user's own file is imported."""
COMPUTING_LIBRARIES = frozenset(
    """
    accelerate ai_edge_litert cv2 einops equinox flax haiku jax jaxlib keras kornia lightning numpy onnx
    onnxruntime open_clip openvino PIL pytorch_lightning scipy skimage sklearn tensorflow timm torch
    torchaudio torchvision transformers triton xformers
    """.split()  # noqa: SIM905
)
"""Libraries whose arithmetic may affect a model's answers: identified by their versions."""
_TOOL_LIBRARIES = frozenset(
    """
    IPython _pytest attr attrs certifi charset_normalizer click comet_ml dateutil filelock fsspec h5py
    huggingface_hub hydra idna importlib_metadata ipykernel jinja2 joblib matplotlib mlflow networkx omegaconf
    packaging pandas pkg_resources pluggy pydantic pydantic_core pygments pytest regex requests rich
    safetensors setuptools shellingham six sympy tensorboard tokenizers tomli torchmetrics tqdm typer
    typing_extensions urllib3 wandb yaml
    """.split()  # noqa: SIM905
)
"""Libraries that do not affect a model's answers."""
_PACKAGE_NAME = "robustbench_local"


def is_user_module(name: str, file: str | None = None) -> bool:
    """Check for a user module: neither Python's, nor this package's, nor of a regularly installed library.

    A known library installed in editable mode, or beside the user's code, counts as the user's.

    Args:
        name: Its dotted name.
        file: Its file; by default that of the imported module of this name, if any.
    """
    top = name.partition(".")[0]
    if top == _PACKAGE_NAME or top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return False
    if top not in COMPUTING_LIBRARIES and top not in _TOOL_LIBRARIES:
        return True
    file = file or getattr(sys.modules.get(name), "__file__", None)
    return file is not None and not _is_installed(file)


def select_computing_libraries(names: Iterable[str]) -> frozenset[str]:
    """Select the computing libraries among modules, by their import names."""
    return frozenset(name.partition(".")[0] for name in names) & COMPUTING_LIBRARIES


def find_library_version(name: str) -> str:
    """Return a library's version without its build tag; ``"none"`` where it is not installed."""
    version = getattr(sys.modules.get(name), "__version__", None)
    if not isinstance(version, str):
        distributions = _read_distributions().get(name, [name])
        try:
            version = metadata.version(distributions[0])
        except metadata.PackageNotFoundError:
            return "none"
    return version.partition("+")[0]


def find_module_files(names: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Find the user's modules that some modules import, directly or indirectly, and those modules.

    They are read from the sources, so that imports inside functions count. A name resolves to the module that
    is imported under it now, else to a file beside the importing file or on Python's path.

    Args:
        names: Dotted names of imported modules.

    Returns:
        ``mynet.py`` or ``package/part.py`` to the SHA-256 of the whole file; and the names of all modules
        that were named in an import.
    """
    waiting = [(name, _locate_module(name, None)) for name in names]
    files: dict[str, str] = {}
    named: set[str] = set()
    visited: set[str] = set()
    while waiting:
        name, file = waiting.pop()
        if name in visited or not is_user_module(name, file):
            continue
        visited.add(name)
        if file is None or not Path(file).is_file():
            continue
        content = Path(file).read_bytes()
        files[format_module_file(name, file)] = hashlib.sha256(content).hexdigest()
        if file.endswith(".py"):
            package = Path(file).name == "__init__.py"
            own = "" if name.startswith(USER_PREFIX) else name
            imports = set(iterate_imported_names(content.decode("utf-8", "replace"), own, is_package=package))
            named |= imports
            waiting += [
                (module, _locate_module(module, Path(file).parent))
                for module in sorted(imports - visited)
                if module
            ]
    return dict(sorted(files.items())), frozenset(named)


def format_module_file(name: str, file: str) -> str:
    """Format a module's file by its import name, which does not depend on its location."""
    path = Path(file)
    if name.startswith(USER_PREFIX) or name == "__main__":
        return path.name
    parts = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    return "/".join([*parts, path.name])


def _locate_module(name: str, folder: Path | None) -> str | None:
    """Return the file of a module; None if it has none, or there is no such module."""
    module = sys.modules.get(name)
    if isinstance(module, ModuleType):
        return getattr(module, "__file__", None)
    parent, _, _ = name.rpartition(".")
    if not is_user_module(name):
        return None
    spec: ModuleSpec | None = None
    if parent:
        above = sys.modules.get(parent)
        places = list(getattr(above, "__path__", []))
        if above is None and (file := _locate_module(parent, folder)) and Path(file).name == "__init__.py":
            places = [str(Path(file).parent)]
        with suppress(KeyError):  # a folder without __init__.py, whose parent is not imported, has no file
            spec = PathFinder.find_spec(name, places) if places else None
    else:
        spec = PathFinder.find_spec(name, [*sys.path, *([str(folder)] if folder else [])])
    return spec.origin if spec is not None and spec.has_location else None


@cache
def is_user_path(path: str) -> bool:
    """Check that a path is outside Python, this package and the folders of installed libraries."""
    resolved = resolve_file(path)
    is_known = any(resolved.is_relative_to(folder) for folder in _list_own_folders())
    return not is_known and not _is_installed(path)


def resolve_file(path: str) -> Path:
    """Return a file's path without links; the files of thousands of modules are in few folders."""
    file = Path(path)
    if not file.is_absolute() or file.is_symlink():
        return file.resolve()
    return _resolve_folder(file.parent) / file.name


@cache
def _resolve_folder(folder: Path) -> Path:
    return folder.resolve()


@cache
def _list_own_folders() -> tuple[Path, ...]:
    """List the folders of Python's own modules and of this package."""
    return Path(sysconfig.get_paths()["stdlib"]).resolve(), Path(__file__).parents[1].resolve()


@cache
def is_user_file(file: str) -> bool:
    """Check that a source file exists and is the user's."""
    return Path(file).is_file() and is_user_path(file)


@cache
def _list_installed_folders() -> tuple[Path, ...]:
    paths: Mapping[str, str] = sysconfig.get_paths()
    known = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    known |= {folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))}
    return tuple(Path(folder).resolve() for folder in sorted(known))


@cache
def _is_installed(file: str) -> bool:
    path = resolve_file(file)
    return any(path.is_relative_to(folder) for folder in _list_installed_folders())


@cache
def _read_distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
