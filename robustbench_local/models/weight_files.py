"""Safe reading of weights from untrusted files: no code in a file is run.

safetensors files hold only tensors. ``.pt`` and ``.pth`` files are pickles: torch's restricted unpickler
reads them, and a file that needs more than tensors is refused. There is no fallback. The only exception is a
file whose SHA-256 the user declares as trusted.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.config.zip_bombs import check_zip_bomb
from robustbench_local.errors import ModelError, RefusedError
from robustbench_local.models.model_files import read_file, strip_hash_prefix
from robustbench_local.models.stored_tensors import StoredTensors, collect_tensors

# Earlier versions let code escape the restricted unpickler: CVE-2025-32434, CVE-2026-24747.
_MIN_TORCH_VERSION = (2, 10)
_REFUSAL_TEXTS = ("GLOBAL ", "is blocked", "Can only", "Trying to", "Unsupported", "must be imported")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Args:
        path: The file.
        sha256: SHA-256 of the bytes that were read, hexadecimal.
        stored: Its tensors, on the CPU.
        module: The whole network, if the file is a trusted pickle of one.
        notes: Remarks for the reader of the results.
        entry: The part of the file that the user selected, to which ``stored`` is restricted.
    """

    path: Path
    sha256: str
    stored: StoredTensors
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()
    entry: str | None = None


def read_weights(
    path: Path, *, sha256: str | None = None, trust_pickle: str | None = None, entry: str | None = None
) -> WeightsFile:
    """Read a safetensors file, or a ``.pt``/``.pth`` file of tensors; the content decides, not the suffix.

    Args:
        path: The file.
        sha256: Its required SHA-256, with or without the prefix ``sha256:``.
        trust_pickle: ``"sha256:<hash>"`` of a file that may run code while it is loaded.
        entry: Dotted path of the part with the weights, ``"."`` for the outermost mapping itself; None for
            any part that fits the network.

    Raises:
        ModelError: If it cannot be read, is truncated, is not of its stated format, has another SHA-256, or
            has no such entry.
        RefusedError: If reading it could run code: pickled objects, TorchScript, or too old a torch.
    """
    where = path.name
    data, digest = read_file(path, sha256=sha256)
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()
    if _is_safetensors(path, data):
        stored = collect_tensors(_parse_safetensors(data, where), where)
    else:
        check_zip_bomb(
            data, where=where, error=ModelError, remedy="get the file again: weights do not compress"
        )
        loaded = _load_torch_file(data, where, trusted=is_trusted_file(trust_pickle, digest, where))
        if isinstance(loaded, nn.Module):
            module, loaded = loaded, loaded.state_dict()
            notes = (f"{where} was unpickled as a whole, trusted by its SHA-256",)
        stored = collect_tensors(loaded, where)
    if entry is not None and module is not None:
        raise ModelError("is one whole network, without entries", where=where, remedy="leave entry out")
    if entry is not None:
        stored = stored.select_entry(entry, where)
    return WeightsFile(path, digest, stored, module, notes, entry)


def _is_safetensors(path: Path, data: bytes) -> bool:
    return path.suffix == ".safetensors" or data[8:9] == b"{"


def _parse_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(data)
    except (SafetensorError, KeyError, ValueError, OverflowError, RuntimeError) as error:
        refuse_shortage(error, where)
        reason = extract_first_line(error).removeprefix("Error while deserializing header: ")
        raise ModelError(
            f"is not a complete safetensors file: {reason}", where=where, remedy="get it again"
        ) from error


def is_trusted_file(trust_pickle: str | None, digest: str, where: str) -> bool:
    """Return True if the user trusts the file with this digest, False if the user trusts none.

    Args:
        trust_pickle: ``"sha256:<hash>"``, or None.
        digest: SHA-256 of the file, hexadecimal.
        where: Its name in messages.

    Raises:
        RefusedError: If the user trusts another file.
    """
    if trust_pickle is None:
        return False
    if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", trust_pickle) or strip_hash_prefix(trust_pickle) != digest:
        raise RefusedError(
            f"trust_pickle is {trust_pickle!r}, but this file is sha256:{digest}",
            where=where,
            remedy="check where the file comes from before trusting it",
        )
    return True


def _load_torch_file(data: bytes, where: str, *, trusted: bool) -> Any:
    """Load a file of torch.save, if it holds only tensors and built-in containers."""
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < _MIN_TORCH_VERSION:
        raise RefusedError(
            f"torch {torch.__version__} can be made to run code by .pt files",
            where=where,
            remedy="update torch to 2.10 or newer, or convert the file to safetensors",
        )
    if _is_torchscript(data):
        raise RefusedError(
            "this is a TorchScript archive, which is a program",
            where=where,
            remedy=f"write torchscript:{where}, or save the state_dict of the original module",
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about unusual files before it raises
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if trusted:
            return _run_trusted_pickle(data, where)
        raise _build_unpickling_error(error, data, where) from error
    except EOFError as error:
        raise ModelError("the file is truncated", where=where, remedy="get it again") from error
    except Exception as error:
        refuse_shortage(error, where)
        raise ModelError(
            f"is not a complete checkpoint: {extract_first_line(error)}", where=where, remedy="get it again"
        ) from error


def _run_trusted_pickle(data: bytes, where: str) -> Any:
    """Unpickle without restrictions: only here does a file's code run, because its SHA-256 is trusted."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except Exception as error:
        refuse_shortage(error, where)
        raise ModelError(
            f"cannot be unpickled: {type(error).__name__}: {extract_first_line(error)}",
            where=where,
            remedy="its classes must be importable here; save the state_dict instead",
        ) from error


def _build_unpickling_error(
    error: pickle.UnpicklingError, data: bytes, where: str
) -> ModelError | RefusedError:
    """Build a RefusedError for a pickle of more than tensors, a ModelError for anything else."""
    text = str(error)
    if data[:1] != b"\x80" and not zipfile.is_zipfile(io.BytesIO(data)) and "GLOBAL " not in text:
        return ModelError(
            "is not a readable checkpoint",
            where=where,
            remedy="use .safetensors, or .pt with a state_dict",
        )
    if not any(sign in text for sign in _REFUSAL_TEXTS):
        return ModelError("the pickle inside is damaged", where=where, remedy="get it again")
    match = re.search(r"GLOBAL (\S+)", text)
    content = f"pickled objects ({match.group(1)})" if match else "a pickle that torch cannot read safely"
    return RefusedError(
        f"holds {content}, which can run code when loaded",
        where=where,
        remedy="save model.state_dict(), or set trust_pickle: sha256:<its hash> if you made it yourself",
    )


def _is_torchscript(data: bytes) -> bool:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return any(name.split("/", 1)[-1] == "constants.pkl" or "/code/" in name for name in names)
