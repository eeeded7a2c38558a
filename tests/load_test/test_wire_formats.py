"""Requests as services read them, and answers as they write them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

pytest.importorskip("h11", reason="needs the extra web")
from PIL import Image

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.load_test.wire_formats import NO_CLASS, WireFormat

pytestmark = pytest.mark.extra
IMAGES = (torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4) / 255).float()


def test_files_hold_the_pixels():
    body = WireFormat("serve").encode_images(IMAGES[:1])
    assert body.content_type == "image/png"
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body.content))))
    assert torch.equal(pixels.permute(2, 0, 1).float() / 255, IMAGES[0])
    gray = WireFormat("png").encode_images(IMAGES[:1, :1])
    assert Image.open(io.BytesIO(gray.content)).mode == "L"
    sent = json.loads(WireFormat("json").encode_images(IMAGES).content)["images"]
    assert torch.equal(torch.tensor(sent), IMAGES)


def test_what_has_no_form_is_refused():
    with pytest.raises(ConfigError, match="a PNG is one image"):
        WireFormat("png").encode_images(IMAGES)
    with pytest.raises(ConfigError, match="1 or 3 channels, these images have 2"):
        WireFormat("serve").encode_images(IMAGES[:, :2])


@pytest.mark.parametrize(
    ("answer", "key", "labels"),
    [
        ({"scores": [[0.1, 0.9], [2, 1]]}, "", (1, 0)),
        ({"labels": [3, 1]}, "", (3, 1)),
        ({"out": {"labels": [0, 2]}}, "out.labels", (0, 2)),
        ({"out": [[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]}, "out", (2, 0)),
        ({"scores": [[float("nan"), 1.0], [0.0, 1.0]]}, "", (NO_CLASS, 1)),
    ],
)
def test_plain_answers_are_read(answer, key, labels):
    assert WireFormat("json", key).read_labels(json.dumps(answer).encode(), 2) == labels


def test_answers_of_rbl_serve_are_read():
    rows = [{"prediction": {"index": 4}}, {"prediction": {"index": None}}]
    assert WireFormat("serve").read_labels(json.dumps({"images": rows}).encode(), 2) == (4, NO_CLASS)


@pytest.mark.parametrize(
    ("protocol", "content", "message"),
    [
        ("json", b"<html>", "not JSON"),
        ("json", b"[" * 100_000, "not JSON"),
        ("json", b'{"scores": [1, 2, 3]}', "for 2 images"),
        ("json", b'{"scores": [[], []]}', "not \\(images, classes\\)"),
        ("json", b"[1]", "no keys"),
        (
            "serve",
            b'{"images": [{"prediction": {"index": "x"}}, {"prediction": {"index": 1}}]}',
            "predictions",
        ),
        ("serve", b'{"images": 3}', "not one of rbl serve"),
        ("serve", b'{"images": [{"prediction": {"index": 1}}]}', "1 predictions for 2 images"),
    ],
)
def test_unreadable_answers_are_one_line(protocol, content, message):
    with pytest.raises(ModelError, match=message) as caught:
        WireFormat(protocol).read_labels(content, 2)
    assert "\n" not in str(caught.value)
