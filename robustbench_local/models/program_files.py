"""Files that hold a whole program beside its weights: TorchScript archives and programs of torch.export.

Both can do harm, so that both need the user's permission. A TorchScript archive runs code of its own while it
is loaded (``__setstate__``) and when it is called, and its operators write files (``aten::save``). Loading a
program of torch.export evaluates expressions and pickles in it, which run any Python code. Torch's own
documentation says of both that they are only to be loaded from an origin that one trusts.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.zip_bombs import check_zip_bomb
from robustbench_local.errors import ConfigError, ModelError, RefusedError, RobustbenchError
from robustbench_local.models.loaded_model import ModelRequest
from robustbench_local.models.model_files import read_file
from robustbench_local.models.weight_files import is_trusted_file

_EXECUTORCH_MAGIC = b"ET"
"""Bytes 4 and 5 of a program of ExecuTorch; two digits of a version follow."""
_LITE_ENTRY = "bytecode.pkl"
_SAVE_REMEDIES = {
    "torchscript": "save it by torch.jit.save",
    "export": "save it by torch.export.save, with torch 2.8 or newer",
}


@dataclass(frozen=True)
class ProgramFile:
    """The content of a file with a program that may be run.

    Args:
        path: The file.
        content: Its bytes.
        sha256: Their SHA-256, hexadecimal.
        entries: Names of the entries of the archive, without the folder that holds all of them.
    """

    path: Path
    content: bytes
    sha256: str
    entries: frozenset[str]

    @property
    def provenance(self) -> dict[str, str]:
        """The file's name and SHA-256."""
        return {"weights": self.path.name, "sha256": self.sha256}


def read_program(source: str, file: str, request: ModelRequest) -> ProgramFile:
    """Read a file with a program, and check that it is one of its kind that may be run.

    Args:
        source: ``"torchscript"`` or ``"export"``.
        file: The file, as the user wrote it.
        request: The user's options; ``allow_code``, or ``trust_pickle`` with the file's hash, permits it.

    Raises:
        ConfigError: If an option does not apply to a program.
        ModelError: If the file is unreadable, no archive, or holds something else.
        RefusedError: If it needs permission, is a decompression bomb, or holds compiled native code.
    """
    for name in ("weights", "architecture", "entry"):
        if getattr(request, name) is not None:
            raise ConfigError(f"{source}:{file} holds both network and weights", remedy=f"leave {name} out")
    path = find_file(file, request.base_folder)
    content, digest = read_file(path, sha256=request.sha256)
    check_zip_bomb(content, where=path.name, error=ModelError, remedy="get the file again")
    entries = _list_entries(content)
    if entries is None or not _is_kind(source, entries):
        raise _explain_content(source, path.name, content, entries)
    _check_entries(source, path.name, content)
    if not request.allow_code and not is_trusted_file(request.trust_pickle, digest, path.name):
        raise RefusedError(
            "is a program, which can run code and write files when it is loaded",
            where=path.name,
            remedy="if you trust its origin, give --allow-code (allow_code=True), or set "
            f"trust_pickle: sha256:{digest}",
        )
    return ProgramFile(path, content, digest, entries)


def _list_entries(content: bytes) -> frozenset[str] | None:
    """Return the names in an archive without the folder that holds them all; None if it is no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError):
        return None
    return frozenset(name.split("/", 1)[-1] for name in names)


def _check_entries(source: str, where: str, content: bytes) -> None:
    """Refuse an archive that was damaged: torch does not compare the checksums, and would use what is left.

    Raises:
        ModelError: If an entry is not what its checksum says.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        damaged = f"an entry ({error})"
    if damaged is not None:
        raise ModelError(
            f"is damaged: {damaged} does not have its checksum",
            where=where,
            remedy=f"get it again, or {_SAVE_REMEDIES[source]}",
        )


def _is_kind(source: str, entries: frozenset[str]) -> bool:
    return _is_torchscript(entries) if source == "torchscript" else _is_exported(entries)


def _is_torchscript(entries: frozenset[str]) -> bool:
    return "constants.pkl" in entries and any(name.startswith("code/") for name in entries)


def _is_exported(entries: frozenset[str]) -> bool:
    return _list_models(entries) == ["models/model.json"] and not _has_native_code(entries)


def _list_models(entries: frozenset[str]) -> list[str]:
    return sorted(name for name in entries if name.startswith("models/") and name.endswith(".json"))


def _has_native_code(entries: frozenset[str]) -> bool:
    return any(
        name.startswith("data/aotinductor/") or name.endswith((".so", ".dll", ".dylib")) for name in entries
    )


def _explain_content(
    source: str, where: str, content: bytes, entries: frozenset[str] | None
) -> RobustbenchError:
    """Return an error that says what a file holds instead of a program of the kind that its source says."""
    if entries is None:
        if content[4:6] == _EXECUTORCH_MAGIC and content[6:8].isdigit():
            what, remedy = "is a program of ExecuTorch, which torch cannot run", _SAVE_REMEDIES["export"]
            return RefusedError(what, where=where, remedy=remedy)
        return ModelError(
            "is not a complete archive", where=where, remedy=f"get it again, or {_SAVE_REMEDIES[source]}"
        )
    if _has_native_code(entries):
        return RefusedError(
            "holds native code that AOTInductor compiled, which is never run",
            where=where,
            remedy="save the exported program itself, by torch.export.save",
        )
    if _LITE_ENTRY in entries and not _is_torchscript(entries):
        what, remedy = "is a module for the mobile interpreter", _SAVE_REMEDIES["torchscript"]
    elif _is_torchscript(entries):
        what, remedy = "is a TorchScript archive", f"write torchscript:{where}"
    elif _is_exported(entries):
        what, remedy = "is a program of torch.export", f"write export:{where}"
    elif "serialized_exported_program.json" in entries:
        what, remedy = (
            "was saved by a torch.export before 2.8",
            "load it with that version and export it again",
        )
    elif len(_list_models(entries)) > 0:
        what = f"holds {len(_list_models(entries))} programs, none of them called 'model'"
        remedy = "save one program by torch.export.save"
    elif "data.pkl" in entries:
        what, remedy = "holds weights or a pickled module, not a program", f"write checkpoint:{where}"
    else:
        what, remedy = "is an archive of something else", _SAVE_REMEDIES[source]
    return ModelError(what, where=where, remedy=remedy)
