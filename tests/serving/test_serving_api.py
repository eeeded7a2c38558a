"""The API as a client meets it: answers, refusals in one line, limits, headers, metrics."""

from __future__ import annotations

import base64
import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

for library in ("fastapi", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(library, reason="needs the extra web")
from fastapi.testclient import TestClient
from serving_samples import (
    BLUE,
    GREEN,
    NAMES,
    RED,
    SIDE,
    MeanColor,
    encode_image,
    make_application,
    make_bomb,
    make_model,
)
from torch import nn

from robustbench_local.serving.app import create_app

pytestmark = pytest.mark.extra
PROBLEM_KEYS = {"type", "title", "status", "detail"}


@contextmanager
def open_client(*models, is_loopback=True, **options):
    application = make_application(*models, **options)
    with TestClient(create_app(application, is_loopback=is_loopback), base_url="http://localhost") as client:
        client.application = application
        yield client


@pytest.fixture(scope="module")
def client():
    with open_client(make_model(), make_model(MeanColor(3.0).eval(), name="calm"), rate=0) as opened:
        yield opened


def post_image(client, content=RED, path="/predict", media_type="image/png"):
    return client.post(path, content=content, headers={"content-type": media_type})


def post_form(client, *contents, path="/predict", data=None):
    files = [("image", (f"private-{number}.png", content)) for number, content in enumerate(contents)]
    return client.post(path, files=files, data=data or {})


def check_problem(response, status, text=""):
    body = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert set(body) == PROBLEM_KEYS
    assert body["status"] == status
    assert "\n" not in body["detail"]
    assert text in body["detail"]


def test_one_image_and_several_are_classified(client):
    one = post_image(client).json()
    assert one["model"] == "colors"
    answer = one["images"][0]["prediction"]
    assert (answer["index"], answer["name"], answer["rejected"]) == (0, "red", False)
    assert [entry["name"] for entry in answer["classes"]] == ["red", "green", "blue"]
    logits = torch.tensor([220, 40, 40]) / 25.5
    assert answer["probability"] == pytest.approx(torch.softmax(logits, 0)[0].item(), abs=1e-5)
    assert sum(entry["probability"] for entry in answer["classes"]) == pytest.approx(1)

    several = post_form(client, BLUE, GREEN, RED).json()["images"]
    assert [image["prediction"]["name"] for image in several] == ["blue", "green", "red"]
    assert {image["comparison"] for image in several} == {None}
    assert one["images"][0]["input"]["png"] is None


def test_the_input_and_the_model_beside_it_are_shown_when_asked_for(client):
    found = client.post(
        "/predict?include_input=true&compare=true&top=1",
        content=RED,
        headers={"content-type": "image/png"},
    ).json()
    assert found["comparison"] == "calm"
    image = found["images"][0]
    assert len(image["prediction"]["classes"]) == 1
    assert image["comparison"]["probability"] < image["prediction"]["probability"]
    head, _, data = image["input"]["png"].partition(",")
    assert head == "data:image/png;base64"
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert seen.shape == (SIDE, SIDE, 3)
    assert (seen == [220, 40, 40]).all()


def make_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:4] = 255
GRAY_16 = np.full((12, 12), 40_000, np.uint16)
CLEAR = np.full((12, 12, 4), (0, 0, 255, 0), np.uint8)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (encode_image(GRAY_16), "16-bit gray, divided by 65535"),
        (encode_image(CLEAR), "transparent, put on a white background"),
        (encode_image(np.zeros((12, 12), np.uint8)), "gray, repeated in three channels"),
        (None, "CMYK, converted to RGB"),
        (
            encode_image(HALVES, save_all=True, append_images=[Image.fromarray(HALVES)]),
            "several images in one file, the first used",
        ),
        (encode_image(HALVES, "JPEG", exif=make_exif(), quality=95), "rotated upright"),
    ],
)  # fmt: skip
def test_unusual_images_are_converted_and_say_so(client, content, note):
    if content is None:
        buffer = io.BytesIO()
        Image.new("CMYK", (12, 12)).save(buffer, "JPEG")
        content = buffer.getvalue()
    seen = client.post(
        "/predict?include_input=1", content=content, headers={"content-type": "image/png"}
    ).json()
    image = seen["images"][0]["input"]
    assert any(line.startswith(note) for line in image["notes"])
    if "upright" in note:  # the white half is at the right, not at the top
        pixels = np.asarray(
            Image.open(io.BytesIO(base64.b64decode(image["png"].partition(",")[2]))).convert("L")
        )
        assert pixels[:, 6].mean() > 200
        assert pixels[:, 1].mean() < 60
    if "transparent" in note:
        assert seen["images"][0]["prediction"]["probability"] == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 400, "the body is empty"),
        (b"hello", 415, "image 1: the file is no image; send PNG, JPEG, PPM or BMP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image"),
        (b"GIF89a" + b"\0" * 20, 415, "image 1: GIF is not supported"),
        (b"RIFF\0\0\0\0WEBPVP8 ", 415, "WEBP is not supported"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", 415, "HEIF is not supported"),
        (RED[:60], 422, "image 1: cannot be decoded"),
        (RED[:-30], 422, "image 1: cannot be decoded"),
        (b"P6 12 12 255\n123", 422, "image 1: cannot be decoded"),
        (
            encode_image(np.zeros((1, 6_250_001, 3), np.uint8)),
            422,
            "6250001 x 1 pixels are too long and thin",
        ),
        (encode_image(np.zeros((1, 800_000, 3), np.uint8)), 422, "800000 x 1 pixels are too long and thin"),
        (make_bomb(20_000, 20_000), 413, "as a decompression bomb does"),
        (make_bomb(8_000, 7_000), 413, "more than 50,000,000 pixels"),
        (make_bomb(2_000_000_000, 2), 413, "decompression bomb"),
    ],
)
def test_unusable_images_are_refused_in_one_line(client, content, status, text):
    check_problem(post_image(client, content), status, text)


