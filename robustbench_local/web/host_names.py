"""The host names that a local server answers to: no page of another site reaches it by a name of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

_LOOPBACK_NAME = "localhost"


def is_loopback_address(host: str) -> bool:
    """Return True if an address or ``localhost`` can be reached from this machine only."""
    try:
        return host == _LOOPBACK_NAME or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_allowed_host(host: str, names: Iterable[str], *, is_loopback: bool) -> bool:
    """Return True if a request may name this host.

    Args:
        host: The ``Host`` header, with or without a port.
        names: Host names that the user allows.
        is_loopback: Whether the server listens on a loopback address only. If not, any IP address may be
            named: only names can be rebound to another address.
    """
    name = split_host(host)
    if name is None:
        return False
    if name == _LOOPBACK_NAME or name in {allowed.lower() for allowed in names}:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback


def split_host(host: str) -> str | None:
    """Return the name of a ``Host`` header in lower case, without port and brackets; None if it has none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname
