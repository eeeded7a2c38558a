"""What a training starts from: any source of models, its preprocessing, a head for the classes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.config import cards
from robustbench_local.defenses.recipes.recipe_registry import read_recipe
from robustbench_local.defenses.training.initial_networks import (
    NormalizedNetwork,
    build_teacher_loader,
    load_initial_network,
)
from robustbench_local.defenses.training.provenance import write_weights
from robustbench_local.defenses.training.training_result import Score, TrainingResult
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.weights_card import find_card


def _weights(start):
    return start.module.network.state_dict()


def test_initial_weights_belong_to_the_seed():
    first, again, other = (
        load_initial_network("signs_resnet", num_classes=5, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(_weights(first)["head.weight"], _weights(again)["head.weight"])
    assert not torch.equal(_weights(first)["stem.weight"], _weights(other)["stem.weight"])
    assert (first.architecture, first.origin) == ("signs_resnet", {})
    assert _weights(first)["head.weight"].shape[0] == 5


def test_the_network_sees_what_its_classifier_sees():
    """Resized, reordered and normalised inside, as the Classifier that loads the weights later does."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    contract = InputContract(
        input_size=(8, 8),
        resize=10,
        interpolation="bicubic",
        channel_order="bgr",
        value_scale=255,
        normalization=((104.0, 117.0, 124.0), (58.0, 57.0, 59.0)),
    )
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(module, num_classes=4, preprocessing=contract)
    network = NormalizedNetwork(module, contract)
    assert torch.allclose(network(images), classifier(images), atol=1e-6)


def test_weights_of_other_classes_get_a_new_head(tmp_path):
    state = load_classifier("zoo:signs-plain").module.state_dict()
    save_file({name: one.contiguous() for name, one in state.items()}, tmp_path / "net.safetensors")
    start = load_initial_network(
        "signs_resnet", weights="net.safetensors", num_classes=3, seed=0, base_folder=tmp_path
    )
    assert torch.equal(_weights(start)["stem.weight"], state["stem.weight"])
    assert _weights(start)["head.weight"].shape[0] == 3
    assert start.origin["weights"] == "net.safetensors"
    assert all(one.requires_grad for one in start.module.parameters())


@pytest.mark.parametrize("name", ["signs-plain", "zoo:signs-plain"])
def test_a_teacher_is_frozen_and_answers_as_it_is(name):
    teacher = build_teacher_loader(torch.device("cpu"))(name)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(teacher(images), load_classifier("zoo:signs-plain")(images), atol=1e-5)
    assert not teacher.training
    assert not any(one.requires_grad for one in teacher.parameters())


def test_a_network_without_a_last_linear_layer_is_named(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef net():\n    made = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Flatten())\n"
        "    made.num_classes = 7\n    return made\n"
    )
    with pytest.raises(ModelError, match="no last layer of 7 outputs"):
        load_initial_network(
            "python:net.py:net", num_classes=3, seed=0, allow_code=True, base_folder=tmp_path
        )


def test_a_network_that_returns_no_logits_is_named():
    module = NormalizedNetwork(nn.Conv2d(3, 2, 1), InputContract())
    with pytest.raises(ModelError, match="not logits"):
        module(torch.zeros(1, 3, 4, 4))


def test_an_unknown_network_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match="signs_resnet"):
        load_initial_network("sings_resnet", num_classes=3, seed=0)


def test_a_damaged_card_beside_weights_says_what_to_do(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"")
    assert find_card("net.safetensors", tmp_path) is None
    (tmp_path / "net.yaml").write_text("schema: 1\nname: other\n")
    with pytest.raises(ModelError, match=r"net\.yaml.*[Rr]emove it"):
        find_card("net.safetensors", tmp_path)


def test_the_card_of_trained_weights_keeps_their_preprocessing(tmp_path):
    changes = {"channel_order": "bgr", "value_scale": 255, "resize": [36, 34], "interpolation": "bicubic"}
    normalize = ((102.0,) * 3, (64.0,) * 3)
    start = load_initial_network(
        "zoo:signs-plain",
        num_classes=43,
        seed=0,
        normalize=normalize,
        input_size=(32, 32),
        preprocessing=changes,
    )
    card = cards.find_card("standard", kind="defense")
    score = Score(epoch=1, clean=1.0, robust=0.5)
    write_weights(
        tmp_path / "mine.safetensors",
        start,
        card=card,
        recipe=read_recipe(card),
        trained=TrainingResult(state=start.module.network.state_dict(), best=score, seconds=1.0),
        class_names=[str(number) for number in range(43)],
        data={},
        measured=[],
        seed=0,
        command="rbl train",
    )
    again = load_classifier(f"checkpoint:{tmp_path / 'mine.safetensors'}")
    assert again.contract == start.contract
    assert again.contract.resize == (36, 34)
    images = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(images), start.module.eval()(images), rtol=0, atol=1e-5)
