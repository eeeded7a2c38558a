"""A service on the loopback that answers like a model."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from robustbench_local.classifier import Classifier
from robustbench_local.models.model_sources import load_classifier


class SampleService:
    """Answers with each image's mean by channel, after what a test has planned."""

    def __init__(self) -> None:
        self.planned_answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.requests: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.answer: Callable[[np.ndarray], object] = lambda scores: {"scores": scores.tolist()}
        self.delay = 0.0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append({**self.headers, "path": self.path})
                time.sleep(service.delay)
                status, content, extra = 200, b"", {}
                if service.planned_answers:
                    status, content, extra = service.planned_answers.pop(0)
                else:
                    content = json.dumps(service.answer(service.compute_scores(body))).encode()
                self.send_response(status)
                for name, value in {**extra, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/predict"

    def compute_scores(self, body: bytes) -> np.ndarray:
        if self.requests[-1]["Content-Type"] == "image/png":
            pixels = np.asarray(Image.open(io.BytesIO(body)), dtype=np.float32) / 255
            self.sizes.append(1)
            return pixels.reshape(-1, 3).mean(axis=0)
        images = np.array(json.loads(body)["images"], dtype=np.float32)
        self.sizes.append(len(images))
        return images.mean(axis=(2, 3))

    def load(self, url: str | None = None, **options: object) -> Classifier:
        endpoint = options.pop("endpoint", {})
        return load_classifier(url or self.url, num_classes=3, endpoint=endpoint, **options)
