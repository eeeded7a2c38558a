"""A service on the loopback: answers, patience, limits, and no secret in any message."""

from __future__ import annotations

import base64
import time

import pytest
import torch
from http_samples import SampleService

from robustbench_local.errors import ConfigError, ModelError, UnreachableError
from robustbench_local.models import http_client
from robustbench_local.models.endpoint_options import remove_credentials
from robustbench_local.models.model_sources import load_classifier

IMAGES = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
MEANS = IMAGES.mean(dim=(2, 3))


def test_scores_come_back_for_exactly_these_images_in_batches(service: SampleService):
    classifier = service.load(endpoint={"batch": 2})
    torch.testing.assert_close(classifier(IMAGES), MEANS)
    assert service.sizes == [2, 2, 1]
    assert (classifier.access, classifier.name) == ("scores", service.url)
    service.answer = lambda scores: {
        "result": {"p": scores.tolist()[0]}
    }  # one image, without a list around it
    torch.testing.assert_close(service.load(endpoint={"key": "result.p"})(IMAGES[:1]), MEANS[:1])


@pytest.mark.parametrize(
    "changes",
    [{"normalize": ([0.5] * 3, [0.25] * 3)}, {"preprocessing": {"value_scale": 255}}],
    ids=["normalized", "0..255"],
)
def test_a_png_holds_no_preprocessed_pixels(service: SampleService, changes):
    """They would be cut off without a word, and the service asked about other images."""
    classifier = service.load(endpoint={"format": "png"}, **changes)
    with pytest.raises(ModelError, match=r"a PNG holds pixels of 0 to 1, and preprocessing gives"):
        classifier(torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 2))


def test_pngs_go_out_one_by_one_rounded_to_8_bits(service: SampleService):
    service.answer = lambda scores: {"scores": scores.tolist()}
    classifier = service.load(endpoint={"format": "png"})
    rounded = ((IMAGES * 255).round() / 255).mean(dim=(2, 3))
    torch.testing.assert_close(classifier(IMAGES), rounded)
    assert service.sizes == [1] * 5
    assert any("rounded to 8 bits" in note for note in classifier.notes)
    with pytest.raises(ModelError, match="a PNG has 1, 3 or 4 channels, this image has 2"):
        classifier(IMAGES[:, :2])


def test_labels_are_enough(service: SampleService):
    service.answer = lambda scores: {"labels": scores.argmax(axis=-1).tolist()}
    for form in ("json", "png"):
        classifier = service.load(access="labels", endpoint={"format": form})
        assert torch.equal(classifier(IMAGES).argmax(dim=1), MEANS.argmax(dim=1))


def test_a_busy_service_is_asked_again_and_not_for_ever(service: SampleService):
    classifier = service.load(endpoint={"retries": 2})
    service.planned_answers = [(503, b"", {}), (429, b"", {"Retry-After": "0"})]
    torch.testing.assert_close(classifier(IMAGES), MEANS)
    assert len(service.requests) == 3
    service.planned_answers = [(500, b"", {})] * 9
    with pytest.raises(
        UnreachableError, match=r"/predict: the service does not answer, in 3 tries: it answers 500"
    ):
        classifier(IMAGES)
    assert len(service.requests) == 6


def test_a_slow_or_absent_service_is_given_up(service: SampleService):
    service.delay = 0.5
    with pytest.raises(UnreachableError, match="in 1 try: timed out"):
        service.load(endpoint={"timeout": 0.1, "retries": 0})(IMAGES)
    nowhere = service.url.replace("/predict", "")
    service.server.socket.close()
    with pytest.raises(UnreachableError, match="Connection refused"):
        service.load(nowhere, endpoint={"retries": 1})(IMAGES)


