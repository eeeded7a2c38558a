"""HTTP connections of the load generator: kept open, never retried, and every failure has a kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import h11

from robustbench_local.errors import ConfigError
from robustbench_local.models.endpoint_options import remove_credentials
from robustbench_local.models.http_client import split_url

MAX_ANSWER_BYTES = 64 << 20
_READ_BYTES = 1 << 16
_MAX_IDLE_SECONDS = 2.0
"""Idle time after which a connection is not used again: servers close them after some seconds, and a request
sent at that moment would be lost through no fault of the service."""


class RequestError(Exception):
    """A request that failed, with the kind of failure that is counted."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Address:
    """Where requests go."""

    url: str
    """The URL without credentials and query, for people."""
    host: str
    """The host to connect to."""
    port: int
    """Its port."""
    target: str
    """Path and query of requests."""
    is_secure: bool
    """Whether the connection is encrypted; certificates are checked."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Headers of every request, credentials among them."""

    @classmethod
    def from_url(cls, url: str, token: str | None = None) -> Address:
        """Parse an address.

        Args:
            url: ``http://`` or ``https://``; a user and password become basic authentication.
            token: Name of the environment variable whose value is sent as a bearer token.

        Raises:
            ConfigError: If it has no host, or the variable is not set.
        """
        bare, user, password = split_url(url)
        parts = urlsplit(bare)
        is_secure = parts.scheme == "https"
        headers = [
            ("host", parts.netloc),
            ("accept", "application/json"),
            ("user-agent", "robustbench-local"),
        ]
        if user is not None:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers.append(("authorization", f"Basic {pair}"))
        if token is not None:
            secret = os.environ.get(token, "").strip()
            if not secret:
                raise ConfigError(
                    f"the environment variable {token} is not set",
                    where="--token",
                    remedy="set it to the service's token",
                )
            headers = [
                *(one for one in headers if one[0] != "authorization"),
                ("authorization", f"Bearer {secret}"),
            ]
        return cls(
            url=remove_credentials(url),
            host=parts.hostname or "",
            port=parts.port or (443 if is_secure else 80),
            target=f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}",
            is_secure=is_secure,
            headers=tuple(headers),
        )


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of the service."""

    status: int
    """The status code."""
    content: bytes
    """The body."""


class Connection:
    """One connection, for one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = h11.Connection(h11.CLIENT)
        self.last_use = asyncio.get_running_loop().time()

    async def exchange_messages(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> HttpAnswer:
        """Send a request and read its answer.

        Raises:
            RequestError: If the connection is lost, or the answer is no HTTP or too large.
        """
        request = h11.Request(method=method, target=target, headers=headers)
        parts = [self._protocol.send(request)]
        if body:
            parts.append(self._protocol.send(h11.Data(data=body)))
        parts.append(self._protocol.send(h11.EndOfMessage()))
        try:
            self._writer.write(b"".join(part for part in parts if part))
            await self._writer.drain()
            return await self._read_answer()
        except OSError as error:
            raise RequestError("connection") from error
        except h11.RemoteProtocolError as error:
            raise RequestError("connection" if self._reader.at_eof() else "no HTTP") from error

    async def _read_answer(self) -> HttpAnswer:
        status, parts, size = 0, [], 0
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(parts[-1])
                if size > MAX_ANSWER_BYTES:
                    raise RequestError("answer too large")
            elif isinstance(event, h11.EndOfMessage):
                return HttpAnswer(status, b"".join(parts))
            elif isinstance(event, h11.ConnectionClosed):
                raise RequestError("connection")

    def is_reusable(self) -> bool:
        """Return whether another request can be sent, and prepare for it."""
        if self._reader.at_eof() or self._protocol.our_state is not h11.DONE:
            return False
        if self._protocol.their_state is not h11.DONE:
            return False
        self._protocol.start_next_cycle()
        self.last_use = asyncio.get_running_loop().time()
        return True

    def is_fresh(self) -> bool:
        """Return whether the server has not closed it, and is not about to."""
        idle = asyncio.get_running_loop().time() - self.last_use
        return not self._reader.at_eof() and idle < _MAX_IDLE_SECONDS

    def close(self) -> None:
        """Close it at once."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


class HttpConnections:
    """Connections to one address; a request takes an idle one or opens another.

    Args:
        address: The address.
        max_connections: Most connections at once; a request beyond them waits, and its time counts.
    """

    def __init__(self, address: Address, max_connections: int = 512) -> None:
        self.address = address
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(max_connections)
        self._context = ssl.create_default_context() if address.is_secure else None

    async def __aenter__(self) -> Self:
        """Return the connections."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def post_body(self, body: bytes, content_type: str) -> HttpAnswer:
        """Post a body to the address.

        Raises:
            RequestError: If there is no answer.
        """
        headers = [
            *self.address.headers,
            ("content-type", content_type),
            ("content-length", str(len(body))),
        ]
        return await self._exchange_once("POST", self.address.target, headers, body)

    async def get(self, target: str) -> HttpAnswer:
        """Read another path of the same host.

        Raises:
            RequestError: If there is no answer.
        """
        return await self._exchange_once("GET", target, list(self.address.headers), b"")

    async def _exchange_once(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> HttpAnswer:
        async with self._slots:
            connection = await self._take_connection()
            try:
                answer = await connection.exchange_messages(method, target, headers, body)
                if connection.is_reusable():
                    self._idle.append(connection)
                else:
                    connection.close()
            except BaseException:  # a cancelled request leaves half an answer behind
                connection.close()
                raise
            return answer

    async def _take_connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()
        try:
            reader, writer = await asyncio.open_connection(
                self.address.host, self.address.port, ssl=self._context
            )
        except ssl.SSLError as error:
            raise RequestError("certificate") from error
        except OSError as error:
            raise RequestError("connection refused") from error
        return Connection(reader, writer)
