"""Attacks and certificates through the API: verified results, the label used, every model by itself."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

for library in ("fastapi", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(library, reason="needs the extra web")
from fastapi.testclient import TestClient
from serving_samples import RED, MeanColor, encode_image, make_application, make_model

from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.serving.app import create_app
from robustbench_local.serving.certificate_choice import build_served_certificate, find_certificate
from robustbench_local.serving.stress import build_pictures
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.extra
CLOSE = encode_image((110, 100, 100))
"""Red leads by 10/255."""


@pytest.fixture(scope="module")
def client():
    models = [make_model(certificate="certify-ibp-linf-4"), make_model(MeanColor(0.001).eval(), name="calm")]
    with TestClient(create_app(make_application(*models, rate=0)), base_url="http://localhost") as opened:
        yield opened


def attack(client, content=CLOSE, **fields):
    return client.post("/attack", files={"image": content}, params=fields)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "square"])
@pytest.mark.parametrize(("eps", "outcome"), [("8/255", "success"), ("4/255", "failure")])
def test_an_attack_succeeds_exactly_above_the_distance_of_the_border(client, method, eps, outcome):
    found = attack(client, attack=method, eps=eps, steps=20).json()
    assert found["label_origin"] == "predicted"
    first, second = found["results"]
    assert (first["model"], second["model"]) == ("colors", "calm")
    assert first["outcome"] == second["outcome"] == outcome  # the border does not depend on the scale
    assert first["label"] == {"index": 0, "name": "red"}
    assert first["measured"]["linf"] <= float(eps.partition("/")[0]) / 255 + 1e-6
    assert first["measured"]["forward_passes"] > 0
    assert first["transferred"] is None
    assert second["transferred"]["from"] == "colors"
    if outcome == "success":
        assert first["adversarial"]["name"] != "red"
        assert "The attack succeeds, verified" in first["statement"]
    else:
        assert first["adversarial"]["name"] == "red"
        assert "That is no proof" in first["statement"]


def test_a_target_and_a_chosen_label(client):
    found = attack(client, target=["blue"], eps="20/255").json()["results"][0]
    assert (found["outcome"], found["adversarial"]["name"]) == ("success", "blue")
    assert "misclassified as blue, a target" in found["statement"]
    wrong = attack(client, label="green").json()
    assert wrong["label_origin"] == "chosen"
    assert wrong["results"][0]["outcome"] == "misclassified"
    same = attack(client, target=["red", "blue"]).json()["results"][0]
    assert same["outcome"] == "not attacked"
    assert same["pictures"] is None


def test_a_corruption_and_a_budget_of_zero(client):
    foggy = attack(client, threat="brightness", severity=2).json()["results"][0]
    assert foggy["threat"] == "brightness-2"
    none = attack(client, eps="0").json()["results"][0]
    assert (none["outcome"], none["measured"]["linf"]) == ("failure", 0)


def test_the_pictures_show_the_difference_at_the_stated_scale():
    image = torch.full((1, 3, 4, 4), 0.5)
    example = image.clone()
    example[0, 0, 0, 0] += 8 / 255
    found = build_pictures(image, example)
    assert found["amplification"] == 15
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["difference"].partition(",")[2]))))
    assert pixels[0, 0].tolist() == [248, 128, 128]
    assert build_pictures(image, image)["amplification"] == 64


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"eps": "nan"}, 422, "eps is 'nan'"),
        ({"steps": "101"}, 422, "from 1 to 100"),
        ({"unknown": "1"}, 422, "there is no parameter 'unknown'"),
    ],
)
def test_wrong_attacks_are_refused(client, fields, status, text):
    response = attack(client, **fields)
    assert response.status_code == status
    assert text in response.json()["detail"]


def test_attacks_need_one_image_and_can_be_switched_off(client):
    two = [("image", ("a.png", RED)), ("image", ("b.png", RED))]
    assert client.post("/attack", files=two).status_code == 422
    app = create_app(make_application(make_model(), has_attacks=False))
    with TestClient(app, base_url="http://localhost") as closed:
        assert attack(closed).status_code == 404
        assert closed.get("/model").json()["limits"]["attacks"] is False


def test_an_attack_that_a_model_does_not_support_is_an_error_of_the_request():
    blind = make_model(MeanColor().eval(), access="scores")
    with TestClient(create_app(make_application(blind)), base_url="http://localhost") as client:
        response = attack(client)
        assert response.status_code == 422
        assert "gradients" in response.json()["detail"]
        assert attack(client, attack="square", eps="8/255").json()["results"][0]["outcome"] == "success"


def test_a_certificate_holds_where_no_attack_succeeds(client):
    def certify(content):
        return client.post("/certify", files={"image": content}).json()

    sure, unsure = certify(CLOSE), certify(encode_image((106, 100, 100)))
    assert (sure["certified"], sure["class"]["name"], sure["concerns"]) == (True, "red", "model")
    assert sure["statement"] == "Certified: red within linf-4."
    assert unsure["certified"] is False  # red leads by 6/255, and the ball takes 8/255 of it
    assert "Not certified" in unsure["statement"]
    assert client.get("/model").json()["model"]["certificate"]["threat"] == "linf-4"


def test_smoothing_gives_a_radius_for_the_vote():
    model = make_model(MeanColor(100.0).eval(), certificate="certify-smoothing-sequential-l2-0.25")
    with TestClient(create_app(make_application(model)), base_url="http://localhost") as client:
        found = client.post("/certify", files={"image": RED}).json()
        assert (found["concerns"], found["radius"]) == ("smoothed", 0.25)
        assert "with probability 0.999" in found["certificate"]["caveat"]


def test_without_a_certificate_nothing_is_certified():
    with TestClient(create_app(make_application(make_model())), base_url="http://localhost") as client:
        response = client.post("/certify", files={"image": RED})
        assert response.status_code == 404
        assert "--certificate" in response.json()["detail"]


def test_the_certificate_of_a_weights_card_is_found():
    model = make_model(provenance={"measured": [
        {"attack": "none", "n": 10},
        {"certificate": "ibp", "norm": "Linf", "eps": 2 / 255},
        {"certificate": "smoothing", "sigma": 0.25, "alpha": 0.01, "norm": "L2", "eps": 0.5},
    ]})  # fmt: skip
    found = model.certificate.certificate
    assert (type(found).__name__, found.sigma, found.alpha, found.n) == ("Smoothing", 0.25, 0.01, 1000)
    assert model.certificate.threat == ThreatModel(norm="L2", eps=0.5)
    own = make_model(provenance={"measured": [{"certificate": "ibp", "norm": "Linf", "eps": 2 / 255}]})
    assert own.certificate == build_served_certificate(IBP(), ThreatModel(norm="Linf", eps=2 / 255))
    assert find_certificate(make_model().classifier) is None
    # a card whose certificate does not fit the model is left out
    beyond = {"certificate": "smoothing", "sigma": 0.25, "norm": "L2", "eps": 5.0}
    assert make_model(provenance={"measured": [beyond]}).certificate is None
