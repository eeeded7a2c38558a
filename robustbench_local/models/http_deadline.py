"""A time limit for a whole request, because a socket's own limit restarts with every received byte."""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any
from urllib.request import AbstractHTTPHandler, BaseHandler, HTTPHandler, HTTPSHandler, Request


class Deadline(AbstractContextManager["Deadline"]):
    """A deadline that ends the connections made through its handlers when the time is over.

    Endless headers, endless ``100 Continue`` and a slow handshake count like a slow answer. The lookup of the
    host's address is not covered.

    Args:
        seconds: Time from entering the context until the answer has been read.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.is_over = seconds, False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end_connections)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections; a failure after the deadline becomes a timeout.

        Raises:
            TimeoutError: If the deadline passed before the answer was complete.
        """
        self._timer.cancel()
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets = []
        if self.is_over and (error is None or isinstance(error, OSError | HTTPException)):
            raise TimeoutError("timed out") from error

    def build_handlers(self) -> list[BaseHandler]:
        """Build the handlers for `urllib.request.build_opener`."""
        return [_DeadlineHTTPHandler(self), _DeadlineHTTPSHandler(self)]

    def watch_connection(self, connection: HTTPConnection) -> None:
        """Register a connection's socket before the connection uses it."""
        create_connection = connection._create_connection  # type: ignore[attr-defined]  # noqa: SLF001 - before TLS

        def create(*arguments: Any, **options: Any) -> socket.socket:
            new_socket: socket.socket = create_connection(*arguments, **options)
            with self._lock:
                self._sockets.append(
                    new_socket.dup()
                )  # a duplicate that we can shut down after TLS wraps the original
            if self.is_over:
                self._end_connections()
            return new_socket

        connection._create_connection = create  # type: ignore[attr-defined]  # noqa: SLF001

    def _end_connections(self) -> None:
        with self._lock:
            self.is_over = True
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _DeadlineHTTPHandler(HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        """Open a connection that the deadline can end."""
        return _open_connection(self, HTTPConnection, req, self._deadline)


class _DeadlineHTTPSHandler(HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        """Open a connection that the deadline can end."""
        return _open_connection(self, HTTPSConnection, req, self._deadline)


def _open_connection(
    handler: AbstractHTTPHandler, kind: type[HTTPConnection], request: Request, deadline: Deadline
) -> HTTPResponse:
    def connect(*arguments: Any, **options: Any) -> HTTPConnection:
        connection = kind(*arguments, **options)
        deadline.watch_connection(connection)
        return connection

    return handler.do_open(connect, request)
