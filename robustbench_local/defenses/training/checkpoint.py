"""Checkpoints of a training: written atomically, and read only for the training that wrote them."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.config.user_files import read_user_file
from robustbench_local.config.zip_bombs import check_zip_bomb
from robustbench_local.errors import ConfigError, StorageError

_IDENTITY_KEY = "identity"


def save_checkpoint(path: Path, identity: dict[str, str], state: dict[str, Any]) -> None:
    """Replace the checkpoint at ``path``.

    Args:
        path: The file.
        identity: Identity of the training: recipe, data, seed.
        state: Tensors, numbers, strings, lists and dicts.

    Raises:
        StorageError: If writing fails; the previous checkpoint is kept.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        torch.save({_IDENTITY_KEY: identity, **state}, partial)
        os.replace(partial, path)  # noqa: PTH105 - the atomic one
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write the checkpoint: {error}", where=str(path)) from None


def load_checkpoint(path: Path, identity: dict[str, str]) -> dict[str, Any]:
    """Read a checkpoint of this training.

    Raises:
        ConfigError: If the file is not a checkpoint, or belongs to another recipe, data or seed.
    """
    remedy = "delete it, or name another file"
    content = read_user_file(path)
    check_zip_bomb(content, where=str(path), error=ConfigError, remedy=remedy)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        stored_identity = state.pop(_IDENTITY_KEY)
    except (OSError, RuntimeError, EOFError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError("this is not a training checkpoint", where=str(path), remedy=remedy) from None
    for key in {**identity, **stored_identity}:
        if stored_identity.get(key) != identity.get(key):
            raise ConfigError(f"the checkpoint was made with another {key}", where=str(path), remedy=remedy)
    return dict(state)
