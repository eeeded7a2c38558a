"""The socket that a local server listens on."""

from __future__ import annotations

import socket

from robustbench_local.errors import ConfigError

_BACKLOG = 2_048


def open_socket(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Args:
        host: Address or name to listen on.
        port: 0 for any free port.

    Raises:
        ConfigError: If the address is unknown, or the port is taken or not allowed.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio switches Nagle's algorithm off only where the protocol is named; with it, the body of an
        # answer waits up to 40 ms for the client to acknowledge the head
        opened = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(_BACKLOG)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}", remedy="choose another --port or --host"
        ) from None
    return opened