def test_requests_of_a_wrong_form_are_refused(client):
    check_problem(post_image(client, media_type="text/plain"), 415, "'text/plain' is not supported")
    check_problem(client.post("/predict"), 415, "a body without a content type")
    check_problem(post_image(client, media_type="multipart/form-data"), 400, "the form cannot be read")
    check_problem(
        post_image(client, media_type="multipart/form-data; boundary=x"), 400, "the form cannot be read"
    )
    check_problem(client.post("/predict", files={"picture": RED}), 422, "the form has a part 'picture'")
    check_problem(client.post("/predict", files={"image": (None, "text")}), 422, "give it a file name")
    check_problem(post_form(client, *[RED] * 17), 422, "more than 16 images")
    check_problem(post_form(client, RED, data={"eps": "1"}), 422, "the form has a part 'eps'")
    check_problem(post_form(client, RED, b""), 400, "image 2: the file is empty")
    check_problem(client.post("/predict?top=0", content=RED), 422, "top")
    check_problem(client.post("/predict?include_input=maybe", content=RED), 422, "include_input")
    check_problem(client.get("/predict"), 405, "does not support that method")
    check_problem(client.get("/nothing"), 404, "there is nothing at this path")
    check_problem(client.get("/../../etc/passwd"), 404)
    check_problem(client.get("/page/index.html"), 404)


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length():
    with open_client(max_body_bytes=2000) as client:
        assert post_image(client).status_code == 200
        check_problem(post_image(client, b"x" * 2001), 413, "the body is larger than")
        chunks = (b"x" * 500 for _ in range(5))
        response = client.post("/predict", content=chunks, headers={"content-type": "image/png"})
        check_problem(response, 413, "the body is larger than")


def test_bodies_share_a_bounded_memory():
    with open_client() as client:
        budget = client.application.budget
        with budget.open_account() as take_bytes:
            take_bytes(budget._free - 20)
            response = post_image(client)
            check_problem(response, 503, "too many requests are being read")
            assert response.headers["retry-after"] == "1"
        assert post_image(client).status_code == 200
        assert budget._free == 512 * 2**20


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "allowed.example"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "192.168.0.7"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "localhost@evil.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_other_sites_cannot_use_the_server(headers, status):
    with open_client(allowed_hosts=("Allowed.Example",)) as client:
        response = client.post("/predict", content=RED, headers={"content-type": "image/png", **headers})
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers


def test_a_server_for_other_machines_may_be_named_by_address_only():
    with open_client(is_loopback=False) as client:
        assert client.get("/health", headers={"host": "192.168.0.7:8000"}).status_code == 200
        check_problem(client.get("/health", headers={"host": "evil.example"}), 421, "--allow-host")


def test_a_client_that_sends_too_much_is_told_to_wait():
    with open_client(rate=0.5, burst=2) as client:
        assert [post_image(client).status_code for _ in range(2)] == [200, 200]
        response = post_image(client)
        check_problem(response, 429, "too many requests")
        assert response.headers["retry-after"] in {"1", "2"}
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200


