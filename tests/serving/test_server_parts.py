"""Parts of the server that stand alone: options, addresses, sockets, logs, the folder of kept images."""

from __future__ import annotations

import io
import json
import logging
import socket

import pytest

for library in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(library, reason="needs the extra web")
from robustbench_local.cli.serving_run import parse_size
from robustbench_local.errors import ConfigError
from robustbench_local.serving import kept_images
from robustbench_local.serving.image_upload import Upload
from robustbench_local.serving.kept_images import ImageFolder
from robustbench_local.serving.problems import MAX_DETAIL_CHARACTERS, ProblemError
from robustbench_local.serving.request_log import LOGGER_NAME, log_event, logger, set_up_logs
from robustbench_local.serving.serving_options import ServingOptions
from robustbench_local.web.host_names import is_loopback_address, split_host
from robustbench_local.web.listening_socket import open_socket

pytestmark = pytest.mark.extra


@pytest.mark.parametrize("change", [{"max_batch": 0}, {"rate": -1.0}, {"attack_seconds": float("inf")}])
def test_impossible_options_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ServingOptions(**change)
    assert ServingOptions(rate=0, max_wait_seconds=0, max_attack_queue=0).rate == 0


def test_addresses_sizes_and_sockets():
    hosts = ("localhost", "127.0.0.9", "::1", "0.0.0.0", "a.example")
    assert [is_loopback_address(host) for host in hosts] == [True, True, True, False, False]
    assert split_host("[::1]:80") == "::1"
    assert split_host("a.example:port") is None
    assert (parse_size("224"), parse_size("32x64")) == ((224, 224), (32, 64))
    with open_socket("127.0.0.1", 0) as opened, pytest.raises(ConfigError, match="Choose another --port"):
        open_socket("127.0.0.1", opened.getsockname()[1])
    assert opened.proto == socket.IPPROTO_TCP  # asyncio then sends the body of an answer without waiting
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such.host.invalid"):
        open_socket("no.such.host.invalid", 0)


def test_a_log_line_is_one_json_object_whatever_it_says():
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in (LOGGER_NAME, "uvicorn", "uvicorn.error")]
    before = [(chosen.handlers, chosen.level, chosen.propagate) for chosen in loggers]
    try:
        set_up_logs(stream)
        log_event("two\nlines", images=2)
        try:
            raise ValueError("wrong\nin two lines")
        except ValueError:
            logger.exception("request failed")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    finally:
        for chosen, (handlers, level, propagates) in zip(loggers, before, strict=True):
            chosen.handlers, chosen.propagate = handlers, propagates
            chosen.setLevel(level)
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["images"], first["level"]) == ("two lines", 2, "info")
    assert first["time"].endswith("Z")
    assert second["error"] == "ValueError: wrong in two lines"
    assert third["level"] == "warning"


def test_a_problem_is_one_short_line():
    problem = ProblemError(422, "a\n\x1b[31m" + "x" * 1000)
    assert len(problem.detail) == MAX_DETAIL_CHARACTERS
    assert problem.detail.startswith("a \\x1b[31mx")


def test_a_full_folder_and_a_failing_disk_fail_no_request(tmp_path, monkeypatch):
    answer = {"index": 1, "probability": 0.5}
    folder = ImageFolder(tmp_path / "kept")
    monkeypatch.setattr(kept_images, "MAX_KEPT_IMAGES", 1)
    folder.add_images("a", [Upload("image 1", b"1"), Upload("image 2", b"2")], [answer] * 2)
    assert len(list((tmp_path / "kept").glob("*.img"))) == 1
    monkeypatch.setattr(kept_images, "MAX_KEPT_IMAGES", 10)
    (tmp_path / "kept" / "answers.jsonl").unlink()
    (tmp_path / "kept" / "answers.jsonl").mkdir()
    folder.add_images("b", [Upload("image 1", b"1")], [answer])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="images cannot be kept"):
        ImageFolder(tmp_path / "file" / "kept")
