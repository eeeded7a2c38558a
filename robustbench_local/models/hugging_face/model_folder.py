"""The folder of a model in Hugging Face's layout: found or downloaded, checked and hashed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from robustbench_local.config.user_files import MIB, open_user_file, read_user_file
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.models.hugging_face.hub_download import download_snapshot
from robustbench_local.models.loaded_model import ModelRequest
from robustbench_local.models.model_files import strip_hash_prefix

CONFIG_FILE = "config.json"
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")
_MAX_JSON_BYTES = 64 * MIB
_CONVERSION = (
    'convert it once, in that folder: python -c "import torch, safetensors.torch as s; '
    f"s.save_file({{k: v.clone() for k, v in torch.load('{PICKLE_FILE}', weights_only=True).items()}}, "
    f"'{WEIGHTS_FILE}', {{'format': 'pt'}})\""
)


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model.

    Args:
        path: The folder.
        name: What the user calls it, for messages.
        commit: The commit of the repository that it was downloaded from; None for a folder of the user's.
        notes: Remarks for the reader of the results.
    """

    path: Path
    name: str
    commit: str | None = None
    notes: tuple[str, ...] = ()

    def read_json(self, file: str) -> dict[str, Any] | None:
        """Read a mapping from a JSON file; None if there is no such file.

        Raises:
            ModelError: If it is not a mapping in JSON, or not a regular file of at most 64 MiB.
            RefusedError: If it is a link out of the folder.
        """
        if not (self.path / file).exists():
            return None
        content = read_user_file(
            self.check_file(file), where=self._name_file(file), error=ModelError, limit=_MAX_JSON_BYTES
        )
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ModelError("is not JSON", where=self._name_file(file), remedy="get it again") from error
        if not isinstance(value, dict):
            raise ModelError("is not a mapping", where=self._name_file(file), remedy="get it again")
        return value

    def check_file(self, file: str) -> Path:
        """Return the path of a file that belongs to the folder, or to the cache of downloads around it.

        Raises:
            RefusedError: If its name or a link leads elsewhere.
            ModelError: If it does not exist.
        """
        path = self.path / file
        if Path(file).name != file:
            raise RefusedError(f"names the file {file!r}, which is not in its folder", where=self.name)
        # The cache of downloads holds links from snapshots/COMMIT/ to blobs/.
        allowed = [self.path.resolve(), self.path.resolve().parents[1] / "blobs"]
        target = path.resolve()
        if not any(target.is_relative_to(root) for root in allowed):
            raise RefusedError(
                f"a symbolic link leads out of its folder, to {target}",
                where=self._name_file(file),
                remedy="copy that file into the folder",
            )
        if not path.is_file():
            raise ModelError(
                "there is no such file", where=self._name_file(file), remedy="get the model again"
            )
        return path

    def list_weights_files(self) -> list[str]:
        """List the names of the safetensors files with the weights; each exists.

        Raises:
            RefusedError: If the weights are pickled, or outside of the folder.
            ModelError: If there are none, or one is missing.
        """
        if (self.path / WEIGHTS_FILE).exists():
            names = [WEIGHTS_FILE]
        elif (index := self.read_json(WEIGHTS_INDEX)) is not None:
            places = index.get("weight_map")
            if not isinstance(places, dict) or not places:
                raise ModelError(
                    "names no files", where=self._name_file(WEIGHTS_INDEX), remedy="get it again"
                )
            names = sorted({str(place) for place in places.values()})
        else:
            raise self._explain_missing_weights()
        for name in names:
            self.check_file(name)
        return names

    def hash_files(self, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of each of these files that exists, by name."""
        return {name: self._hash_file(name) for name in names if (self.path / name).exists()}

    def check_sha256(self, hashes: dict[str, str], declared: str | None) -> None:
        """Compare the hash of the weights with the one that the user requires.

        Raises:
            ConfigError: If there are several files of weights.
            ModelError: If the hash differs.
        """
        if declared is None:
            return
        if len(hashes) != 1:
            raise ConfigError(
                f"sha256 stands for one file, but the weights are in {len(hashes)}",
                where=self.name,
                remedy="leave it out, and pin revision instead",
            )
        ((name, found),) = hashes.items()
        if strip_hash_prefix(declared) != found:
            raise ModelError(
                f"its SHA-256 is {found}, not the {strip_hash_prefix(declared)} that was recorded",
                where=self._name_file(name),
                remedy="get the original file again, or record the new hash if you changed it",
            )

    def _hash_file(self, name: str) -> str:
        with open_user_file(self.check_file(name), where=self._name_file(name), error=ModelError) as file:
            digest = hashlib.sha256()
            while part := file.read(MIB):
                digest.update(part)
            return digest.hexdigest()

    def _name_file(self, file: str) -> str:
        return f"{self.name}/{file}"

    def _explain_missing_weights(self) -> ModelError | RefusedError:
        pickles = sorted(path.name for path in self.path.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        if pickles:
            return RefusedError(
                f"has its weights only in {pickles[0]}, a pickle",
                where=self.name,
                remedy=f"{_CONVERSION}; or trust that very file by trust_pickle: sha256:HASH"
                if PICKLE_FILE in pickles
                else f"save the model again as {WEIGHTS_FILE}",
            )
        return ModelError(
            f"has no {WEIGHTS_FILE}",
            where=self.name,
            remedy="name a revision that has one, or a folder that save_pretrained has written",
        )


def find_model_folder(reference: str, request: ModelRequest) -> ModelFolder:
    """Find a folder of that name, or else download a repository of the Hugging Face hub.

    Args:
        reference: A folder, looked up beside the grid file and in the working directory; else ``OWNER/NAME``.
        request: The user's options; ``revision`` pins the commit of a repository.

    Raises:
        ConfigError: If ``revision`` is set for a folder.
        ModelError: If there is no such folder or repository, or it cannot be downloaded.
    """
    candidates = _list_candidates(reference, request)
    if not _REPOSITORY.fullmatch(reference) or any(path.exists() for path in candidates):
        return find_local_folder(reference, request)
    try:
        return find_repository(reference, request)
    except ModelError as error:
        closest = _find_similar_folder(candidates)
        if closest is None:
            raise
        raise ModelError(error.what, where=reference, remedy=f"did you mean the folder {closest}?") from error


def find_local_folder(reference: str, request: ModelRequest) -> ModelFolder:
    """Find a folder, as `find_model_folder` does; it is never downloaded."""
    candidates = _list_candidates(reference, request)
    for path in candidates:
        if _is_folder(path):
            if request.revision is not None:
                raise ConfigError(
                    f"{reference} is a folder, which has no revisions", remedy="leave revision out"
                )
            return ModelFolder(path, path.name or reference)
    raise _explain_missing_folder(candidates, reference)


def find_repository(reference: str, request: ModelRequest) -> ModelFolder:
    """Download a repository, as `find_model_folder` does, or take it from the cache of downloads."""
    if not _REPOSITORY.fullmatch(reference):
        raise ConfigError(
            f"{reference!r} is no repository on the Hugging Face hub", remedy="write OWNER/NAME"
        )
    path, commit, notes = download_snapshot(reference, request.revision)
    return ModelFolder(path, reference, commit, notes)


def _list_candidates(reference: str, request: ModelRequest) -> list[Path]:
    path = Path(reference)
    with suppress(RuntimeError):  # "~name", where there is no such user
        path = path.expanduser()
    if path.is_absolute():
        return [path]
    return [root / path for root in (request.base_folder, Path.cwd()) if root is not None]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _explain_missing_folder(candidates: list[Path], reference: str) -> ModelError:
    with suppress(OSError, ValueError):
        if any(candidate.is_file() for candidate in candidates):
            return ModelError("is a file", where=reference, remedy=f"name the folder with {CONFIG_FILE}")
    closest = _find_similar_folder(candidates)
    remedy = f"did you mean {closest}?" if closest else "name a folder, or OWNER/NAME on the Hugging Face hub"
    return ModelError("there is no such folder", where=reference, remedy=remedy)


def _find_similar_folder(candidates: list[Path]) -> str | None:
    """Return the name of a folder beside a missing one that is nearly called the same."""
    for path in candidates:
        with suppress(OSError, ValueError):
            neighbors = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
            if closest := get_close_matches(path.name, neighbors, n=1):
                return closest[0]
    return None
