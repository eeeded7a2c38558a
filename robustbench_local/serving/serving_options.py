"""The limits and switches of a server, each with a default that is safe on a loopback address."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from robustbench_local.errors import ConfigError

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How a server answers; every number is checked.

    Raises:
        ConfigError: If a number is out of range.
    """

    max_batch: int = 32
    """Largest number of images in one pass of the model."""
    max_wait_seconds: float = 0.005
    """Longest time that an image waits for others to share its pass with."""
    max_queue: int = 512
    """Largest number of images that wait for the model; further requests get 503 and ``Retry-After``."""
    max_images: int = 16
    """Largest number of images in one request."""
    max_body_bytes: int = 16 * MEBIBYTE
    """Largest body of a request."""
    max_pixels: int = 50_000_000
    """Largest width times height of an image, checked before its pixels are decoded."""
    rate: float = 100.0
    """Requests per second that one client may send in the long run; 0 for any number."""
    burst: int = 400
    """Requests that one client may send at once."""
    attacks: bool = True
    """Whether images may be attacked and certified."""
    max_attack_queue: int = 8
    """Largest number of attacks that wait for the one at work."""
    max_attack_steps: int = 100
    """Largest number of steps of an attack."""
    attack_seconds: float = 60.0
    """Longest time of one attack or certificate; one that takes longer is ended."""
    body_seconds: float = 30.0
    """Longest time in which a client has to send its request."""
    shutdown_seconds: float = 30.0
    """Longest time that accepted requests have to finish after SIGTERM."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may name, besides those of this machine's loopback."""
    keep_images: Path | None = None
    """Folder for uploaded images; None: no image is kept."""
    drift_window: int = 200
    """Number of images in each test of drift."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            is_optional = field.name in {"rate", "max_wait_seconds", "max_attack_queue"}
            if not math.isfinite(value) or value < 0 or (value == 0 and not is_optional):
                least = "0 or more" if is_optional else "above 0"
                raise ConfigError(f"{field.name} is {value!r}", remedy=f"give a number {least}")
