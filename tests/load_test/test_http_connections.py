"""Connections against small servers of this process, which answer by script."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

pytest.importorskip("h11", reason="needs the extra web")

from robustbench_local.errors import ConfigError, ModelError, UnreachableError
from robustbench_local.load_test.http_connections import Address, HttpConnections, RequestError
from robustbench_local.load_test.null_server import NullProtocol, build_response, read_content_length
from robustbench_local.load_test.service import (
    check_batch_sizes,
    find_service,
    parse_metrics,
    read_process,
)

pytestmark = pytest.mark.extra
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class ScriptedServer:
    """Answers the n-th request with the n-th response, on any connection; b"" closes it."""

    def __init__(self, *responses):
        self.responses, self.heads, self.connections = list(responses), [], 0

    async def answer(self, reader, writer):
        self.connections += 1
        try:
            while self.responses:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(read_content_length(head[:-4]))
                self.heads.append(head)
                response = self.responses.pop(0)
                writer.write(response)
                await writer.drain()
                if not response:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def run(self, work):
        async def run():
            server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            url = f"http://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with server:
                return await work(url)

        return asyncio.run(run())


def post_all(server, count):
    async def work(url):
        results = []
        async with HttpConnections(Address.from_url(f"{url}/predict?top=1")) as connections:
            for _ in range(count):
                try:
                    answer = await connections.post_body(b"body", "image/png")
                    results.append((answer.status, answer.content))
                except RequestError as error:
                    results.append(error.kind)
        return results

    return server.run(work)


def test_a_connection_is_kept_and_every_request_is_complete():
    server = ScriptedServer(
        OK, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", OK
    )
    assert post_all(server, 3) == [(200, b"{}"), (200, b"abc"), (200, b"{}")]
    assert server.connections == 1
    head = server.heads[0].lower()
    assert head.startswith(b"post /predict?top=1 http/1.1\r\n")
    assert b"authorization: basic dxnlcjpzzwnyzxq=" in head
    assert b"content-length: 4\r\n" in head


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (b"", "connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", "connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
    ],
)
def test_a_failure_has_a_kind_and_the_next_request_another_connection(response, kind):
    server = ScriptedServer(response, OK)
    if response.endswith(b"short"):
        server.responses = [response]
        assert post_all(server, 1) == [kind]
        return
    assert post_all(server, 2) == [kind, (200, b"{}")]
    assert server.connections == 2


def test_statuses_are_answers_and_closing_servers_are_obeyed():
    busy = b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    server = ScriptedServer(busy, OK)
    assert post_all(server, 2) == [(503, b""), (200, b"{}")]
    assert server.connections == 2


def test_a_cancelled_request_leaves_no_half_answer_behind():
    async def work(url):
        async with HttpConnections(Address.from_url(url)) as connections:
            late = asyncio.create_task(connections.post_body(b"", "image/png"))
            while not server.heads:
                await asyncio.sleep(0)
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
            return await connections.post_body(b"", "image/png")

    server = ScriptedServer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha", OK)
    assert server.run(work).content == b"{}"


def test_nobody_listening_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        async def ask():
            async with HttpConnections(Address.from_url(url)) as connections:
                await connections.post_body(b"", "image/png")

        with pytest.raises(RequestError, match="connection refused"):
            asyncio.run(ask())
        with pytest.raises(UnreachableError, match="does not answer: connection refused"):
            asyncio.run(find_service(url, protocol=None, key="", token=None))


def test_addresses_keep_credentials_to_themselves(monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", "abc")
    address = Address.from_url("https://user:secret@example.org/v1?key=s3cr3t", "SERVICE_TOKEN")
    assert (address.port, address.is_secure, address.target) == (443, True, "/v1?key=s3cr3t")
    assert ("authorization", "Bearer abc") in address.headers
    assert len([name for name, _ in address.headers if name == "authorization"]) == 1
    assert not {"secret", "s3cr3t"} & set(repr(address).replace("'", " ").split())
    assert address.url == "https://example.org/v1"
    with pytest.raises(ConfigError, match="OTHER_TOKEN is not set"):
        Address.from_url("http://x/", "OTHER_TOKEN")
    with pytest.raises(ConfigError, match="not a URL with a host"):
        Address.from_url("http://")


CARD = {
    "model": {
        "name": "colors", "digest": "abc", "classes": ["a", "b"],
        "input": {"height": 8, "width": 6, "channels": 3, "resize": [9, 9], "interpolation": "bicubic"},
    },
    "limits": {"max_images": 4},
}  # fmt: skip


def find(response, protocol=None):
    async def work(url):
        return await find_service(f"{url}/base", protocol=protocol, key="k", token=None)

    return ScriptedServer(response).run(work)


def test_a_service_of_ours_says_what_it_takes():
    service = find(build_response(json.dumps(CARD).encode()))
    assert (service.name, service.digest, service.class_names) == ("colors", "abc", ("a", "b"))
    assert (service.size, service.channels, service.resize, service.max_images) == ((8, 6), 3, "stretch", 4)
    assert service.address.target == "/base/predict?top=1"
    assert service.wire.protocol == "serve"
    check_batch_sizes(service, (1, 4))
    with pytest.raises(ConfigError, match="at most 4 images in a request, not 5"):
        check_batch_sizes(service, (1, 5))


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"nothing", b'{"model": {"name": 1}}', b'{"model": []}', b"[" * 99_999]
)
def test_other_services_take_json(content):
    service = find(build_response(content))
    assert (service.wire.protocol, service.wire.key, service.address.target) == ("json", "k", "/base")
    with pytest.raises(ConfigError, match="no service of rbl serve"):
        find(build_response(content), "serve")


def test_hostile_cards_are_refused():
    hostile = json.loads(json.dumps(CARD))
    hostile["model"]["input"]["height"] = 10**9
    with pytest.raises(ModelError, match="no usable input"):
        find(build_response(json.dumps(hostile).encode()))
    with pytest.raises(UnreachableError, match="answers 401, not allowed"):
        find(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
    png = find(OK, "png")
    with pytest.raises(ConfigError, match="a PNG is one image"):
        check_batch_sizes(png, (8,))


def test_metrics_and_processes_are_read():
    text = b"# TYPE x\nprocess_resident_memory_bytes 1.5e+06\nprocess_cpu_seconds_total 2.5\n"
    reading = parse_metrics(text)
    assert (reading.memory_bytes, reading.cpu_seconds) == (1_500_000, 2.5)
    for broken in (
        b"",
        b"process_resident_memory_bytes 1\n",
        text.replace(b"2.5", b"NaN"),
        text.replace(b"2.5", b"x"),
    ):
        assert parse_metrics(broken) is None
    own = read_process(os.getpid())
    assert own.memory_bytes > 1 << 20
    assert own.cpu_seconds > 0
    assert read_process(2**30) is None


def test_the_server_that_does_nothing_answers_requests_in_any_pieces():
    class Transport(asyncio.WriteTransport):
        written = b""

        def write(self, data):
            self.written += data

    protocol, transport = NullProtocol(b"yes."), Transport()
    protocol.connection_made(transport)
    request = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    for byte in request + request + b"GET / HTTP/1.1\r\n\r\n":
        protocol.data_received(bytes([byte]))
    assert transport.written == b"yes." * 3
