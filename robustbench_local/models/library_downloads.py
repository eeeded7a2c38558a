"""Downloads of published weights by torchvision and timm: a time limit, and an error of one line."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ModelError

_TIMEOUT_SECONDS = 30.0
"""Longest time without an answer."""


def build_download_error(what: str, error: Exception) -> ModelError:
    """Return the error of weights that could not be downloaded.

    Args:
        what: The weights.
        error: The library's error.
    """
    return ModelError(
        f"the weights {what} cannot be downloaded: {extract_first_line(error)}",
        remedy="give a local file as weights, set weights: null for random ones, or connect to the network",
    )


@contextmanager
def download_timeout() -> Iterator[None]:
    """Limit the time that a server may be silent in this context, and silence reports of retries."""
    hub_logger = logging.getLogger("huggingface_hub")
    previous_timeout, previous_level = socket.getdefaulttimeout(), hub_logger.level
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    hub_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous_timeout)
        hub_logger.setLevel(previous_level)
