"""Services that drip: whatever keeps a connection busy without an answer ends with the time limit."""

from __future__ import annotations

import itertools
import socket
import threading

import pytest
import torch

from robustbench_local.errors import ModelTimeoutError, UnreachableError
from robustbench_local.models.model_sources import load_classifier

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "nothing": itertools.repeat(b""),
    "headers": itertools.chain([HEAD], itertools.repeat(b"X")),
    "many headers": itertools.chain([HEAD], itertools.repeat(b"X-More: yes\r\n")),
    "continue": itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": itertools.chain([HEAD + b"Content-Length: 100000\r\n\r\n"], itertools.repeat(b" ")),
    "open body": itertools.chain([HEAD + b"\r\n"], itertools.repeat(b" ")),
    "chunks": itertools.chain(
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"1\r\n \r\n")
    ),
}


class DrippingServer:
    """Sends the next piece every few milliseconds until the other side has gone."""

    def __init__(self, pieces) -> None:
        self.pieces = pieces
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.stop = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.drip, args=(connection,), daemon=True).start()

    def drip(self, connection: socket.socket) -> None:
        with connection:
            for piece in self.pieces:
                if self.stop.wait(0.02):
                    return
                try:
                    connection.sendall(piece)
                except OSError:
                    return


@pytest.fixture(params=list(DRIPS))
def dripping(request):
    server = DrippingServer(DRIPS[request.param])
    yield server
    server.stop.set()
    server.listener.close()


def test_a_service_that_drips_runs_out_of_time(dripping):
    endpoint = {"timeout": 0.4, "retries": 0}
    classifier = load_classifier(dripping.url, num_classes=3, endpoint=endpoint)
    with pytest.raises(ModelTimeoutError, match=r"does not answer, in 1 try: timed out"):
        classifier(torch.rand(2, 3, 4, 4))


def test_a_service_that_is_not_there_is_no_matter_of_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    classifier = load_classifier(f"http://127.0.0.1:{port}/", num_classes=3, endpoint={"retries": 0})
    with pytest.raises(UnreachableError) as caught:
        classifier(torch.rand(2, 3, 4, 4))
    assert not isinstance(caught.value, ModelTimeoutError)
