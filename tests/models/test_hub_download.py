"""Downloads from a hub on the loopback: pinned commits, the cache, and what is said without a network."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hugging_face_samples import save_vit

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.model_sources import load_classifier

pytestmark = pytest.mark.extra

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MISSING = "f" * 40


class Hub:
    """A hub with one repository, ``we/vit``, whose branch is ``main``."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                parts = self.path.partition("?")[0].strip("/").split("/")
                known = parts[:4] == ["api", "models", "we", "vit"] and parts[5:] in (["main"], [COMMIT])
                files = sorted(folder.iterdir())
                if known and parts[4] == "revision":
                    listed = [{"rfilename": path.name} for path in files]
                    self._answer(
                        200, json.dumps({"id": "we/vit", "sha": COMMIT, "siblings": listed}).encode()
                    )
                elif known and parts[4] == "tree":
                    tree = [
                        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                        for path in files
                    ]
                    self._answer(200, json.dumps(tree).encode())
                elif parts[:4] == ["we", "vit", "resolve", COMMIT]:
                    self._answer(200, (folder / parts[4]).read_bytes())
                elif parts[:4] == ["api", "models", "we", "gated"]:
                    self._answer(403, b"{}", "GatedRepo")
                else:
                    self._answer(404, b"{}", "RevisionNotFound" if "vit" in parts else "RepoNotFound")

            def do_HEAD(self) -> None:
                self.do_GET()

            def _answer(self, status: int, content: bytes, problem: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                if problem:
                    self.send_header("X-Error-Code", problem)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("transformers", reason="needs the extra hf")
    import huggingface_hub

    folder = tmp_path / "remote"
    save_vit(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never asked for")
    (folder / "code.py").write_text("raise SystemExit")
    made = Hub(folder)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    download = functools.partial(
        huggingface_hub.snapshot_download, endpoint=made.url, cache_dir=tmp_path / "cache"
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_pinned_commit_is_downloaded_once_and_only_what_is_needed(hub: Hub) -> None:
    found = load_classifier("hf:we/vit", revision=COMMIT)
    assert found.notes == []
    assert found.provenance["commit"] == COMMIT
    assert any("model.safetensors" in path for path in hub.asked)
    assert not any("pytorch_model" in path or "code.py" in path for path in hub.asked)
    hub.server.shutdown()  # the cache is enough now
    hub.server.server_close()
    assert load_classifier("hf:we/vit", revision=COMMIT).compute_digest() == found.compute_digest()


@pytest.mark.parametrize(
    ("revision", "reason"), [(None, "no revision is pinned"), ("main", "revision main is not a commit")]
)
def test_what_is_not_pinned_is_recorded(hub: Hub, revision: str | None, reason: str) -> None:
    found = load_classifier("hf:we/vit", revision=revision)
    assert found.provenance["commit"] == COMMIT
    assert found.notes == [f"{reason}: {COMMIT} was loaded; set revision: {COMMIT} to keep it"]


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("hf:we/nothing", None, "we/nothing: there is no such folder here, and no such repository"),
        ("hf:remot", None, "remot: there is no such folder here.* Did you mean the folder remote"),
        ("hf:we/vit", MISSING, f"we/vit: has no revision '{MISSING}'. Pin a commit that exists"),
        ("hf:we/gated", None, "we/gated: is gated. Accept its terms"),
        ("timm:hf-hub:we/vit", COMMIT, "we/vit: timm cannot load it.*Write hf: instead of timm:"),
        ("timm:hf-hub:we/vit@main", None, "we/vit: timm cannot load it"),
        ("timm:hf-hub:a/b/c", None, "'a/b/c' is no repository on the Hugging Face hub. Write OWNER/NAME"),
    ],
)
def test_failures_are_one_line(hub: Hub, source: str, revision: str | None, message: str) -> None:
    with pytest.raises((ModelError, ConfigError), match=message) as caught:
        load_classifier(source, revision=revision)
    assert "\n" not in str(caught.value)


def test_without_a_network_there_is_one_line(hub: Hub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(ModelError, match="we/vit: is no folder here, and cannot be downloaded") as caught:
        load_classifier("hf:we/vit")
    assert "Connect to the network, or copy its files into a folder" in str(caught.value)
    assert caught.value.exit_code == 3
