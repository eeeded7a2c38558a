"""Services that hang, drip or lie: the cell fails within its time, the others go on."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable

from fault import FaultTrial, add_variants
from workplace import DeviationError, FaultWorkspace

FAMILY = "hostile services"
ServiceBehaviour = Callable[[socket.socket], None]


def _hang_for_ever(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(600)


def _drip_headers(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(600):
        connection.sendall(f"X-{number}: y\r\n".encode())
        time.sleep(0.2)


def _drip_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(600):
        connection.sendall(b" ")
        time.sleep(0.2)


def _continue_for_ever(connection: socket.socket) -> None:
    connection.recv(65536)
    for _ in range(6000):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def _make_answer(content: bytes, status: str = "200 OK", headers: str = "") -> ServiceBehaviour:
    def behave(connection: socket.socket) -> None:
        _read_request(connection)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n"
        connection.sendall(head.encode() + content)

    return behave


def _read_request(connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


def _close_connection(connection: socket.socket) -> None:
    connection.recv(100)


BEHAVIOURS: dict[str, ServiceBehaviour] = {
    "hangs": _hang_for_ever,
    "drips its headers": _drip_headers,
    "drips its body": _drip_body,
    "says 100 Continue for ever": _continue_for_ever,
    "closes the connection": _close_connection,
    "answers nothing": _make_answer(b""),
    "answers HTML": _make_answer(b"<html>\x1b[31m</html>"),
    "answers too few rows": _make_answer(b'{"scores": [[1, 2, 3, 4]]}'),
    "answers NaN": _make_answer(b'{"scores": [[NaN, NaN, NaN, NaN]]}'),
    "answers deep nonsense": _make_answer(b"[" * 100_000),
    "answers huge numbers": _make_answer(b'{"scores": [[' + b"9" * 10_000 + b", 1, 2, 3]]}"),
    "redirects": _make_answer(b"", "302 Found", "Location: file:///etc/passwd\r\n"),
    "is out of order": _make_answer(b"\x1b]0;x\x07", "500 Internal\x1b[31m Error"),
    "asks to wait a year": _make_answer(b"", "429 Too Many", "Retry-After: 31536000\r\n"),
    "lies of its length": _make_answer(b"{}", "200 OK", "Content-Length: 99999999999\r\n"),
}


def _serve_connections(behave: ServiceBehaviour, listener: socket.socket) -> None:
    """A bounded life: at most two minutes and two hundred connections."""
    signal.alarm(120)
    for _ in range(200):
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.alarm(120)
            try:
                behave(connection)
            finally:
                os._exit(0)
        connection.close()


def _make_trial(behave: ServiceBehaviour) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            port = listener.getsockname()[1]
            server = os.fork()
            if server == 0:
                os.setsid()
                try:
                    _serve_connections(behave, listener)
                finally:
                    os._exit(0)
        try:
            _expect_service_error(place, port)
        finally:
            os.killpg(server, signal.SIGKILL)
            os.waitpid(server, 0)

    return trial


def _expect_service_error(place: FaultWorkspace, port: int) -> None:
    line = (
        f'  - {{id: odd, source: "http://127.0.0.1:{port}/x", num_classes: 4, access: scores, '
        "endpoint: {timeout: 2, retries: 1}}\n"
    )
    place.edit_grid("attacks:\n", f"{line}attacks:\n  - {{card: square-linf-8, queries: 20}}\n")
    place.run("--timeout", "5", limit=60).expect_code(4)
    status = {(cell["model"], cell["attack"]): cell["status"] for cell in place.read_results()["cells"]}
    if any(state != "done" for (model, _), state in status.items() if model == "plain"):
        raise DeviationError("the sound model's cell is not done")
    if any(state == "done" for (model, _), state in status.items() if model == "odd"):
        raise DeviationError("a service that does not answer has a cell that is done")


add_variants(FAMILY, "a service that", {name: _make_trial(behave) for name, behave in BEHAVIOURS.items()})
