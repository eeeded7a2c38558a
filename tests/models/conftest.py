"""What the models' tests share: a service on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from http_samples import SampleService

from robustbench_local.models import http_client


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[SampleService]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_SECONDS", 0.01)
    made = SampleService()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()