def test_every_response_has_safe_headers(client):
    for path in ("/", "/page.js", "/page.css", "/docs", "/model", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers


def test_the_page_names_no_outside_file(client):
    for path in ("/", "/docs", "/page.js", "/stress.js", "/page.css"):
        text = (
            client.get(path)
            .text.replace("http://127.0.0.1:8000/", "")
            .replace("http://www.w3.org/2000/svg", "")
        )
        assert "http://" not in text
        assert "https://" not in text
        assert " style=" not in text
        assert " onclick=" not in text
    assert client.get("/favicon.ico", follow_redirects=True).headers["content-type"] == "image/svg+xml"
    assert "/predict" in client.get("/docs").text


def test_the_card_says_what_is_served(client):
    card = client.get("/model").json()
    assert card["model"]["classes"] == list(NAMES)
    assert card["model"]["input"]["height"] == SIDE
    assert len(card["model"]["digest"]) == 64
    assert card["comparison"]["name"] == "calm"
    assert card["limits"]["max_images"] == 16
    assert card["limits"]["keeps_images"] is False
    assert card["drift"] is None


def test_probes_and_metrics(client):
    post_form(client, RED, BLUE)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    text = client.get("/metrics").text
    for line in (
        'rbl_request_seconds_bucket{le="0.005",route="/predict",status="200"}',
        'rbl_predictions_total{class="blue",model="colors"}',
        'rbl_confidence_count{model="colors"}',
        'rbl_batch_images_sum{model="colors"}',
        'rbl_queue_images{model="colors"} 0.0',
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_logs_are_json_without_names_or_content(client, caplog):
    with caplog.at_level("INFO", logger="robustbench_local.serving"):
        post_form(client, RED)
        client.get("/nothing?secret=1")
    fields = [record.fields for record in caplog.records]
    assert fields[0]["path"] == "/predict"
    assert fields[0]["images"] == 1
    assert set(fields[1]) == {"request", "client", "method", "path", "status", "milliseconds"}
    assert (fields[1]["path"], fields[1]["status"]) == ("other", 404)
    assert "private" not in json.dumps(fields)
    assert "secret" not in json.dumps(fields)


def test_images_are_kept_only_when_asked_for(tmp_path):
    with open_client(keep_images=tmp_path / "kept") as client:
        post_form(client, RED, BLUE)
        post_image(client, b"nothing")
        assert client.get("/model").json()["limits"]["keeps_images"] is True
    files = sorted((tmp_path / "kept").iterdir())
    assert [file.read_bytes() for file in files[:2]] == [RED, BLUE]
    lines = [json.loads(line) for line in (tmp_path / "kept" / "answers.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 2]
    assert len(files) == 3
    assert files[0].parent.stat().st_mode & 0o777 == 0o700


class Failing(nn.Module):
    """Fails on dark images; gives NaN for bright ones."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        if (mean < 0.1).any():
            raise RuntimeError("dark\nimages")
        return torch.where(mean[:, None] > 0.9, torch.nan, images.mean(dim=(2, 3)))


def test_a_model_that_fails_is_an_error_of_its_request_alone():
    with open_client(make_model(Failing().eval())) as client:
        check_problem(post_image(client, encode_image((0, 0, 0))), 500, "dark")
        answer = post_image(client, encode_image((255, 255, 255))).json()["images"][0]["prediction"]
        assert answer == {"index": None, "name": None, "probability": None, "rejected": False, "classes": []}
        assert post_image(client).status_code == 200


def test_a_bug_shows_no_traceback(client, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("internals")

    monkeypatch.setattr(type(client.application), "is_ready", fail)
    response = client.get("/ready")
    check_problem(response, 500, "internal error; see the log for request")
    assert "internals" not in response.text
    assert "request failed" in caplog.text


def test_a_model_that_rejects_images():
    class Rejecting(nn.Module):
        def forward(self, images):
            mean = images.mean(dim=(2, 3))
            return torch.cat([mean, 0.5 * torch.ones(len(images), 1)], dim=1)

    with open_client(make_model(Rejecting().eval(), abstain="last")) as client:
        dark = post_image(client, encode_image((50, 60, 70))).json()["images"][0]["prediction"]
        assert (dark["index"], dark["rejected"], dark["probability"]) == (None, True, None)
        assert post_image(client).json()["images"][0]["prediction"]["name"] == "red"
        assert "rbl_rejections_total" in client.get("/metrics").text