@pytest.mark.parametrize(
    ("planned", "error", "message"),
    [
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), UnreachableError, "it answers 302, a redirect"),
        ((401, b"", {}), UnreachableError, r"not allowed. Set endpoint: \{token: VARIABLE\}"),
        ((404, b"", {}), UnreachableError, "it answers 404 Not Found. Check the URL"),
        ((400, b"", {}), ModelError, "it answers 400 Bad Request"),
        ((200, b"<html>", {}), ModelError, "the service answers '<html>', which is not JSON"),
        ((200, b"[1]", {}), ModelError, "has no 'scores', at 'scores' there are no keys"),
        ((200, b'{"score": 1}', {}), ModelError, "there are the keys score. Set endpoint"),
        ((200, b'{"scores": "high"}', {}), ModelError, "holds 'high', not numbers"),
        ((200, b'{"scores": [[1], [2, 3]]}', {}), ModelError, "not numbers"),
        ((200, b'{"scores": [[1, 2, 3]]}', {}), ModelError, r"has the shape \(1, 3\) for 5 images"),
        ((200, b'{"scores": [[1],[1],[1],[1],[1]]}', {}), ModelError, "has 1 output, but 3 classes"),
    ],
)
def test_an_answer_that_is_none_is_one_clear_line(
    service: SampleService, planned: tuple, error: type[ModelError], message: str
):
    service.planned_answers = [planned]
    with pytest.raises(error, match=message) as caught:
        service.load()(IMAGES)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert len(service.requests) == 1


def test_an_endless_answer_is_cut_off(service: SampleService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_client, "_MAX_ANSWER_BYTES", 10)
    with pytest.raises(ModelError, match="the answer is larger than"):
        service.load()(IMAGES)


def test_requests_keep_to_the_rate(service: SampleService):
    classifier = service.load(endpoint={"rate": 20, "batch": 1})
    started = time.monotonic()
    classifier(IMAGES)
    assert 0.2 <= time.monotonic() - started < 2


def test_credentials_are_sent_and_never_shown(service: SampleService, monkeypatch: pytest.MonkeyPatch):
    secret = service.url.replace("http://", "http://me:hush%21@") + "?key=hidden"
    classifier = service.load(secret)
    classifier(IMAGES)
    assert service.requests[-1]["Authorization"] == f"Basic {base64.b64encode(b'me:hush!').decode()}"
    assert service.requests[-1]["path"] == "/predict?key=hidden"
    service.planned_answers = [(404, b"", {})]
    with pytest.raises(ModelError) as caught:
        classifier(IMAGES)
    shown = f"{caught.value} {classifier.name} {classifier.provenance} {classifier.notes}"
    assert service.url in shown
    assert not any(word in shown for word in ("hush", "hidden", "me:"))
    assert remove_credentials("torchvision:resnet18") == "torchvision:resnet18"
    monkeypatch.setenv("SERVICE_TOKEN", "abc ")
    service.load(endpoint={"token": "SERVICE_TOKEN"})(IMAGES)
    assert service.requests[-1]["Authorization"] == "Bearer abc"
    with pytest.raises(ConfigError, match="the environment variable NO_SUCH is not set"):
        service.load(endpoint={"token": "NO_SUCH"})


def test_the_digest_follows_the_url_and_the_first_answers(service: SampleService):
    def digest(url: str | None = None, **options: object) -> str:
        classifier = service.load(url, **options)
        classifier(IMAGES)
        return classifier.compute_digest()

    first = digest()
    assert digest(endpoint={"rate": 500, "timeout": 3}) == first
    others = {digest(endpoint={"format": "png"}), digest(f"{service.url}?version=2")}
    service.answer = lambda scores: {"scores": (-scores).tolist()}
    others.add(digest())
    assert len(others | {first}) == 4


def test_what_makes_no_sense_for_a_service_is_refused(service: SampleService):
    for url, options, message in (
        (service.url, {"weights": "w.pt"}, "a service takes no weights"),
        (service.url, {"access": "gradients"}, "a service gives no gradients"),
        (service.url, {"endpoint": {"timout": 3}}, "unknown key 'timout'. Did you mean timeout"),
        (service.url, {"endpoint": {"rate": 0}}, "rate: input should be greater than 0"),
        ("http://", {}, "not a URL with a host"),
        ("http://host:99999/", {}, "not a URL with a host"),
        ("http://ho st/", {}, "not a URL with a host"),
    ):
        with pytest.raises(ConfigError, match=message):
            service.load(url, **options)
    with pytest.raises(ConfigError, match="number of classes is unknown"):
        load_classifier(service.url)
