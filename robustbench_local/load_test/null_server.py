"""A server that answers every request at once with the same body: what the load generator can do at most."""

from __future__ import annotations

import asyncio
import sys

_HEAD_END = b"\r\n\r\n"


class NullProtocol(asyncio.Protocol):
    """Answers each request of a connection when its body is complete.

    Args:
        response: The whole response.
    """

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - of a server
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """HttpAnswer the requests that are complete."""
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            size = end + len(_HEAD_END) + read_content_length(bytes(self._buffer[:end]))
            if len(self._buffer) < size:
                return
            del self._buffer[:size]
            if self._transport is not None:
                self._transport.write(self._response)


def read_content_length(head: bytes) -> int:
    """Read the length of a body from the head of a request; 0 if it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def build_response(body: bytes) -> bytes:
    """Build the whole response with a body of JSON."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve_nothing(body: bytes) -> None:
    """Listen on a free loopback port, print it, and answer until the process is stopped."""
    response = build_response(body)
    server = await asyncio.get_running_loop().create_server(lambda: NullProtocol(response), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_nothing(sys.stdin.buffer.read()))
