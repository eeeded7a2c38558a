"""A time limit for a whole request: a socket's own starts again with every byte that drips in."""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any
from urllib.request import AbstractHTTPHandler, BaseHandler, HTTPHandler, HTTPSHandler, Request


class Deadline(AbstractContextManager["Deadline"]):
    """Ends the connections that are made through its handlers when the time is over.

    Headers that never end, endless ``100 Continue`` and a slow handshake count like a slow answer. What is
    out of reach is the search for the host's address.

    Args:
        seconds: From entering the context until the answer has been read.
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
        """Forget the connections; what failed because they were ended is a timeout.

        Raises:
            TimeoutError: If the time was over.
        """
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets = []
        if self.is_over and (error is None or isinstance(error, OSError | HTTPException)):
            raise TimeoutError("timed out") from error

    def build_handlers(self) -> list[BaseHandler]:
        """What makes connections for `urllib.request.build_opener`."""
        return [_DeadlineHTTPHandler(self), _DeadlineHTTPSHandler(self)]

    def watch_connection(self, connection: HTTPConnection) -> None:
        """Let a connection tell of its socket before it uses it."""
        make = connection._create_connection  # type: ignore[attr-defined]  # noqa: SLF001 - before TLS

        def create(*arguments: Any, **options: Any) -> socket.socket:
            made: socket.socket = make(*arguments, **options)
            with self._lock:
                self._sockets.append(made.dup())  # one that is ours to shut, whoever wraps the other
            if self.is_over:
                self._end_connections()
            return made

        connection._create_connection = create  # type: ignore[attr-defined]  # noqa: SLF001

    def _end_connections(self) -> None:
        with self._lock:
            self.is_over = True
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class _DeadlineHTTPHandler(HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        """Open with a connection that can be ended."""
        return _open_connection(self, HTTPConnection, req, self._deadline)


class _DeadlineHTTPSHandler(HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        """Open with a connection that can be ended."""
        return _open_connection(self, HTTPSConnection, req, self._deadline)


def _open_connection(
    handler: AbstractHTTPHandler, kind: type[HTTPConnection], request: Request, deadline: Deadline
) -> HTTPResponse:
    def connect(*arguments: Any, **options: Any) -> HTTPConnection:
        connection = kind(*arguments, **options)
        deadline.watch_connection(connection)
        return connection

    return handler.do_open(connect, request)
