"""Pinned downloads from the Hugging Face hub, or its cache: configurations, tokenizers and safetensors."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ModelError
from robustbench_local.models.extra_libraries import import_extra

_PATTERNS = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
"""The files that are asked for: no pickles, no code, no other copies of the weights."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download_snapshot(repository: str, revision: str | None) -> tuple[Path, str, tuple[str, ...]]:
    """Return the folder of a repository at a commit, downloaded unless it is in the cache.

    Args:
        repository: ``OWNER/NAME``.
        revision: A commit, branch or tag; None for the branch ``main``.

    Returns:
        The folder, its commit, and a note if the revision is not a commit and so may change.

    Raises:
        ConfigError: If huggingface_hub is not installed.
        ModelError: If there is no such repository or revision, or it cannot be reached.
    """
    hub = import_extra("huggingface_hub", extra="hf")
    try:
        with _quiet_download(hub):
            folder = Path(
                hub.snapshot_download(repository, revision=revision or "main", allow_patterns=_PATTERNS)
            )
    except Exception as error:
        raise _explain_failure(hub, repository, revision, error) from error
    commit = folder.name
    if revision == commit:
        return folder, commit, ()
    what = f"revision {revision} is not a commit" if revision else "no revision is pinned"
    return folder, commit, (f"{what}: {commit} was loaded; set revision: {commit} to keep it",)


@contextmanager
def _quiet_download(hub: Any) -> Iterator[None]:
    """Show a progress bar at a terminal only, and no report of every retry."""
    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not hub.utils.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bars:
            hub.utils.enable_progress_bars()


def _explain_failure(hub: Any, repository: str, revision: str | None, error: Exception) -> ModelError:
    errors = hub.errors
    pinned = revision if revision and _COMMIT.fullmatch(revision) else revision or "main"
    if isinstance(error, errors.GatedRepoError):
        what, remedy = "is gated", "accept its terms on the hub, and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        what, remedy = f"has no revision {pinned!r}", "pin a commit that exists"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what = "there is no such folder here, and no such repository on the Hugging Face hub"
        remedy = "check the name, or set HF_TOKEN if it is private"
    else:
        what = f"is no folder here, and cannot be downloaded: {extract_first_line(error)}"
        remedy = "connect to the network, or copy its files into a folder and name that"
    return ModelError(what, where=repository, remedy=remedy)
