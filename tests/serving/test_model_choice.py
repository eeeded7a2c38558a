"""Which models are served: sources, weights files, entries of a grid file, defenses around them."""

from __future__ import annotations

import pickle

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra web")
from serving_samples import MeanColor, make_model

from robustbench_local.classifier import Classifier
from robustbench_local.data.decode import DecodedImage
from robustbench_local.errors import ConfigError
from robustbench_local.serving.image_upload import Upload, UploadedImage, fit_channels
from robustbench_local.serving.model_choice import ModelChoice, choose_models
from robustbench_local.serving.prediction import read_answers
from robustbench_local.serving.served_model import (
    ServedModel,
    check_same_classes,
    find_channels,
    find_input_size,
)

pytestmark = pytest.mark.extra
GRID = """
data: {source: signs}
models:
  - id: one
    source: "zoo:signs-plain"
    normalize: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
    input_size: 32
  - {id: two, source: "zoo:signs-ibp"}
attacks: [fgsm-linf-8]
"""


def test_a_grid_file_gives_its_entries(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    first, second = choose_models(str(file), model_id="one", compare="two", settings={"num_classes": 43})
    assert (first.name, first.source, second.name) == ("one", "zoo:signs-plain", "two")
    assert first.base_folder == tmp_path
    loaded = pickle.loads(pickle.dumps(first)).load()  # as the process of the attacks does
    assert loaded.normalization == ((0.5,) * 3, (0.2,) * 3)
    assert (loaded.input_size, loaded.num_classes, loaded.name) == ((32, 32), 43, "one")
    outside = choose_models(str(file), model_id="one", compare="zoo:signs-pgd-at", settings={})[1]
    assert outside.source == "zoo:signs-pgd-at"
    with pytest.raises(ConfigError, match=r"has 2 models. Name one with --model: one, two"):
        choose_models(str(file), settings={})
    with pytest.raises(ConfigError, match=r"has no model 'on'. Did you mean one"):
        choose_models(str(file), model_id="on", settings={})


def test_a_defense_beside_alone_is_one_around_the_same_model():
    plain, defended = choose_models("zoo:signs-plain", compare_defense="jpeg-75", settings={})
    assert (plain.name, plain.defense) == ("zoo:signs-plain", None)
    assert (defended.name, defended.defense) == ("zoo:signs-plain + jpeg-75", "jpeg-75")
    (only,) = choose_models("runs/net.safetensors", defense="none", settings={})
    assert (only.name, only.source, only.defense) == ("net", "checkpoint:runs/net.safetensors", None)


def test_a_smoothed_model_answers_by_vote_and_always_the_same():
    choice = ModelChoice(name="smooth", source="zoo:signs-gaussian-0.25", defense="smoothing-0.25")
    model = ServedModel(choice, choice.load())
    assert model.size == (32, 32)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = (
        read_answers(model, model.compute_logits(images)) for images in (image, torch.cat([image] * 2))
    )
    assert one[0] == other[0] == other[1]
    assert sum(one[0].probabilities) == pytest.approx(1)
    votes = [100 * share for share in one[0].probabilities]
    assert votes == pytest.approx([round(vote) for vote in votes], abs=1e-4)
    assert (type(model.certificate.certificate).__name__, model.certificate.threat.eps) == ("Smoothing", 0.25)


def test_size_and_channels_come_from_the_model_or_the_user():
    unknown = Classifier(MeanColor().eval(), num_classes=3, name="unknown")
    with pytest.raises(ConfigError, match=r"the size of its images is not known. Give the size"):
        find_input_size(unknown)
    assert find_channels(unknown) == 3
    gray = Classifier(MeanColor().eval(), num_classes=3, provenance={"architecture": "mnist_fast"})
    assert (find_input_size(gray), find_channels(gray)) == ((28, 28), 1)
    stretched = make_model(resize="stretch", size=(8, 16))
    assert (stretched.size, stretched.contract.resize) == ((8, 16), (8, 16))


def test_color_becomes_gray_where_a_model_takes_one_channel():
    pixels = torch.tensor([[[255, 0, 0], [0, 255, 0]]], dtype=torch.uint8).numpy()
    gray, notes = fit_channels(pixels, 1)
    assert gray.tolist() == [[[76], [150]]]
    assert notes == ("color, converted to gray",)
    image = UploadedImage(Upload("image 1", b""), DecodedImage(pixels).pixels, ())
    assert make_model().prepare_image(image).is_enlarged


def test_models_of_other_classes_are_not_compared():
    with pytest.raises(ConfigError, match="other has other classes than colors"):
        check_same_classes(make_model(), make_model(name="other", class_names=("a", "b", "c")))
